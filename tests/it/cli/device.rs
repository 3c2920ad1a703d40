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
