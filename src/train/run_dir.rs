//! The directory of a run: held by one process at a time, begun anew or gone on in.

use super::fingerprint::compare;
use super::lock::Lock;
use super::resume::{self, State};
use crate::error::{Error, Result};
use crate::load::{atomic, is_companion};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How a run begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At step 1, in a directory without a run that was to go on.
    #[default]
    New,
    /// At step 1, in place of any run.
    Overwrite,
    /// After the newest whole checkpoint, or at step 1 if nothing is there that a run has made for use.
    Resume,
    /// After the newest whole checkpoint, which must be there.
    ResumeNewest,
    /// After this checkpoint of the directory.
    ResumeFrom(PathBuf),
}

/// The files that a run stages in its directory, beside those that come with a model.
const WRITTEN: [&str; 4] =
    ["adapter_model.safetensors", "adapter_config.json", "model.safetensors", "report.html"];

/// A run's directory, locked until this is dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    from: Option<(PathBuf, State)>,
    notes: Vec<String>,
    _lock: Lock,
}

impl RunDir {
    /// Takes a directory, which is made if need be, for one run. Nothing that is whole changes in it.
    ///
    /// # Errors
    ///
    /// When it cannot be written, another process holds it, a run in it was to go on and `start` is
    /// [`Start::New`], or there is nothing to go on from where there should be.
    pub fn open(path: &Path, start: &Start) -> Result<RunDir> {
        let lock = Lock::take(path)?;
        let directory = |name: &str| name == "best" || resume::step_of(name).is_some();
        atomic::recover(path, directory, |name| WRITTEN.contains(&name) || is_companion(name))?;
        let mut notes = Vec::new();
        let from = match start {
            Start::Overwrite => None,
            Start::New => match resume::unfinished(path)? {
                None => None,
                Some(state) => {
                    let wants = "--resume to go on with its run, or --overwrite to begin again";
                    let got = format!(
                        "neither, and a run saved after step {} of {}{}",
                        state.progress.step,
                        state.iters,
                        if state.progress.step < state.iters { "" } else { ", without its result" }
                    );
                    return Err(Error::wants(path.display().to_string(), wants, got));
                }
            },
            Start::Resume | Start::ResumeNewest => match resume::newest(path)? {
                Some((dir, state, broken)) => {
                    let passed_over = |error| format!("{error}; passing over this checkpoint");
                    notes = broken.into_iter().map(passed_over).collect();
                    Some((dir, state))
                }
                None => {
                    if let Some(got) = result_in(path, *start == Start::ResumeNewest)? {
                        let wants = "a checkpoint to resume from, or --overwrite to begin again";
                        return Err(Error::wants(path.display().to_string(), wants, got));
                    }
                    notes.push(format!("{}: no checkpoint to resume from: begins at step 1", path.display()));
                    None
                }
            },
            Start::ResumeFrom(dir) => Some((dir.clone(), resume::open(dir)?)),
        };
        Ok(RunDir { path: path.to_path_buf(), from, notes, _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoint that the run goes on from, with its state.
    pub fn from(&self) -> Option<(&Path, &State)> {
        self.from.as_ref().map(|(dir, state)| (dir.as_path(), state))
    }

    /// What its user should know: checkpoints that are not whole, and were passed over.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Compares the run that is to go on with the one that is asked for.
    ///
    /// # Errors
    ///
    /// The names of all that differ, or fewer steps than were done.
    pub fn check(&self, made_of: &BTreeMap<String, String>, iters: usize) -> Result<()> {
        let Some((dir, state)) = self.from() else { return Ok(()) };
        if iters < state.progress.step {
            let wants = format!("at least the {} steps that were done", state.progress.step);
            return Err(Error::wants(format!("{}: iters", dir.display()), wants, iters.to_string()));
        }
        compare(dir, &state.fingerprint, made_of, iters == state.iters)
    }
}

/// What stands against beginning anew in a directory without a checkpoint to go on from; `named` if it was to have
/// one. The `metrics.jsonl` of a run that was killed before it saved anything does not: there is nothing to lose.
fn result_in(path: &Path, named: bool) -> Result<Option<String>> {
    let made = WRITTEN.iter().find(|name| path.join(name).is_file());
    Ok(match (made, resume::checkpoints(path)?.first()) {
        (_, Some((step, _))) => Some(format!("checkpoints with weights alone, such as checkpoint-{step}")),
        (Some(name), None) => Some(format!("{name} alone")),
        (None, None) if named => Some("none".to_string()),
        (None, None) => None,
    })
}
