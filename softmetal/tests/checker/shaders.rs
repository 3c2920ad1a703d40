//! The same from shaders: what the compiler makes of them is what the checker sees, and reports name their lines.

use super::harness::{Launch, alone, contents, launch, memory, values};
use super::{SHADERS, floats};
use softmetal::report::{self, Kind};

/// Reports of a kernel with a bug, whatever the order of threads: of these kinds, and in lines that are marked.
fn planted(make: impl Fn() -> Launch, kinds: &[Kind]) -> Vec<report::Report> {
    let mut last = Vec::new();
    for seed in 0..4 {
        let launch = make();
        let _ = launch.run(seed);
        let found = report::take();
        assert!(!found.is_empty(), "{} with seed {seed}: nothing found", launch.kernel);
        for report in &found {
            assert!(kinds.contains(&report.kind), "{report}");
            let (file, line) = report.line.as_ref().unwrap_or_else(|| panic!("no line: {report}"));
            let text = SHADERS.lines().nth(*line as usize - 2).unwrap();
            assert!(file == "planted.metal" && text.trim_end().ends_with("bug"), "{report}: {text}");
        }
        last = found;
    }
    last
}

#[test]
fn barriers() {
    let _alone = alone();
    let sum = |kernel| launch(kernel, &[&floats(512), &memory(8, "sums")]).grid(512, 256);
    sum("msl_sum").is_clean();
    planted(|| sum("msl_sum_missing_barrier"), &[Kind::Race, Kind::Uninitialised]);
    let found = planted(|| sum("msl_sum_wrong_flags"), &[Kind::BarrierFlags]);
    assert!(found[0].text.contains("has no mem_flags::mem_threadgroup"), "{found:#?}");
    planted(|| launch("msl_divergent_barrier", &[]), &[Kind::Barrier]);
    let guarded = |kernel| launch(kernel, &[&memory(128, "out")]).bytes(60u32);
    guarded("msl_late_return").is_clean();
    planted(|| guarded("msl_early_return"), &[Kind::Barrier]);
}

#[test]
fn races() {
    let _alone = alone();
    let input: Vec<u32> = (0..256).collect();
    let histogram =
        |kernel| launch(kernel, &[&values(&[0u32; 4], "bins"), &values(&input, "in")]).grid(256, 64);
    histogram("msl_histogram").is_clean();
    planted(|| histogram("msl_histogram_plain"), &[Kind::Race]);
    let simd = |kernel| launch(kernel, &[&memory(256, "out")]);
    simd("msl_simd_ordered").is_clean();
    planted(|| simd("msl_simd_lockstep"), &[Kind::Race]);
    launch("msl_neighbours", &[&memory(1000, "bytes"), &memory(2000, "halves")]).grid(1000, 64).is_clean();
}

#[test]
fn bounds() {
    let _alone = alone();
    let shift = |shift: i32| launch("msl_shift", &[&floats(256), &memory(1024, "out")]).bytes([64, shift]);
    shift(0).is_clean();
    for by in [-1, 1, 1000] {
        let found = planted(|| shift(by), &[Kind::OutOfBounds]);
        assert!(found[0].text.contains("buffer 0 `in` (floats), which has 1024 bytes"), "{found:#?}");
    }
    let found = planted(|| launch("msl_too_much", &[&memory(256, "out")]), &[Kind::Validation]);
    assert!(found[0].text.contains("wants 32768 bytes at most"), "{found:#?}");
}

#[test]
fn uninitialised_and_inactive() {
    let _alone = alone();
    let found = planted(|| launch("msl_uninitialised", &[&memory(256, "out")]), &[Kind::Uninitialised]);
    assert!(found[0].text.contains("thread 58 "), "{found:#?}");
    let copy = |input| launch("msl_uninitialised_buffer", &[&input, &memory(128, "out")]);
    copy(values(&[0u16; 64], "in")).is_clean();
    planted(|| copy(memory(128, "in")), &[Kind::Uninitialised]);
    launch("msl_active_lanes", &[&memory(256, "out")]).is_clean();
    planted(|| launch("msl_inactive_lane", &[&memory(256, "out")]), &[Kind::InactiveLane]);
}

#[test]
fn arguments_of_function_constants() {
    let _alone = alone();
    let out = memory(256, "out");
    let mut gated = launch("msl_gated", &[&out, &out]);
    gated.arguments[0] = None;
    gated.is_clean();
    assert_eq!(contents::<f32>(&out), [2.0; 64]);
}

#[test]
fn simdgroup_matrices() {
    let _alone = alone();
    let identity: Vec<u16> = (0..64).map(|i| if i % 9 == 0 { 0x3C00 } else { 0 }).collect();
    let halves: Vec<u16> = (0..64).map(|i| 0x3C00 + i).collect();
    let out = memory(256, "out");
    launch("msl_matrix", &[&values(&identity, "a"), &values(&halves, "b"), &out]).grid(32, 32).is_clean();
    assert_eq!(contents::<f32>(&out)[63], 1.0 + 63.0 / 1024.0);
}
