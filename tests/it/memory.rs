//! The memory plan against the truth: what the process held at its peak.

use candle_core::{DType, Device};
use metal_candle::load::adapter::PeftConfig;
use metal_candle::models::Model;
use metal_candle::train::memory::MemoryPlan;
use metal_candle::train::step::GradCheckpoint;
use std::path::Path;
use std::process::Command;

/// The plan and the peak of three steps on 16 rows of 256 tokens, in 10^9 bytes.
fn planned_and_held(extra: &[&str]) -> (f64, f64) {
    let dir = tempfile::tempdir().unwrap();
    let row = format!("{{\"text\": \"{}\"}}\n", "The small grey fox went to the river. ".repeat(60));
    std::fs::write(dir.path().join("train.jsonl"), row.repeat(16)).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model");
    let output = Command::new(env!("CARGO_BIN_EXE_metal-candle"))
        .args([
            "train",
            "--data",
            ".",
            "--adapter-path",
            "out",
            "--max-seq-length",
            "257",
            "--batch-size",
            "16",
        ])
        .args(["--iters", "3", "--steps-per-report", "1", "--num-layers", "-1", "--dtype", "f32"])
        .arg("--model")
        .arg(model)
        .args(extra)
        .current_dir(dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let plan =
        text.split_once("Memory plan: ").expect("a plan").1.split_once(" GB").unwrap().0.parse().unwrap();
    let metrics = std::fs::read_to_string(dir.path().join("out/metrics.jsonl")).unwrap();
    let peak = metrics
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["peak_mem_gb"].as_f64())
        .fold(0.0, f64::max);
    (plan, peak)
}

#[cfg(target_os = "linux")]
#[test]
fn the_plan_is_near_what_is_held() {
    let mut held = Vec::new();
    for extra in [
        &[][..],
        &["--grad-checkpoint"],
        &["--fine-tune-type", "full"],
        &["--fine-tune-type", "dora", "--modules-to-save", "lm_head", "embed_tokens"],
    ] {
        let (plan, peak) = planned_and_held(extra);
        assert!((peak / plan - 1.0).abs() < 0.15, "{extra:?}: planned {plan} GB, held {peak} GB");
        held.push(peak);
    }
    assert!(held[1] < 0.6 * held[0], "checkpointing holds {} of {} GB", held[1], held[0]);
}

#[test]
fn as_few_layers_are_run_again_as_let_a_batch_fit() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama");
    let mut model = Model::from_dir(&directory, DType::F32, &Device::Cpu).unwrap();
    model.add_lora(&PeftConfig { r: 4, ..Default::default() }, 0).unwrap();
    let (rows, len, layers) = (4, 512, model.layers().len());
    let plan = |way| MemoryPlan::new(&model, rows, len, way).to_come() as u64;
    let (none, all) = (plan(GradCheckpoint::None), plan(GradCheckpoint::All));
    assert!(layers > 1 && all < none);
    let mut before = layers + 1;
    for share in 0..=20 {
        let available = all + (none * 5 / 4 - all) * share / 20;
        let chosen = MemoryPlan::choose(&model, rows, len, available);
        let count = (0..=layers).find(|i| !chosen.covers(*i)).unwrap_or(layers);
        assert!(count <= before, "{chosen} with {available} bytes");
        assert!(chosen == GradCheckpoint::All || plan(chosen) <= available - available / 10);
        // One layer fewer would not have fitted.
        if count > 0 {
            let fewer = if count == 1 { GradCheckpoint::None } else { GradCheckpoint::First(count - 1) };
            assert!(plan(fewer) > available - available / 10, "{chosen} with {available} bytes");
        }
        before = count;
    }
    assert_eq!(before, 0);
}
