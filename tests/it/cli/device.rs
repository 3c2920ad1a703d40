use super::*;

#[test]
fn every_verb_that_runs_a_model_takes_a_device_and_names_one_that_is_not_there() {
    let place = Place::new();
    place.model("llama").write("data/train.jsonl", rows("text")).write("run.yaml", "device: metal\n");
    for verb in [
        "train --model model --data data --iters 1",
        "generate --model model --prompt x",
        "chat --model model",
        "cache-prompt --model model --prompt x --prompt-cache-file file",
        "quickstart --iters 1",
    ] {
        let wrong = place.run(&format!("{verb} --device gpu"));
        assert_eq!(wrong.status, Some(2), "{}", wrong.stderr);
        assert!(wrong.stderr.contains("wants auto, cpu, cuda, cuda:N or metal"), "{}", wrong.stderr);
        let missing = place.run(&format!("{verb} --device cuda:99")).error();
        assert!(missing.contains("cuda") && missing.contains("wants"), "{verb}: {missing}");
        assert_eq!(missing.lines().count(), 1, "{verb}: {missing}");
    }
    if cfg!(not(target_os = "macos")) {
        let train = "train --model model --data data --iters 1 --config run.yaml --json";
        assert!(place.run(train).error().contains("metal: wants a build"));
        let done = place.run(&format!("{train} --device cpu")).ok().json();
        assert_eq!(done["device"], "CPU");
        let report = std::fs::read_to_string(place.path("adapters/report.html")).unwrap();
        assert!(report.contains("device"), "{report}");
    }
}

/// On `METAL_CANDLE_TEST_DEVICE`, if that is Metal: the binary trains there as on the CPU, and writes the same text.
#[test]
#[cfg(feature = "metal")]
fn metal_trains_and_generates_as_the_cpu_does() {
    if !crate::device().is_metal() {
        return;
    }
    let place = Place::new();
    place.model("llama").write("data/train.jsonl", rows("text")).write("data/valid.jsonl", rows("text"));
    let losses = |device: &str| -> Vec<f64> {
        place
            .run(&format!(
                "train --model model --data data --iters 4 --steps-per-report 1 --learning-rate 5e-3 --rank 4 --scale 2 \
                 --dtype f32 --seed 1 --adapter-path {device} --device {device}"
            ))
            .ok();
        let metrics = super::jsonl(&place.path(&format!("{device}/metrics.jsonl")));
        let of = |key: &str| metrics.iter().filter_map(|line| line.get(key)?.as_f64()).collect::<Vec<_>>();
        [of("loss"), of("valid_loss")].concat()
    };
    let (ours, theirs) = (losses("metal"), losses("cpu"));
    assert!(ours.len() >= 6 && ours.len() == theirs.len(), "{ours:?}, {theirs:?}");
    assert!(theirs[3] < theirs[0] - 0.01, "nothing is learned: {theirs:?}");
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!((ours - theirs).abs() < 1e-4 * theirs, "{ours}, not {theirs}");
    }
    // What the run on Metal has learned, on both.
    let text = |device: &str| {
        let line = "generate --model model --adapter metal --temp 0 --max-tokens 8 --dtype f32 --json --ignore-chat-template";
        let args = line.split(' ').chain(["--device", device, "--prompt", "the cat sat on"]);
        place.run_with(&args.collect::<Vec<_>>(), "").ok().json()["tokens"].clone()
    };
    let tokens = text("metal");
    assert!(tokens.as_array().is_some_and(|tokens| !tokens.is_empty()), "{tokens}");
    assert_eq!(tokens, text("cpu"));
}
