//! Everything that can go wrong around a training run: one clear message each, and nothing good is lost.

use super::{Place, ended, jsonl, rows, wait_for};
use candle_core::{Device, Tensor};
use std::collections::HashMap;

const RUN: &str = "train --model model --data data --steps-per-report 1 --save-every 2 --adapter-path out";

fn place() -> Place {
    let place = Place::new();
    place.model("llama").write("data/train.jsonl", rows("text"));
    place
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_what_was_saved() {
    let place = place();
    std::fs::create_dir(place.path("out")).unwrap();
    std::os::unix::fs::symlink("/dev/full", place.path("out/metrics.jsonl")).unwrap();
    let error = place.run(&format!("{RUN} --iters 2")).error();
    assert!(error.starts_with("out/metrics.jsonl: No space left on device"), "{error}");
    assert!(error.ends_with("make room, or write elsewhere with --adapter-path"), "{error}");
    std::fs::remove_file(place.path("out/metrics.jsonl")).unwrap();

    // Writes beyond a limit fail as those to a full disk do: here, those of the optimiser's state.
    place.run(&format!("{RUN} --iters 4")).ok();
    let state = std::fs::metadata(place.path("out/checkpoint-4/optimizer.safetensors")).unwrap().len();
    let before = std::fs::read(place.path("out/adapter_model.safetensors")).unwrap();
    let blocks = state / 2 / 512;
    let error =
        place.shell(&format!("trap '' XFSZ; ulimit -f {blocks}; exec $BIN {RUN} --iters 8 --resume")).error();
    assert!(error.starts_with("out/checkpoint-6.tmp/optimizer.safetensors: "), "{error}");
    assert!(error.ends_with("what was saved before is whole: make room, then add --resume"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(!place.path("out/checkpoint-6.tmp").exists() && !place.path("out/checkpoint-6").exists());
    assert_eq!(std::fs::read(place.path("out/adapter_model.safetensors")).unwrap(), before);
    let resumed = place.run(&format!("{RUN} --iters 8 --resume")).ok();
    assert!(resumed.stdout.contains("Resumed from out/checkpoint-4"), "{}", resumed.stdout);
}

#[test]
#[cfg(target_os = "linux")]
fn a_directory_that_cannot_be_written_is_known_before_training() {
    let place = place();
    place.write("a_file", "");
    // Not even root writes to /proc.
    for dir in ["/proc/out", "/proc/self", "a_file", "a_file/out"] {
        let ended = place.run(&RUN.replace("--adapter-path out", &format!("--adapter-path {dir}")));
        assert!(!ended.stdout.contains("Iter 1"), "{}", ended.stdout);
        let error = ended.error();
        assert!(error.starts_with(&format!("{dir}: wants a directory that can be written, got ")), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn data_that_is_removed_stops_no_run_that_has_read_it() {
    let place = place();
    let line = format!("{RUN} --iters 400");
    let mut child = place.start(&line.split_whitespace().collect::<Vec<_>>());
    wait_for(&mut child, "Iter 2: Train loss");
    std::fs::remove_dir_all(place.path("data")).unwrap();
    assert!(ended(child).ok().stdout.contains("Iter 400: Train loss"));
    let error = place.run(&format!("{line} --resume")).error();
    assert!(
        error.starts_with("data: wants a JSONL file, or a directory with train.jsonl, got no such"),
        "{error}"
    );
}

#[test]
fn one_run_at_a_time_in_a_directory() {
    let place = place();
    let line = format!("{RUN} --iters 1000000");
    let args: Vec<&str> = line.split_whitespace().collect();
    let mut child = place.start(&args);
    wait_for(&mut child, "Saved out/checkpoint-2");
    let error = place.run(&format!("{RUN} --iters 2 --overwrite")).error();
    let holder = format!("out: wants no other run writing to it, got process {}", child.id());
    assert!(error.starts_with(&holder) && error.lines().count() == 1, "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    place.run(&format!("{RUN} --iters 2 --overwrite")).ok();
    assert!(!place.path("out/.lock").exists());
}

/// Gives the embedding of `text`'s one token, which is in line 5 of the data alone, no number.
fn poison(place: &Place, text: &str) {
    let tokenizer = metal_candle::load::ModelDir::at(place.path("model")).tokenizer().unwrap();
    let ids = tokenizer.encode(text, false).unwrap();
    let token = *ids.last().unwrap() as usize;
    let path = place.path("model/model.safetensors");
    let mut tensors: HashMap<String, Tensor> = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let table = tensors.get_mut("model.embed_tokens.weight").unwrap();
    let (dtype, (vocab, _)) = (table.dtype(), table.dims2().unwrap());
    let factor = (0..vocab).map(|id| if id == token { f32::NAN } else { 1.0 });
    let factor = Tensor::from_iter(factor, &Device::Cpu).unwrap().reshape((vocab, 1)).unwrap();
    *table = table.broadcast_mul(&factor.to_dtype(dtype).unwrap()).unwrap();
    candle_core::safetensors::save(&tensors, &path).unwrap();
}

#[test]
fn a_loss_that_is_not_finite_is_named_and_changes_nothing() {
    let place = place();
    let mut lines: Vec<String> = rows("text").lines().map(str::to_string).collect();
    lines[4] = r#"{"text": "the cat sat on mat ~"}"#.to_string();
    place.write("data/train.jsonl", lines.join("\n"));
    place.run(&format!("{RUN} --iters 2")).ok();
    let good = std::fs::read(place.path("out/adapter_model.safetensors")).unwrap();
    poison(&place, "~");

    // One epoch is 12 steps of one row.
    let line = format!("{RUN} --iters 12 --batch-size 1 --seed 3");
    let error = place.run(&line).error();
    let (step, rest) =
        error.split_once(": loss is NaN in batch 1 of 1 (data/train.jsonl: line 5); ").expect(&error);
    let step: usize = step.strip_prefix("step ").and_then(|step| step.parse().ok()).expect(&error);
    assert!((3..12).contains(&step), "choose another seed: {step}");
    assert!(rest.starts_with(&format!("the weights of step {} are as they were", step - 1)), "{error}");
    assert!(rest.contains("--on-nan skip") && error.lines().count() == 1, "{error}");
    assert_eq!(std::fs::read(place.path("out/adapter_model.safetensors")).unwrap(), good);

    // From the checkpoint before, the same run passes over the row, and counts it.
    let ended = place.run(&format!("{line} --resume --on-nan skip --json")).ok();
    assert_eq!(ended.json()["skipped"], 1, "{}", ended.stderr);
    let note =
        format!("note: step {step}: loss is NaN in batch 1 of 1 (data/train.jsonl: line 5): passed over\n");
    assert!(ended.stderr.contains(&note), "{}", ended.stderr);
    let metrics = jsonl(&place.path("out/metrics.jsonl"));
    let of: Vec<_> = metrics.iter().filter(|m| m.get("loss").is_some()).collect();
    assert_eq!(of.len(), 11);
    assert!(of.iter().all(|m| m["loss"].as_f64().is_some_and(f64::is_finite)));
    assert_eq!(of[10]["skipped"], 1);
}

/// A skipped step where a line is due delays it no further, and loses none at the end.
#[test]
fn a_skipped_step_takes_no_line_with_it() {
    let place = place();
    let mut lines: Vec<String> = rows("text").lines().map(str::to_string).collect();
    lines[4] = r#"{"text": "the cat sat on mat ~"}"#.to_string();
    place.write("data/train.jsonl", lines.join("\n"));
    poison(&place, "~");
    let line = format!("{RUN} --iters 12 --batch-size 1 --seed 3 --on-nan skip");
    let ended = place.run(&line).ok();
    let step = ended.stderr.split_once("note: step ").unwrap().1.split(':').next().unwrap();
    let step: usize = step.parse().unwrap();
    // Every line is due where the step is skipped; then, at the end.
    for (every, iters) in [(step, 12), (20, step)] {
        let line = line.replace("--steps-per-report 1", &format!("--steps-per-report {every}"));
        let line = line.replace("--iters 12", &format!("--iters {iters}"));
        place.run(&format!("{line} --overwrite")).ok();
        let metrics = jsonl(&place.path("out/metrics.jsonl"));
        let of: Vec<_> = metrics.iter().filter(|m| m.get("loss").is_some()).collect();
        assert_eq!((&of[0]["step"], &of[0]["skipped"]), (&step.into(), &1.into()), "{of:?}");
    }
}

/// The norm is of all batches of the step, and so are the rows that are named.
#[test]
fn a_norm_that_is_not_finite_names_all_batches() {
    let place = place();
    // B is zero at first, so that the loss is the model's; its gradient has the scale's size, squared in the norm.
    let line = format!("{RUN} --iters 1 --batch-size 2 --grad-accumulation-steps 3 --scale 1e20");
    let error = place.run(&line).error();
    let (what, rest) = error.split_once(" (data/train.jsonl: lines ").expect(&error);
    assert!(
        what.starts_with("step 1: gradient norm is inf") && what.ends_with(" in batches 1 to 3 together"),
        "{error}"
    );
    assert_eq!(rest.split_once(')').unwrap().0.split(", ").count(), 6, "{error}");
}

#[test]
fn losses_that_stay_infinite_end_a_run_that_skips() {
    let place = place();
    let error = place.run(&format!("{RUN} --iters 40 --learning-rate 1e30 --on-nan skip")).error();
    assert!(error.contains("step 11: ") && error.contains("; 10 steps in a row were like this"), "{error}");
    // An update can be infinite though its loss was not: it is not saved.
    let error = place
        .run(
            &format!("{RUN} --iters 2 --save-every 1 --learning-rate 1e39 --overwrite")
                .replace("--save-every 2 ", ""),
        )
        .error();
    assert!(error.contains("weights after step 1: wants finite numbers to be saved"), "{error}");
    assert!(!place.path("out/adapter_model.safetensors").exists());
}

#[test]
#[cfg(target_os = "linux")]
fn a_plan_larger_than_memory_is_refused_with_what_fits() {
    let place = place();
    let row = format!("{{\"text\": \"{}\"}}\n", "ab".repeat(250));
    place.write("data/train.jsonl", row.repeat(4000));
    let run = |more: &str| {
        place.shell(&format!(
            "ulimit -v 3000000; exec $BIN {RUN} --threads 2 --iters 1 --max-seq-length 400 --sample-prompt a {more}"
        ))
    };
    let error = run("--batch-size 4000").error();
    assert!(
        error.starts_with("memory plan: wants ") && error.contains(" GB available; these fit: "),
        "{error}"
    );
    assert!(
        error.ends_with("--ignore-memory-plan tries it all the same") && error.lines().count() == 1,
        "{error}"
    );
    for flag in ["--batch-size ", "--grad-checkpoint", "--max-seq-length "] {
        assert!(error.contains(flag), "{flag}: {error}");
    }
    let fits = error.split_once("these fit: --batch-size ").expect(&error).1;
    let fits: usize = fits.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    assert!((4..4000).contains(&fits));
    run("--batch-size 4").ok();
    let config = std::fs::read_to_string(place.path("model/config.json")).unwrap();
    place.write(
        "model/config.json",
        config.replace("\"intermediate_size\": ", "\"intermediate_size\": 160000"),
    );
    let error = run("--fine-tune-type full --from-scratch").error();
    assert!(
        error.starts_with("memory plan: wants ") && error.contains(" GB for the weights in F32, got "),
        "{error}"
    );
    place.write("model/config.json", config);
    let tried = run("--batch-size 4000 --ignore-memory-plan");
    assert!(!tried.stderr.contains("memory plan: wants"), "{}", tried.stderr);
}

/// What a command writes to a terminal of this kind.
#[cfg(target_os = "linux")]
fn on_a_terminal(place: &Place, line: &str, term: &str) -> String {
    use std::io::Read;
    use std::os::fd::{FromRawFd, OwnedFd};
    let (mut ours, mut theirs) = (0, 0);
    use std::ptr::{null, null_mut};
    // SAFETY: openpty writes two descriptors through pointers that are valid; the others may be null.
    let opened = unsafe { libc::openpty(&mut ours, &mut theirs, null_mut(), null(), null()) };
    assert_eq!(opened, 0);
    // SAFETY: both were just opened, and nothing else owns them.
    let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_metal-candle"));
    command
        .args(line.split_whitespace())
        .current_dir(place.path(""))
        .env("TERM", term)
        .env_remove("NO_COLOR");
    command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap()).stderr(theirs);
    let mut child = command.spawn().unwrap();
    drop(command);
    let (mut seen, mut file) = (Vec::new(), std::fs::File::from(ours));
    // The end of a terminal whose other side is closed is an error.
    file.read_to_end(&mut seen).ok();
    assert!(child.wait().unwrap().success(), "{}", String::from_utf8_lossy(&seen));
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
#[cfg(target_os = "linux")]
fn escape_codes_are_for_terminals_that_know_them() {
    let place = place();
    let line = format!("{RUN} --iters 30 --overwrite");
    let escape = '\u{1b}';
    assert!(on_a_terminal(&place, &line, "xterm-256color").contains(escape));
    let dumb = on_a_terminal(&place, &line, "dumb");
    let piped = place.run(&line).ok();
    for text in [&dumb, &piped.stdout] {
        assert!(text.contains("Iter 30: Train loss") && text.contains("Next: "), "{text}");
    }
    for text in [&dumb, &piped.stdout, &piped.stderr] {
        assert!(
            !text.contains(escape) && !text.trim_end().trim_end_matches('\n').contains("\r\r"),
            "{text:?}"
        );
    }
    assert_eq!(piped.stderr, "");
}

#[test]
fn mlx_lm_s_keys_of_other_services_are_harmless_or_named() {
    let place = place();
    let yaml = "report_to: null\nproject_name: mine\nclear_cache_threshold: 0\niters: 1\n";
    place.write("run.yaml", yaml).write("wandb.yaml", "report_to: wandb\n");
    let ended = place.run(&format!("{RUN} -c run.yaml")).ok();
    assert!(ended.stderr.starts_with("note: project_name belongs to report_to"), "{}", ended.stderr);
    let error = place.run(&format!("{RUN} -c wandb.yaml")).error();
    assert!(error.starts_with("report_to: wants none, got wandb: a run writes to no service"), "{error}");
}
