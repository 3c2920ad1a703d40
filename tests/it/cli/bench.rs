use super::*;

/// Runs a command whose measurements are kept in this place.
fn run(place: &Place, line: &str, forced: Option<&str>) -> Ended {
    let mut command = place.command(&line.split_whitespace().collect::<Vec<_>>());
    command.env("METAL_CANDLE_CACHE", place.path("cache")).env_remove("METAL_CANDLE_MATMUL");
    command.envs(forced.map(|name| ("METAL_CANDLE_MATMUL", name)));
    ended(command.spawn().unwrap())
}

#[test]
fn products_are_measured_kept_and_shown() {
    let place = Place::new();
    let measure = "bench matmul --device cpu --dtype f32 --seconds 0";
    let shown = run(&place, "doctor --no-measure", None).ok().stdout;
    assert!(shown.contains("nothing was measured"), "{shown}");

    let first = format!("{measure} --shape 8x8x8 --shape 2x4x8x8T --results out.jsonl --json");
    let done = run(&place, &first, None).ok().json();
    let entries = done["table"]["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    for entry in entries {
        for backend in ["candle", "packed"] {
            assert!(entry["times"][backend]["median_us"].as_f64().unwrap() > 0.0, "{entry}");
        }
    }
    let results = std::fs::read_to_string(place.path("out.jsonl")).unwrap();
    let results: Vec<serde_json::Value> =
        results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(results.iter().all(|line| line["op"] == "matmul" && line["method"] == "synced"), "{results:?}");
    let providers: Vec<&str> = results.iter().map(|line| line["provider"].as_str().unwrap()).collect();
    assert_eq!(providers, ["candle", "packed", "auto"].repeat(2));
    // The choice is what the table says, and its time is over that of the best backend of its own run.
    for line in results.iter().filter(|line| line["provider"] == "auto") {
        let us = |name: &str| line[name].as_f64().unwrap();
        // Numbers of JSON are read to within a few units in the last place.
        assert!((us("auto_of_best") * us("best_us") / us("median_us") - 1.0).abs() < 1e-12, "{line}");
        let times = |backend: &serde_json::Value| {
            let of = |other: &&serde_json::Value| {
                (&other["shape"], &other["provider"]) == (&line["shape"], backend)
            };
            results.iter().find(of).unwrap()["median_us"].as_f64().unwrap()
        };
        assert!(
            times(&line["chosen"]) <= 1.005001 * times(&"packed".into()).min(times(&"candle".into())),
            "{line}"
        );
        assert!(line["best"] == "packed" || line["best"] == "candle", "{line}");
    }
    let auto = done["auto"].as_array().unwrap();
    assert!(auto.len() == 2 && auto.iter().all(|one| one["auto"]["median_us"].as_f64().unwrap() > 0.0));
    // Where there is no choice, none is measured.
    let forced = run(&place, &format!("{measure} --shape 8x8x8 --json"), Some("packed")).ok().json();
    assert_eq!(forced["auto"].as_array().unwrap().len(), 0);

    let second = run(&place, &format!("{measure} --shape 16x16x16"), None).ok();
    assert!(second.stdout.contains("auto is within 3 % of the best backend in "), "{}", second.stdout);
    assert!(
        second.stdout.contains("16x16 by 16x16") && second.stdout.contains("Kept in"),
        "{}",
        second.stdout
    );
    let shown = run(&place, "doctor --no-measure", None).ok().stdout;
    assert!(shown.contains("3 measured on") && shown.contains("wide"), "{shown}");
    // What was measured: of what is chosen and of the other backend.
    assert!(shown.contains("measured, µs") && shown.contains("    8x8 by 8x8              "), "{shown}");
    // Why, of examples: the squares were measured in f32, and nothing in bf16.
    assert!(shown.contains("64x64 by 64x64          f32  "), "{shown}");
    assert!(shown.contains("64x64 by 64x64          f16  candle   not measured: the default"), "{shown}");
    assert!(shown.contains("fitted: ") && shown.contains("not measured: the default"), "{shown}");
    let facts = run(&place, "doctor --no-measure --json", None).ok().json();
    assert_eq!(facts["products"][0]["measured"].as_array().unwrap().len(), 3);
    let examples = facts["products"][0]["examples"].as_array().unwrap();
    assert!(examples.iter().any(|e| e["backend"] == "packed" && e["dtype"] == "bf16"), "{examples:?}");
    let shown = run(&place, "doctor --no-measure", Some("candle")).ok().stdout;
    assert!(shown.contains("METAL_CANDLE_MATMUL=candle"), "{shown}");
    assert!(shown.contains("candle   named by METAL_CANDLE_MATMUL"), "{shown}");

    run(&place, &format!("{measure} --shape 4x4x4 --no-save"), None).ok();
    let mut kept = std::fs::read_dir(place.path("cache")).unwrap().map(|entry| entry.unwrap().path());
    let table = kept.find(|path| path.extension().is_some_and(|x| x == "json")).unwrap();
    std::fs::write(&table, "{").unwrap();
    let broken = run(&place, "doctor --no-measure", None).ok();
    assert_eq!(broken.stderr.matches(".json is no table").count(), 1, "{}", broken.stderr);
    assert!(broken.stdout.contains("nothing was measured"), "{}", broken.stdout);
}

#[test]
fn a_product_or_a_backend_that_is_none_is_named() {
    let place = Place::new();
    for shape in ["0x8x8", "8x8", "8x8x8x8x8", "axbxc", "99999999999x9999999999x2"] {
        let wrong = run(&place, &format!("bench matmul --shape {shape}"), None);
        assert_eq!(wrong.status, Some(2), "{shape}: {}", wrong.stderr);
        assert!(wrong.stderr.contains("wants MxKxN"), "{}", wrong.stderr);
    }
    let wrong = run(&place, "bench matmul --device cpu --shape 8x8x8", Some("mkl")).error();
    assert!(wrong.contains("METAL_CANDLE_MATMUL: wants auto, candle"), "{wrong}");
    assert_eq!(run(&place, "bench", None).status, Some(2));
}

/// What layers have kernels for on a GPU is measured beside the libraries: here with the kernels as C++ on the CPU.
#[test]
#[cfg(feature = "host")]
fn kernels_of_layers_are_measured() {
    let place = Place::new();
    let line = "bench matmul --device cpu --dtype f32 --seconds 0 --shape 2x64x64T --shape 64x64x64 --json";
    let mut command = place.command(&line.split_whitespace().collect::<Vec<_>>());
    command.env("METAL_CANDLE_CACHE", place.path("cache")).env("METAL_CANDLE_KERNELS", "host");
    let done = ended(command.spawn().unwrap()).ok().json();
    let entries = done["table"]["entries"].as_array().unwrap();
    let backends = |i: usize| entries[i]["times"].as_object().unwrap().len();
    assert_eq!((backends(0), backends(1)), (3, 2), "{entries:?}");
    assert!(entries[0]["times"]["fused"]["median_us"].as_f64().unwrap() > 0.0);
    // What layers choose is shown beside.
    let mut command = place.command(&["doctor", "--no-measure"]);
    command.env("METAL_CANDLE_CACHE", place.path("cache")).env("METAL_CANDLE_KERNELS", "host");
    let shown = ended(command.spawn().unwrap()).ok().stdout;
    assert!(shown.contains("; in a layer fused, ") || shown.contains("; in a layer candle, "), "{shown}");
}

#[test]
fn overhead_is_of_an_apple_gpu() {
    let place = Place::new();
    let wrong = run(&place, "bench overhead --device cpu", None).error();
    assert!(wrong.contains("wants an Apple GPU, got CPU"), "{wrong}");
    assert_eq!(run(&place, "bench overhead --size 0", None).status, Some(2));
}

/// On `METAL_CANDLE_TEST_DEVICE`, if that is Metal.
#[test]
#[cfg(feature = "metal")]
fn an_apple_gpu_is_measured() {
    if !crate::device().is_metal() {
        return;
    }
    let place = Place::new();
    let costs =
        run(&place, "bench overhead --device metal --size 33 --repeats 2 --results o.jsonl --json", None);
    let costs = costs.ok().json();
    let software = costs["device"] == "softmetal";
    assert_eq!(costs["no_timings"], software);
    let written = std::fs::read_to_string(place.path("o.jsonl")).unwrap();
    for line in written.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()) {
        assert!(line["op"] == "overhead" && line["no_timings"] == software, "{line}");
        assert_eq!(
            line["queue_us"].as_f64().is_some_and(|us| us > 0.0),
            line["mode"] == "queue per call",
            "{line}"
        );
    }
    assert_eq!(written.lines().count(), 11);
    let costs = costs["costs"].as_array().unwrap();
    assert_eq!(costs.len(), 11);
    assert!(costs.iter().all(|cost| cost["total_us"].as_f64().unwrap() > 0.0), "{costs:?}");
    let measure = "bench matmul --device metal --shape 33x31x17T --seconds 0 --json";
    let table = run(&place, measure, None).ok().json();
    let entries = table["table"]["entries"].as_array().unwrap();
    assert!(entries.iter().all(|entry| entry["times"]["mps"]["median_us"].as_f64().unwrap() > 0.0));
    assert_eq!(entries.len(), 3);
    // Of one row, both kernels of MPS.
    let measure = "bench matmul --device metal --dtype f32 --shape 1x31x17T --seconds 0 --no-save --json";
    let table = run(&place, measure, None).ok().json();
    let times = table["table"]["entries"][0]["times"].as_object().unwrap();
    assert_eq!(times.keys().collect::<Vec<_>>(), ["candle", "mps", "fused", "mps-vector"]);
}

#[test]
fn ops_and_whole_jobs_are_measured() {
    let place = Place::new();
    place.model("qwen2");
    let done = run(
        &place,
        "bench ops --device cpu --op swiglu --dtype bf16 --seconds 0 --results ops.jsonl --json",
        None,
    );
    let all = done.ok().json();
    let of = |line: &serde_json::Value, name: &str| line[name].as_str().unwrap().to_string();
    let lines = all["lines"].as_array().unwrap();
    assert!(lines.iter().all(|line| of(line, "op") == "swiglu" && line["median_us"].as_f64().unwrap() > 0.0));
    for (pass, provider) in [("fwd", "candle"), ("fwd+bwd", "metal-candle")] {
        assert!(
            lines.iter().any(|line| of(line, "pass") == pass && of(line, "provider") == provider),
            "{all}"
        );
    }
    let written = std::fs::read_to_string(place.path("ops.jsonl")).unwrap();
    assert_eq!(written.lines().count(), lines.len());
    let error = run(&place, "bench ops --op softmix", None).error();
    assert!(error.contains("--op: wants a part of one of softmax, "), "{error}");

    let common = "--model model --device cpu --json";
    let steps =
        format!("bench train {common} --batch-size 1,2 --length 16 --rank 2 --steps 3 --results train.jsonl");
    let all = run(&place, &steps, None).ok().json();
    let lines = all["lines"].as_array().unwrap();
    let jobs: Vec<String> = lines.iter().map(|line| of(line, "job")).collect();
    assert_eq!(jobs, ["first_step", "lora_step", "lora_step"], "{all}");
    for (line, batch) in lines[1..].iter().zip([1, 2]) {
        assert_eq!((&line["batch"], &line["length"], &line["rank"]), (&batch.into(), &16.into(), &2.into()));
        let (ms, rate) = (line["median_ms"].as_f64().unwrap(), line["tokens_per_s"].as_f64().unwrap());
        assert!((rate - 16e3 * f64::from(batch) / ms).abs() < 1e-6 * rate, "{line}");
        assert!(line["samples"] == 3 && line["peak_gb"].as_f64().unwrap() > 0.0, "{line}");
    }
    assert_eq!(std::fs::read_to_string(place.path("train.jsonl")).unwrap().lines().count(), 3);

    let tokens = format!("bench generate {common} --random-weights --prompt-tokens 5 --tokens 4 --repeats 2");
    let all = run(&place, &tokens, None).ok().json();
    let jobs: Vec<String> = all["lines"].as_array().unwrap().iter().map(|line| of(line, "job")).collect();
    assert_eq!(jobs, ["first_token", "prefill", "decode"], "{all}");
    assert_eq!(all["lines"][2]["samples"], 2);
    let error = run(&place, "bench train --model model --batch-size 0", None);
    assert!(error.stderr.contains("wants a number from 1 on"), "{}", error.stderr);
}
