//! What a run needs to go on exactly where it was: `checkpoint-N` directories that are whole or absent.
//!
//! Beside what is saved for use (a PEFT adapter, or a model) a checkpoint holds `optimizer.safetensors`, the
//! variables in f32 and the optimiser's moments, and `training_state.json`, the rest, with the checksum of every
//! file. Dropout and the data's order follow from the seed, the step and the place in the data.

use super::checkpoint::Checkpoint;
use super::data::Cursor;
use super::optim::{AdamW, Moment};
use super::progress::Progress;
use crate::error::{Error, Result};
use crate::load::safetensors::stage_views;
use crate::load::{Weights, atomic};
use crate::models::Model;
use candle_core::{DType, Device, Tensor, Var};
use safetensors::tensor::{Dtype, View};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const STATE: &str = "training_state.json";
const TENSORS: &str = "optimizer.safetensors";
const FORMAT: u32 = 1;

/// What a checkpoint knows of its run, the tensors excepted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    format: u32,
    /// How far the run was.
    pub progress: Progress,
    /// The steps it was to make.
    pub iters: usize,
    /// The updates of the optimiser, which are fewer than the steps if some were passed over.
    pub updates: u64,
    /// The place in the data.
    pub cursor: Cursor,
    /// The length of `metrics.jsonl`.
    pub metrics_bytes: u64,
    /// What the run was made of, by name.
    pub fingerprint: BTreeMap<String, String>,
    /// The other files of the checkpoint.
    files: BTreeMap<String, Sum>,
}

/// The size and the CRC-32 of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sum {
    bytes: u64,
    crc32: u32,
}

impl Sum {
    fn of(path: &Path) -> Result<Sum> {
        let mut file = std::fs::File::open(path).map_err(Error::io(path))?;
        let (mut hasher, mut buffer, mut bytes) = (crc32fast::Hasher::new(), vec![0; 1 << 20], 0);
        loop {
            match std::io::Read::read(&mut file, &mut buffer).map_err(Error::io(path))? {
                0 => return Ok(Sum { bytes, crc32: hasher.finalize() }),
                n => {
                    hasher.update(&buffer[..n]);
                    bytes += n as u64;
                }
            }
        }
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes with checksum {:08x}", self.bytes, self.crc32)
    }
}

/// `training_state.json`: the state, and the CRC-32 of its text.
#[derive(Serialize, Deserialize)]
struct Signed {
    crc32: u32,
    state: serde_json::Value,
}

impl State {
    /// A state that has not been saved.
    pub fn new(
        progress: Progress,
        iters: usize,
        cursor: Cursor,
        metrics_bytes: u64,
        fingerprint: BTreeMap<String, String>,
    ) -> State {
        State {
            format: FORMAT,
            progress,
            iters,
            updates: 0,
            cursor,
            metrics_bytes,
            fingerprint,
            files: BTreeMap::new(),
        }
    }

    /// Writes a checkpoint as the directory `dir`, in place of one that is there.
    ///
    /// # Errors
    ///
    /// When it cannot be written; `dir` is then as it was.
    pub fn save(
        mut self,
        dir: &Path,
        checkpoint: &Checkpoint,
        model: &Model,
        vars: &[(String, Var)],
        optimizer: &AdamW,
    ) -> Result<()> {
        self.updates = optimizer.updates();
        atomic::replace_dir(dir, |temporary| {
            checkpoint.save(model, temporary)?;
            let tensors = vars.iter().zip(optimizer.moments()?).flat_map(|((name, var), [m, v])| {
                let (dims, values) = (var.dims().to_vec(), var.as_detached_tensor());
                [
                    (format!("variable.{name}"), Saved::Tensor(values)),
                    (format!("exp_avg.{name}"), saved(dims.clone(), m)),
                    (format!("exp_avg_sq.{name}"), saved(dims, v)),
                ]
            });
            stage_views(&temporary.join(TENSORS), tensors, &[])?.commit()?;
            for entry in std::fs::read_dir(temporary).map_err(Error::io(temporary))? {
                let entry = entry.map_err(Error::io(temporary))?;
                self.files.insert(entry.file_name().to_string_lossy().into(), Sum::of(&entry.path())?);
            }
            let path = temporary.join(STATE);
            let text = sign(&self).map_err(|source| json_error(&path, source))?;
            atomic::write(&path, text)
        })
    }

    /// Reads the state of a checkpoint, and checks that all its files are what was written.
    ///
    /// # Errors
    ///
    /// When a file is missing or has changed.
    pub fn open(dir: &Path) -> Result<State> {
        let state = State::read(dir)?;
        for (name, wanted) in &state.files {
            let path = dir.join(name);
            let found = Sum::of(&path)?;
            if found != *wanted {
                let path = path.display().to_string();
                return Err(Error::wants(path, format!("the {wanted} that were saved"), found.to_string()));
            }
        }
        Ok(state)
    }

    fn read(dir: &Path) -> Result<State> {
        let path = dir.join(STATE);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let parsed = serde_json::from_str::<Signed>(&text);
        let Signed { crc32, state } = parsed.map_err(|source| json_error(&path, source))?;
        // Everything in it is a string or a whole number, which are written again as they were read.
        if crc32fast::hash(state.to_string().as_bytes()) != crc32 {
            return Err(Error::wants(path.display().to_string(), "the state that was saved", "another text"));
        }
        let state: State = serde_json::from_value(state).map_err(|source| json_error(&path, source))?;
        if state.format != FORMAT {
            let wants = format!("a state of format {FORMAT}");
            return Err(Error::wants(path.display().to_string(), wants, state.format.to_string()));
        }
        Ok(state)
    }

    /// Whether the weights in `output` are those of this checkpoint.
    fn is_result(&self, output: &Path) -> bool {
        let weights =
            self.files.iter().filter(|(name, _)| name.ends_with(".safetensors") && *name != TENSORS);
        weights
            .into_iter()
            .all(|(name, wanted)| Sum::of(&output.join(name)).is_ok_and(|found| found == *wanted))
    }

    /// Gives the variables and the optimiser the values that the checkpoint in `dir` holds.
    ///
    /// # Errors
    ///
    /// When it holds others: all are listed.
    pub fn restore(&self, dir: &Path, vars: &[(String, Var)], optimizer: &mut AdamW) -> Result<()> {
        let weights = Weights::open_file(&dir.join(TENSORS))?;
        const KINDS: [&str; 3] = ["variable", "exp_avg", "exp_avg_sq"];
        let wanted: Vec<_> = vars
            .iter()
            .flat_map(|(name, var)| KINDS.map(|kind| (format!("{kind}.{name}"), var.shape().clone())))
            .collect();
        weights.check(&wanted)?;
        let mut moments = Vec::with_capacity(vars.len());
        for (name, var) in vars {
            let get = |kind: &str, device: &Device| {
                weights.get(&format!("{kind}.{name}"), var.shape(), DType::F32, device)
            };
            var.set(&get(KINDS[0], var.device())?)?;
            let moment =
                |kind: &str| -> Result<Vec<f32>> { Ok(get(kind, &Device::Cpu)?.flatten_all()?.to_vec1()?) };
            moments.push([moment(KINDS[1])?, moment(KINDS[2])?]);
        }
        Ok(optimizer.restore(self.updates, moments)?)
    }
}

fn json_error(path: &Path, source: serde_json::Error) -> Error {
    Error::Json { path: path.to_path_buf(), wants: "the state of a training run", source }
}

fn sign(state: &State) -> serde_json::Result<String> {
    let state = serde_json::to_value(state)?;
    let crc32 = crc32fast::hash(state.to_string().as_bytes());
    serde_json::to_string_pretty(&Signed { crc32, state })
}

/// A tensor to be saved; a moment is not copied before its turn has come.
enum Saved<'a> {
    Tensor(Tensor),
    Moment(Vec<usize>, &'a [f32]),
}

fn saved(dims: Vec<usize>, moment: Moment<'_>) -> Saved<'_> {
    match moment {
        Moment::Cpu(values) => Saved::Moment(dims, values),
        Moment::Gpu(tensor) => Saved::Tensor(tensor),
    }
}

impl View for Saved<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Saved::Tensor(tensor) => View::dtype(&tensor),
            Saved::Moment(..) => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Saved::Tensor(tensor) => tensor.dims(),
            Saved::Moment(dims, _) => dims,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Saved::Tensor(tensor) => Cow::Owned(tensor.data().into_owned()),
            Saved::Moment(_, values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Saved::Tensor(tensor) => tensor.data_len(),
            Saved::Moment(_, values) => 4 * values.len(),
        }
    }
}

/// The step of a checkpoint, if a directory of this name is one.
pub fn step_of(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("checkpoint-")?;
    if digits.chars().all(|c| c.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// The checkpoints in a run's directory, newest first: each with its step.
///
/// # Errors
///
/// When the directory is there and cannot be read.
pub fn checkpoints(output: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let entries = match std::fs::read_dir(output) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(output))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(output))?.path();
        let step = path.file_name().and_then(|name| step_of(name.to_str()?));
        if path.is_dir() {
            found.extend(step.map(|step| (step, path)));
        }
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// The newest checkpoint that is whole, with what is wrong with each newer one; none if there is no state at all.
///
/// # Errors
///
/// When there are states, and none of them is whole.
pub fn newest(output: &Path) -> Result<Option<(PathBuf, State, Vec<String>)>> {
    let mut notes = Vec::new();
    for (_, dir) in checkpoints(output)? {
        if !dir.join(STATE).is_file() {
            continue;
        }
        match State::open(&dir) {
            Ok(state) => return Ok(Some((dir, state, notes))),
            Err(error) => notes.push(error.to_string()),
        }
    }
    match notes.is_empty() {
        true => Ok(None),
        false => {
            Err(Error::wants(output.display().to_string(), "a checkpoint to resume from", notes.join("; ")))
        }
    }
}

/// The state of the checkpoint `dir` of a run's directory.
///
/// # Errors
///
/// When it holds only what is for use, with the names of those that hold more; and as [`State::open`].
pub fn open(dir: &Path) -> Result<State> {
    if dir.join(STATE).is_file() {
        return State::open(dir);
    }
    let output = dir.parent().filter(|output| !output.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let others: Vec<_> =
        checkpoints(output)?.into_iter().filter(|(_, dir)| dir.join(STATE).is_file()).collect();
    let names: Vec<String> = others.iter().map(|(step, _)| format!("checkpoint-{step}")).collect();
    let got = match names.is_empty() {
        true => "one with weights alone, as all beside it".to_string(),
        false => format!("one with weights alone: {} can be gone on from", names.join(", ")),
    };
    Err(Error::wants(dir.display().to_string(), format!("a checkpoint with {STATE}"), got))
}

/// The newest checkpoint of a run that was to go on: it had steps to make, or its result is not there.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn unfinished(output: &Path) -> Result<Option<State>> {
    let newest = checkpoints(output)?.into_iter().find_map(|(_, dir)| State::read(&dir).ok());
    Ok(newest.filter(|state| state.progress.step < state.iters || !state.is_result(output)))
}

/// Takes the state out of the checkpoints that `which` names by their steps; what is saved for use stays.
///
/// # Errors
///
/// When a file cannot be removed.
pub fn drop_states(output: &Path, which: impl Fn(usize) -> bool) -> Result<()> {
    for (step, dir) in checkpoints(output)? {
        for path in [STATE, TENSORS].map(|name| dir.join(name)) {
            if which(step) && path.is_file() {
                std::fs::remove_file(&path).map_err(Error::io(&path))?;
            }
        }
    }
    Ok(())
}

/// Keeps the newest of the checkpoints up to `step`: `limit` of them, or all, with the states of the newest two.
/// Those above are of a run that was left when this one went on from an earlier step: they lose their states.
///
/// # Errors
///
/// When one cannot be removed.
pub fn prune(output: &Path, step: usize, limit: Option<usize>) -> Result<()> {
    let all: Vec<_> = checkpoints(output)?.into_iter().filter(|(of, _)| *of <= step).collect();
    let kept: Vec<usize> =
        all.iter().take(limit.map_or(2, |limit| limit.max(1))).map(|(of, _)| *of).collect();
    drop_states(output, |of| !kept.contains(&of))?;
    match limit {
        None => Ok(()),
        Some(_) => all.iter().skip(kept.len()).try_for_each(|(_, dir)| atomic::remove_dir(dir)),
    }
}
