//! What a person asks first: help, completions, the manual, and what is wrong with this machine.

use super::{Place, fixture};
use snapbox::{Data, assert_data_eq};
use std::process::Command;

/// Every verb's help is the text in `tests/fixtures/help`; `SNAPSHOTS=overwrite cargo test` writes it anew.
#[test]
fn help_is_as_reviewed() {
    let place = Place::new();
    let help = place.run("--help").ok().stdout;
    let verbs =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A name stands two columns in; what is further in goes on with the text above it.
    let verbs = verbs.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let verbs: Vec<&str> = verbs.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(verbs.contains(&"train") && verbs.contains(&"doctor"), "{help}");
    let file = |name: &str| Data::read_from(&fixture("help").join(format!("{name}.txt")), None);
    assert_data_eq!(help.clone(), file("metal-candle").raw());
    for verb in verbs.into_iter().filter(|verb| *verb != "help") {
        let help = place.run(&format!("{verb} --help")).ok().stdout;
        assert!(help.contains("Examples:\n  metal-candle "), "{help}");
        assert_data_eq!(help, file(verb).raw());
    }
}

#[test]
fn completions_are_scripts_that_know_the_verbs() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = place.run(&format!("completions {shell}")).ok().stdout;
        assert!(script.contains("quickstart") && script.contains("max-tokens"), "{shell}");
        place.write(shell, script);
    }
    // What bash itself offers after `metal-candle gen`.
    let ask = "source ./bash; COMP_WORDS=(metal-candle gen); COMP_CWORD=1; \
               _metal__candle metal-candle gen metal-candle; echo ${COMPREPLY[@]}";
    let bash = Command::new("bash").args(["-c", ask]).current_dir(place.path("")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&bash.stdout).trim(), "generate", "{bash:?}");
    let error = place.run("completions tcsh");
    assert_eq!(error.status, Some(2));
    assert!(error.stderr.contains("[possible values: bash,"), "{}", error.stderr);
}

#[test]
fn the_manual_has_a_page_for_each_verb() {
    let place = Place::new();
    assert!(place.run("man").ok().stdout.contains(".TH metal-candle 1"));
    place.run("man --out share/man1").ok();
    for (page, wants) in
        [("metal-candle", "metal\\-candle\\-train"), ("metal-candle-train", "learning\\-rate")]
    {
        let text = std::fs::read_to_string(place.path(&format!("share/man1/{page}.1"))).unwrap();
        assert!(text.contains(wants), "{page}: {text}");
    }
    place.write("file", "");
    assert!(place.run("man --out file/man1").error().starts_with("file/man1: "));
}

#[test]
fn doctor_tells_what_there_is_and_why_it_is_slow() {
    let place = Place::new();
    place.model("qwen3");
    let text = place.run("doctor --model model --threads 1").ok().stdout;
    for wants in [
        "Devices",
        "not used: this build has no kernels",
        "GB/s",
        "qwen3, 0.041 M parameters",
        "What is slow",
    ] {
        assert!(text.contains(wants), "{wants}: {text}");
    }
    assert!(!text.contains('\x1b'), "{text}");

    let report = place.run("doctor --model model --no-measure --json").ok().json();
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["cache"]["path"], place.path("hub").display().to_string());
    assert_eq!((&report["model"]["parameters"], &report["speed"]), (&40656.into(), &serde_json::Value::Null));
    assert!(report["machine"]["memory_bytes"].as_u64() > Some(0) && report["findings"].is_array());

    std::fs::write(place.path("model/model.safetensors"), "no").unwrap();
    assert!(place.run("doctor --model model").error().contains("model.safetensors"));
}

#[test]
fn doctor_names_what_holds_the_cpu_back() {
    let place = Place::new();
    let out = Command::new(env!("CARGO_BIN_EXE_metal-candle"))
        .args(["doctor", "--no-measure"])
        .env("METAL_CANDLE_SIMD", "base")
        .env("HF_HOME", place.path("home"))
        .env_remove("HF_HUB_CACHE")
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("METAL_CANDLE_SIMD=base is set") && text.contains("0 models"), "{text}");
}
