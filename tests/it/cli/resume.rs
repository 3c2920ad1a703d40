//! `metal-candle train --resume`: a run that was killed goes on as if it had not been.

use super::{Place, ended, jsonl, rows, wait_for};
use rand::{Rng, SeedableRng};
use std::path::Path;
use std::time::{Duration, Instant};

/// What a run measured, without what depends on the machine's mood.
fn measured(dir: &Path) -> Vec<serde_json::Value> {
    let mut lines = jsonl(&dir.join("metrics.jsonl"));
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        ["tokens_per_s", "peak_mem_gb", "seconds"].iter().for_each(|key| drop(line.remove(*key)));
    }
    lines
}

/// Both runs must have measured the same, and left the same bytes.
fn assert_equal(place: &Place, a: &str, b: &str, files: &[&str]) {
    let (ours, theirs) = (measured(&place.path(a)), measured(&place.path(b)));
    assert!(ours.len() > 3);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
    for file in files {
        let read = |dir: &str| {
            std::fs::read(place.path(dir).join(file)).unwrap_or_else(|e| panic!("{dir}/{file}: {e}"))
        };
        assert!(read(a) == read(b), "{file} differs");
    }
}

/// The names of a run's directory.
fn names(place: &Place, dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(place.path(dir)).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Accumulation, dropout, a warm-up, a schedule, validation, and lines that no checkpoint coincides with.
const RUN: &str = "train --model model --data data --iters 89 --batch-size 3 --grad-accumulation-steps 2 \
    --dropout 0.2 --rank 4 --learning-rate 2e-3 --schedule cosine --warmup 9 --steps-per-report 2 \
    --steps-per-eval 7 --val-batches -1 --save-every 3 --seed 5 --threads 2";

fn ragged(rows: usize) -> String {
    let row = |i: usize| {
        format!("{{\"text\": \"row {i}: the cat sat {}\"}}\n", "on the mat ".repeat(1 + i * 7 % 11))
    };
    (0..rows).map(row).collect()
}

#[test]
fn a_run_killed_at_random_moments_is_the_uninterrupted_one() {
    let place = Place::new();
    place.model("llama").write("data/train.jsonl", ragged(31)).write("data/valid.jsonl", ragged(5));
    for (seed, more) in [(1, ""), (2, "--pack --max-seq-length 160")] {
        let (whole, killed) = (format!("whole{seed}"), format!("killed{seed}"));
        place.run(&format!("{RUN} {more} --adapter-path {whole}")).ok();

        let line = format!("{RUN} {more} --adapter-path {killed} --resume");
        let args: Vec<&str> = line.split_whitespace().collect();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let saving = || names(&place, &killed).iter().any(|name| name.ends_with(".tmp"));
        let saved = || {
            let names = names(&place, &killed);
            names.iter().filter_map(|name| name.strip_prefix("checkpoint-")?.parse().ok()).max().unwrap_or(0)
        };
        let (mut kills, mut within_saves) = (0, 0);
        for attempt in 0.. {
            // Some steps on, within a save or a while after one; every fourth time, perhaps before any.
            let target: u32 = saved() + rng.random_range(0..9);
            let later = Duration::from_micros(rng.random_range(0..20_000));
            let mut child = place.start(&args);
            let began = Instant::now();
            while child.try_wait().unwrap().is_none() {
                match attempt % 4 {
                    0 if began.elapsed() > 3 * later => break,
                    1 if saved() > target => {
                        std::thread::sleep(later);
                        break;
                    }
                    2 | 3 if saved() >= target && saving() => break,
                    _ => std::thread::sleep(Duration::from_micros(20)),
                }
            }
            child.kill().ok();
            let ended = child.wait_with_output().unwrap();
            if ended.status.success() {
                break;
            }
            assert_eq!(ended.status.code(), None, "{}", String::from_utf8_lossy(&ended.stderr));
            kills += 1;
            within_saves += usize::from(saving());
            assert!(kills < 200, "no progress: {:?}", names(&place, &killed));
        }
        assert!(kills >= 4, "killed {kills} times only");
        assert!(within_saves >= 1, "never killed within a save in {kills} kills");
        let files = [
            "adapter_model.safetensors",
            "adapter_config.json",
            "best/adapter_model.safetensors",
            "checkpoint-89/adapter_model.safetensors",
            "checkpoint-89/optimizer.safetensors",
        ];
        assert_equal(&place, &whole, &killed, &files);
        assert_eq!(names(&place, &whole), names(&place, &killed));
        // Adapters stay; what a run goes on from stays of the newest two.
        let states: Vec<_> = names(&place, &killed)
            .into_iter()
            .filter(|name| place.path(&killed).join(name).join("training_state.json").exists())
            .collect();
        assert_eq!(states, ["checkpoint-87", "checkpoint-89"]);
    }
}

/// Weights are trained in f32 and saved in bf16: what --resume goes on from must be the former.
#[test]
fn full_fine_tuning_goes_on_from_its_f32_weights() {
    let place = Place::new();
    place.write("data/train.jsonl", ragged(12)).write("data/valid.jsonl", ragged(3));
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model");
    let line = format!(
        "train --model {} --data data --fine-tune-type full --iters 6 --batch-size 2 --max-seq-length 32 \
         --learning-rate 1e-4 --steps-per-report 1 --save-every 2 --sample-prompt hi",
        model.display()
    );
    place.run(&format!("{line} --adapter-path whole")).ok();
    let killed = format!("{line} --adapter-path killed");
    let mut child = place.start(&killed.split_whitespace().collect::<Vec<_>>());
    wait_for(&mut child, "Saved killed/checkpoint-4");
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = place.run(&format!("{killed} --resume")).ok().stdout;
    // It may have got further before it was killed.
    let from =
        |step| resumed.contains(&format!("Resumed from killed/checkpoint-{step}: goes on after step {step}"));
    assert!(from(4) || from(6), "{resumed}");
    assert_equal(&place, "whole", "killed", &["model.safetensors", "checkpoint-6/optimizer.safetensors"]);
}

#[test]
#[cfg(unix)]
fn ctrl_c_and_more_steps_go_on_exactly_too() {
    let place = Place::new();
    place.model("llama").write("data/train.jsonl", ragged(31)).write("data/valid.jsonl", ragged(5));
    let line = |dir: &str, iters: usize| {
        format!(
            "train --model model --data data --iters {iters} --dropout 0.1 --learning-rate 1e-3 \
             --steps-per-report 3 --steps-per-eval 7 --save-every 10 --adapter-path {dir}"
        )
    };
    // Too many steps to come to their end before it is stopped.
    let first = line("stopped", 1_000_000);
    let mut child = place.start(&first.split_whitespace().collect::<Vec<_>>());
    wait_for(&mut child, "Iter 21: Train loss");
    super::interrupt(&child);
    let stopped = ended(child);
    assert_eq!(stopped.status, Some(130), "{}", stopped.stderr);
    assert!(stopped.stdout.contains("add to the same command: --resume"), "{}", stopped.stdout);

    // Without --resume it is not overwritten by accident.
    let refused = place.run(&first).error();
    assert!(refused.contains("stopped: wants --resume") && refused.contains("--overwrite"), "{refused}");
    let step = |name: &String| name.strip_prefix("checkpoint-")?.parse::<usize>().ok();
    let iters = names(&place, "stopped").iter().filter_map(step).max().unwrap() + 20;
    place.run(&format!("{} --resume", line("stopped", iters))).ok();
    place.run(&line("whole", iters)).ok();
    let state = format!("checkpoint-{iters}/optimizer.safetensors");
    assert_equal(&place, "whole", "stopped", &["adapter_model.safetensors", &state]);

    // A run that came to its end, made longer: the other one never stopped there.
    place.run(&line("longer", 11)).ok();
    place.run(&format!("{} --resume", line("longer", 24))).ok();
    place.run(&line("at_once", 24)).ok();
    assert_equal(&place, "at_once", "longer", &["adapter_model.safetensors"]);
    assert!(place.run(&format!("{} --resume", line("longer", 9))).error().contains("at least the 24 steps"));
}

#[test]
fn another_run_is_refused_by_what_differs() {
    let place = Place::new();
    place.model("llama").write("data/train.jsonl", rows("text")).write("other/train.jsonl", ragged(12));
    let line = "train --model model --data data --iters 4 --save-every 2 --adapter-path out --resume";
    let fresh = place.run(line).ok();
    assert!(fresh.stderr.contains("out: no checkpoint to resume from: begins at step 1"), "{}", fresh.stderr);
    for (more, words) in [
        ("--batch-size 2", vec!["batch_size 4", "batch_size 2"]),
        ("--seed 1 --rank 2", vec!["seed 0", "seed 1", "r 8", "r 2"]),
        ("--learning-rate 1e-3", vec!["lr_schedule"]),
        ("--dropout 0.5", vec!["lora_dropout 0.5"]),
        ("--data other", vec!["training data 12 rows #"]),
        ("--pack", vec!["pack true"]),
        ("--fine-tune-type full", vec!["fine_tune_type lora", "fine_tune_type full"]),
    ] {
        let line = match more.starts_with("--data") {
            true => line.replace("--data data", more),
            false => format!("{line} {more}"),
        };
        let error = place.run(&line).error();
        assert!(error.starts_with("out/checkpoint-4: wants the run that it is of: "), "{error}");
        words.iter().for_each(|word| assert!(error.contains(word), "{more}: {error}"));
    }
    let packed =
        "train --model model --data data --iters 1 --adapter-path packed --resume --pack --max-seq-length";
    place.run(&format!("{packed} 400")).ok();
    let error = place.run(&format!("{packed} 300")).error();
    assert!(error.ends_with("the run that it is of: max_seq_length 400, got max_seq_length 300"), "{error}");
    // What changes no loss may change.
    let line = line.replace("--save-every 2", "--save-every 3");
    place.run(&format!("{line} --steps-per-report 1 --grad-checkpoint --on-nan skip")).ok();

    let error = place.run(&line.replace("--resume", "--resume nowhere")).error();
    assert!(
        error.contains("--resume: wants a run's directory") && error.contains("no such directory"),
        "{error}"
    );
    let error = place.run(&line.replace("--resume", "--resume other")).error();
    assert!(error.contains("wants a checkpoint of --adapter-path out, got other"), "{error}");
    let of = line.replace("--adapter-path out --resume", "--resume out/checkpoint-2");
    assert!(place.run(&of).ok().stdout.contains("Resumed from out/checkpoint-2"));
}

/// Killed after its last checkpoint, a run has still its last line, its last validation and its result to write.
#[test]
fn a_run_without_its_result_is_not_finished() {
    let place = Place::new();
    place.model("llama").write("data/train.jsonl", rows("text")).write("data/valid.jsonl", ragged(3));
    let line =
        "train --model model --data data --iters 5 --steps-per-report 2 --save-every 2 --adapter-path out";
    place.run(line).ok();
    let (lines, result) = (measured(&place.path("out")), place.path("out/adapter_model.safetensors"));
    assert_eq!(lines.iter().filter(|line| line.get("loss").is_some()).count(), 3);
    let adapter = std::fs::read(&result).unwrap();
    for result_of in [None, Some("out/checkpoint-4/adapter_model.safetensors")] {
        match result_of {
            None => std::fs::remove_file(&result).unwrap(),
            Some(other) => drop(std::fs::copy(place.path(other), &result).unwrap()),
        }
        let error = place.run(line).error();
        assert!(error.ends_with("a run saved after step 5 of 5, without its result"), "{error}");
        place.run(&format!("{line} --resume")).ok();
        assert_eq!(std::fs::read(&result).unwrap(), adapter);
        assert_eq!(measured(&place.path("out")), lines);
    }
    // Finished, it may be begun anew.
    place.run(line).ok();
}

/// A run that went on from an earlier checkpoint leaves no later state of the one it was.
#[test]
fn an_abandoned_branch_is_not_gone_on_from() {
    let place = Place::new();
    place.model("llama").write("data/train.jsonl", rows("text"));
    let line = "train --model model --data data --save-every 2";
    place.run(&format!("{line} --iters 8 --adapter-path out --save-total-limit 9")).ok();
    place.run(&format!("{line} --iters 4 --resume out/checkpoint-2")).ok();
    let resumed = place.run(&format!("{line} --iters 9 --adapter-path out --resume")).ok().stdout;
    assert!(resumed.contains("Resumed from out/checkpoint-4"), "{resumed}");

    // 2 and 4 were pruned of their states; 6, 8 and 9 were saved since.
    let error = place.run(&format!("{line} --iters 9 --resume out/checkpoint-2")).error();
    let wants = "out/checkpoint-2: wants a checkpoint with training_state.json, got one with weights alone: ";
    assert_eq!(error, format!("{wants}checkpoint-9, checkpoint-8 can be gone on from"));
}

#[test]
fn nothing_to_go_on_from_overwrites_nothing() {
    let place = Place::new();
    place.model("llama").write("data/train.jsonl", rows("text")).write("empty/.keep", "");
    let line = "train --model model --data data --iters 2 --save-every 0";
    place.run(&format!("{line} --adapter-path out")).ok();
    let adapter = std::fs::read(place.path("out/adapter_model.safetensors")).unwrap();
    let wants = "wants a checkpoint to resume from, or --overwrite to begin again, got";
    for (resume, error) in [
        ("--adapter-path out --resume", format!("out: {wants} adapter_model.safetensors alone")),
        ("--resume out", format!("out: {wants} adapter_model.safetensors alone")),
        ("--resume empty", format!("empty: {wants} none")),
    ] {
        assert_eq!(place.run(&format!("{line} --seed 1 {resume}")).error(), error);
    }
    assert_eq!(std::fs::read(place.path("out/adapter_model.safetensors")).unwrap(), adapter);
    place.run(&format!("{line} --adapter-path empty --resume")).ok();
}

#[test]
fn an_adapter_to_train_on_is_what_is_asked_for() {
    let place = Place::new();
    place.model("llama").write("data/train.jsonl", rows("text"));
    let line = "train --model model --data data --iters 1";
    let same = "--rank 4 --scale 10 --num-layers 1 --target-modules q_proj,v_proj";
    place.run(&format!("{line} {same} --adapter-path out")).ok();
    let line = format!("{line} --adapter-path more --resume-adapter-file out");
    for (more, got) in [
        ("--rank 2", "--rank 4"),
        ("--scale 2", "--scale 10"),
        ("--alpha 41", "--alpha 40"),
        ("--dropout 0.5", "--dropout 0"),
        ("--num-layers -1", "1 of 3 layers"),
        ("--target-modules q_proj", "2 modules named q_proj,v_proj"),
    ] {
        let error = place.run(&format!("{line} {more}")).error();
        let wants = format!("--resume-adapter-file: wants an adapter of {more}, got {got}: leave");
        assert!(error.starts_with(&wants), "{error}");
    }
    place.run(&format!("{line} {same} --dropout 0")).ok();
    place.run(&format!("{line} --alpha 40")).ok();
    let error = place.run(&format!("{line} --fine-tune-type full")).error();
    assert!(
        error.starts_with("--resume-adapter-file: wants --fine-tune-type lora or dora, got full"),
        "{error}"
    );
}

/// A run clears what a killed one left in its directory, and nothing else.
#[test]
fn what_others_have_in_the_directory_stays() {
    let place = Place::new();
    place.model("llama").write("data/train.jsonl", rows("text"));
    let theirs =
        ["x/a", "x.old/a", "y.tmp/a", "checkpoint-new.tmp/a", ".env.tmp", ".env.7-1.tmp", ".tmpwLPLMK"];
    let left =
        ["best.tmp/a", "checkpoint-7.tmp/a", ".adapter_model.safetensors.7-1.tmp", ".config.json.7-1.tmp"];
    for name in theirs.iter().chain(&left) {
        place.write(&format!("out/{name}"), "text");
    }
    place.run("train --model model --data data --iters 1 --adapter-path out").ok();
    theirs.iter().for_each(|name| assert!(place.path("out").join(name).exists(), "{name} is gone"));
    left.iter().for_each(|name| assert!(!place.path("out").join(name).exists(), "{name} is there"));
}

#[test]
fn a_corrupt_checkpoint_is_passed_over_for_the_one_before() {
    let place = Place::new();
    place.model("llama").write("data/train.jsonl", rows("text"));
    let line =
        "train --model model --data data --iters 6 --save-every 2 --save-total-limit 3 --adapter-path out";
    place.run(line).ok();
    let whole = std::fs::read(place.path("out/adapter_model.safetensors")).unwrap();
    let corrupt = |file: &str| {
        let path = place.path(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    corrupt("out/checkpoint-6/optimizer.safetensors");
    let state = std::fs::read(place.path("out/checkpoint-4/training_state.json")).unwrap();
    place.write("out/checkpoint-4/training_state.json", &state[..state.len() / 2]);
    let ended = place.run(&format!("{line} --resume")).ok();
    assert!(ended.stdout.contains("Resumed from out/checkpoint-2"), "{}", ended.stdout);
    let named = |file: &str| ended.stderr.contains(&format!("note: out/{file}: wants"));
    assert!(named("checkpoint-6/optimizer.safetensors"), "{}", ended.stderr);
    assert!(named("checkpoint-4/training_state.json"), "{}", ended.stderr);
    assert_eq!(std::fs::read(place.path("out/adapter_model.safetensors")).unwrap(), whole);

    for step in [2, 4, 6] {
        corrupt(&format!("out/checkpoint-{step}/training_state.json"));
    }
    let error = place.run(&format!("{line} --resume")).error();
    assert!(
        error.starts_with("out: wants a checkpoint to resume from, got out/checkpoint-6/training"),
        "{error}"
    );
    assert!(error.contains("checkpoint-2/training_state.json") && error.lines().count() == 1, "{error}");
}
