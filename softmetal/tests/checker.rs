//! The executor and the checker: each detector with a planted bug that it finds, whatever the order of threads, and a
//! twin without the bug in which it finds nothing.

#[path = "checker/harness.rs"]
mod harness;
#[path = "checker/shaders.rs"]
mod shaders;

use harness::{Launch, alone, command, contents, launch, memory, values};
use softmetal::exec::{Argument, Context, Memory, touch};
use softmetal::report::{self, Kind};
use std::sync::Arc;

/// Shaders with planted bugs.
const SHADERS: &str = include_str!("checker/planted.metal");

fn floats(n: usize) -> Arc<Memory> {
    values(&(0..n).map(|i| i as f32).collect::<Vec<_>>(), "floats")
}

#[test]
fn positions_of_threads() {
    let _alone = alone();
    let out = memory(40 * 10 * 16, "out");
    let mut launch = launch("positions", &[&out]);
    (launch.grid, launch.threadgroup) = ([40, 10, 1], [16, 4, 1]);
    launch.is_clean();
    let out = contents::<[u32; 4]>(&out);
    assert_eq!(out[0], [0, 16 + 4000, 3000, 2000]);
    // The last of the grid: its threadgroup has 8 of 16 columns and 2 of 4 rows.
    assert_eq!(out[399], [15 + 15000, 8 + 2000, 2 + 3000, 1000]);
    // Row 3 of the first threadgroup, and the second simdgroup.
    assert_eq!(out[3 * 40 + 1], [49 + 17000, 16 + 4000, 3000, 1 + 2000]);
}

#[test]
fn values_of_lanes() {
    let _alone = alone();
    let out = memory(64 * 4, "out");
    launch("shuffle", &[&out]).is_clean();
    assert_eq!(contents::<f32>(&out)[..4], [1.0, 0.0, 3.0, 2.0]);
    launch("converges", &[&out]).is_clean();
    let expected = |i: usize| {
        let trips = (i % 32) as f32 + 1.0;
        // In trip t those lanes are left that have more than t.
        (0..trips as usize).map(|trip| 32.0 - trip as f32).sum::<f32>() + 32_000.0
    };
    assert_eq!(contents::<f32>(&out), (0..64).map(expected).collect::<Vec<_>>());
}

#[test]
fn missing_barrier() {
    let _alone = alone();
    let (a, b) = (floats(512), memory(8, "sums"));
    launch("sum", &[&a, &b]).grid(512, 256).is_clean();
    assert_eq!(contents::<f32>(&b), [32640.0, 98176.0]);
    for seed in 0..4 {
        launch("sum_missing_barrier", &[&a, &memory(8, "sums")]).grid(512, 256).run(seed).unwrap();
        let found = report::take();
        assert!(found.iter().any(|report| report.kind == Kind::Race || report.kind == Kind::Uninitialised));
        let place = |report: &report::Report| {
            let (file, line) = report.line.clone().unwrap();
            file.ends_with("kernels.cpp") && source_line(line).contains("shared[tid()]")
        };
        assert!(found.iter().all(place), "{found:#?}");
    }
}

fn source_line(line: u32) -> &'static str {
    include_str!("checker/kernels.cpp").lines().nth(line as usize - 1).unwrap()
}

#[test]
fn barrier_with_the_wrong_flags() {
    let _alone = alone();
    let wrong = || launch("sum_wrong_flags", &[&floats(512), &memory(8, "sums")]).grid(512, 256);
    Launch::reports(wrong, Kind::BarrierFlags, &["`shared`", "has no mem_flags::mem_threadgroup"]);
    launch("device_barrier", &[&memory(512, "a"), &memory(512, "b")]).grid(128, 64).is_clean();
    let wrong = || launch("device_wrong_flags", &[&memory(512, "a"), &memory(512, "b")]).grid(128, 64);
    Launch::reports(wrong, Kind::BarrierFlags, &["buffer 0 `a`", "has no mem_flags::mem_device"]);
}

#[test]
fn divergent_barrier() {
    let _alone = alone();
    launch("uniform_barrier", &[]).grid(128, 64).is_clean();
    let text = "32 of 64 threads wait at threadgroup_barrier";
    Launch::reports(|| launch("divergent_barrier", &[]), Kind::Barrier, &[text]);
}

#[test]
fn early_return() {
    let _alone = alone();
    launch("late_return", &[&memory(256, "out")]).is_clean();
    let text = "40 of 64 threads wait at threadgroup_barrier, thread 40 has returned";
    Launch::reports(|| launch("early_return", &[]), Kind::Barrier, &[text]);
}

#[test]
fn race_between_threadgroups() {
    let _alone = alone();
    let counter = values(&[0u32], "counter");
    launch("count_atomic", &[&counter]).grid(256, 64).is_clean();
    assert_eq!(contents::<u32>(&counter), [4 * 256]);
    let one_each = || launch("count_plain", &[&values(&[0u32], "counter")]).grid(4, 1);
    Launch::reports(one_each, Kind::Race, &["of another threadgroup", "(counter)"]);
    let mixed = || launch("count_mixed", &[&values(&[0u32], "counter")]).grid(4, 1);
    Launch::reports(mixed, Kind::Race, &["of another threadgroup"]);
}

#[test]
fn the_same_value_is_a_race_too() {
    let _alone = alone();
    let text = "of the same simdgroup wrote";
    Launch::reports(|| launch("last_wins", &[&memory(128, "out")]), Kind::SameValue, &[text]);
    let differs = || launch("last_differs", &[&memory(128, "out")]);
    Launch::reports(differs, Kind::Race, &[text]);
}

#[test]
fn neighbouring_bytes_are_no_race() {
    let _alone = alone();
    let out = memory(1000, "bytes");
    launch("bytes", &[&out]).grid(1000, 64).is_clean();
    assert_eq!(contents::<u8>(&out)[999], (999 % 256) as u8);
}

#[test]
fn race_within_a_simdgroup() {
    let _alone = alone();
    launch("simd_ordered", &[&memory(256, "out")]).is_clean();
    // In whatever order: a thread that reads before its neighbour writes finds nothing written.
    for seed in 0..4 {
        launch("simd_unordered", &[&memory(256, "out")]).run(seed).unwrap();
        let found = report::take();
        let text = "of the same simdgroup";
        let race = |report: &report::Report| report.kind == Kind::Race && report.text.contains(text);
        assert!(found.iter().any(race), "seed {seed}: {found:#?}");
    }
    let wrong = || launch("simd_wrong_flags", &[&memory(256, "out")]);
    Launch::reports(wrong, Kind::BarrierFlags, &["has no mem_flags::mem_threadgroup"]);
    for seed in 0..4 {
        launch("simd_barrier_over_simdgroups", &[&memory(256, "out")]).run(seed).unwrap();
        assert!(report::take().iter().any(|report| report.kind == Kind::Race), "seed {seed}");
    }
}

#[test]
fn divergent_simdgroup_barrier() {
    let _alone = alone();
    let text = "16 of 32 threads of simdgroup";
    Launch::reports(|| launch("divergent_simd_barrier", &[]), Kind::Barrier, &[text]);
}

#[test]
fn out_of_bounds() {
    let _alone = alone();
    let at = |kernel, offset: i32| launch(kernel, &[&floats(25), &memory(4, "out")]).grid(1, 1).bytes(offset);
    for kernel in ["read_at", "write_at"] {
        at(kernel, 0).is_clean();
        at(kernel, 96).is_clean();
        for (offset, text) in [
            (-4, "4 bytes before buffer 0 `a` (floats), which has 100 bytes"),
            (98, "at byte 98 of buffer 0 `a` (floats), which has 100 bytes"),
            (100, "at byte 100 of buffer 0 `a` (floats), which has 100 bytes"),
            (100_000, "at byte 100000 of buffer 0 `a` (floats), which has 100 bytes"),
        ] {
            Launch::reports(|| at(kernel, offset), Kind::OutOfBounds, &[text]);
        }
    }
    Launch::reports(
        || launch("write_bytes", &[&floats(1), &floats(1)]).bytes(0),
        Kind::OutOfBounds,
        &["buffer 2 `offset` (bytes)", "cannot be written"],
    );
    Launch::reports(
        || launch("threadgroup_past_end", &[]),
        Kind::OutOfBounds,
        &["at byte 256 of threadgroup variable `shared`, which has 256 bytes"],
    );
}

#[test]
fn a_fault_leaves_the_executor_usable() {
    let _alone = alone();
    let wrong = launch("read_at", &[&floats(25), &memory(4, "out")]).grid(64, 64).bytes(4096);
    let fault = wrong.run(1).unwrap_err();
    assert!(fault.to_string().starts_with("OutOfBounds in read_at"), "{fault}");
    assert_eq!(report::take().len(), 1);
    missing_nothing();
}

fn missing_nothing() {
    launch("sum", &[&floats(512), &memory(8, "sums")]).grid(512, 256).is_clean();
}

#[test]
fn misaligned() {
    let _alone = alone();
    let out = || memory(64, "out");
    launch("aligned_vector", &[&floats(8), &out()]).grid(1, 1).is_clean();
    for (kernel, text) in
        [("misaligned", "an address that 4 divides"), ("misaligned_vector", "that 16 divides")]
    {
        let wrong = || launch(kernel, &[&floats(8), &out()]).grid(1, 1);
        Launch::reports(wrong, Kind::Validation, &[text, "buffer 0 `a` (floats)"]);
    }
}

#[test]
fn unbound_buffer() {
    let _alone = alone();
    let out = || memory(256, "out");
    let unbound = |kernel| {
        let mut launch = launch(kernel, &[&out(), &out()]);
        launch.arguments[0] = None;
        launch
    };
    unbound("copy_gated").is_clean();
    let text = "buffer 0 `a`: wants a buffer or bytes, got nothing";
    Launch::reports(|| unbound("copy"), Kind::Validation, &[text]);
    let zeros = unbound("copy_gated");
    zeros.run(0).unwrap();
    let Some(Argument::Buffer(out, 0)) = &zeros.arguments[1] else { unreachable!() };
    assert_eq!(contents::<f32>(out), [1.0; 64]);
}

#[test]
fn uninitialised() {
    let _alone = alone();
    launch("fill_threadgroup", &[&memory(256, "out")]).is_clean();
    let text = "of threadgroup variable `shared`, which nothing has written";
    let half = || launch("fill_half_threadgroup", &[&memory(256, "out")]);
    Launch::reports(half, Kind::Uninitialised, &[text]);

    launch("copy", &[&floats(64), &memory(256, "out")]).is_clean();
    let text = "buffer 0 `a` (fresh), which nothing has written";
    Launch::reports(
        || launch("copy", &[&memory(256, "fresh"), &memory(256, "out")]),
        Kind::Uninitialised,
        &[text],
    );
    // What a kernel has written is written.
    let between = memory(256, "between");
    launch("copy", &[&floats(64), &between]).is_clean();
    launch("copy", &[&between, &memory(256, "out")]).is_clean();
}

#[test]
fn inactive_lane() {
    let _alone = alone();
    launch("shuffle", &[&memory(256, "out")]).is_clean();
    let wrong = || launch("shuffle_inactive", &[&memory(256, "out")]);
    Launch::reports(wrong, Kind::InactiveLane, &["simd_shuffle"]);
}

#[test]
fn threadgroup_memory() {
    let _alone = alone();
    launch("all_threadgroup_memory", &[&memory(64, "out")]).is_clean();
    let text = "threadgroup memory: wants 32768 bytes at most, got 33792 bytes";
    Launch::reports(
        || launch("too_much_threadgroup_memory", &[&memory(64, "out")]),
        Kind::Validation,
        &[text],
    );
    let dynamic = |size| {
        let mut launch = launch("dynamic", &[&memory(256, "out")]);
        launch.threadgroup_memory = size;
        launch
    };
    dynamic(vec![256]).is_clean();
    Launch::reports(|| dynamic(vec![128]), Kind::OutOfBounds, &["`shared`, which has 128 bytes"]);
    Launch::reports(|| dynamic(vec![32768 + 16]), Kind::Validation, &["got 32784 bytes"]);
    let text = "threadgroup memory 0 `shared`: wants a length, got none";
    let none = dynamic(vec![]);
    none.run(1).unwrap_err();
    assert!(report::take().iter().any(|report| report.text.contains(text)));
}

#[test]
fn dispatches_without_barrier() {
    let _alone = alone();
    for seed in 0..4 {
        for ordered in [true, false] {
            let (a, b, c) = (floats(64), memory(256, "between"), memory(256, "out"));
            let (first, result) = launch("copy", &[&a, &b]).run_after(seed, true);
            result.unwrap();
            // Reading what others read is in any order.
            launch("copy", &[&a, &c]).run_after(seed, false).1.unwrap();
            assert_eq!(report::take(), []);
            launch("device_barrier", &[&b, &memory(256, "out")]).run_after(seed, ordered).1.unwrap();
            let found = report::take();
            if ordered {
                assert_eq!(found, []);
                continue;
            }
            let text = format!("buffer 0 `a` (between), which copy wrote (command {first})");
            assert!(found.iter().all(|report| report.kind == Kind::Hazard), "{found:#?}");
            assert!(found.iter().any(|report| report.text.contains(&text)), "{found:#?}");
        }
    }
}

#[test]
fn each_of_several_readers_counts() {
    let _alone = alone();
    for write_after in [0, 1, 2] {
        let (a, b) = (floats(64), floats(64));
        let read = || launch("copy", &[&a, &memory(256, "out")]).run_after(1, false);
        let readers = [read(), read(), read()].map(|(command, result)| result.map(|()| command).unwrap());
        assert_eq!(report::take(), []);
        // After two of three that nothing orders among themselves.
        let write = launch("copy", &[&b, &a]);
        write.run_where(1, &|earlier| earlier != readers[write_after]).1.unwrap();
        let found = report::take();
        let text = format!("copy read (command {})", readers[write_after]);
        let hazard = |report: &report::Report| report.kind == Kind::Hazard && report.text.contains(&text);
        assert!(found.len() == 1 && found.iter().all(hazard), "{write_after}: {found:#?}");

        // What comes after the write has that to be ordered after, and no reader.
        let again = launch("copy", &[&b, &a]);
        again.run_where(1, &|earlier| !readers.contains(&earlier)).1.unwrap();
        assert_eq!(report::take(), []);
    }
}

#[test]
fn other_bytes_of_a_buffer_are_no_hazard() {
    let _alone = alone();
    let both = values(&[0f32; 128], "both");
    let half = |offset| {
        let mut launch = launch("copy", &[&floats(64), &both]);
        launch.arguments[1] = Some(Argument::Buffer(both.clone(), offset));
        launch
    };
    half(0).run_after(1, false).1.unwrap();
    half(256).run_after(1, false).1.unwrap();
    assert_eq!(report::take(), []);
    half(252).run_after(1, false).1.unwrap();
    assert!(report::take().iter().all(|report| report.kind == Kind::Hazard));
}

#[test]
fn copies_are_commands() {
    let _alone = alone();
    let (a, b) = (floats(64), memory(256, "out"));
    launch("copy", &[&a, &b]).run(1).unwrap();
    let touched = |write, range, ordered| {
        let ordered = |_: u64, _: &Memory| ordered;
        touch(
            &b,
            range,
            write,
            "blit",
            &Context { command: command(), seed: 1, check: true, ordered: &ordered },
        );
        report::take()
    };
    assert_eq!(touched(false, 0..256, true), []);
    assert_eq!(touched(false, 0..0, false), []);
    let found = touched(false, 8..12, false);
    assert!(found.len() == 1 && found[0].kind == Kind::Hazard && found[0].place == "blit", "{found:#?}");
    assert!(found[0].text.contains("byte 8 copy wrote"), "{found:#?}");
    assert_eq!(touched(true, 0..256, true), []);
    launch("copy", &[&b, &memory(256, "after")]).run_after(1, false).1.unwrap();
    assert!(report::take()[0].text.contains("which blit wrote"));
}

#[test]
fn several_threads_run_dispatches() {
    let _alone = alone();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (a, b) = (floats(512), memory(8, "sums"));
                for seed in 0..20 {
                    launch("sum", &[&a, &b]).grid(512, 256).run(seed).unwrap();
                }
                assert_eq!(contents::<f32>(&b), [32640.0, 98176.0]);
            });
        }
    });
    assert_eq!(report::take(), []);
}

#[test]
fn softmax_of_many_rows() {
    let _alone = alone();
    let (rows, width) = (64, 4096u32);
    let values_in: Vec<f32> = (0..rows * width).map(|i| (i % 97) as f32 * 0.1).collect();
    let (a, b) = (values(&values_in, "rows"), memory(values_in.len() * 4, "out"));
    let checked = launch("softmax", &[&a, &b]).grid(rows * 1024, 1024).bytes(width);
    checked.run(1).unwrap();
    assert_eq!(report::take(), []);
    let sum: f64 = contents::<f32>(&b)[..width as usize].iter().map(|v| f64::from(*v)).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
}

/// Of this thread, which other work on the machine does not change.
fn cpu_time() -> std::time::Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Numbers, not verdicts: `cargo test --release -p softmetal --test checker -- --ignored --nocapture speed`.
#[test]
#[ignore = "measures"]
fn speed() {
    let _alone = alone();
    let (rows, width) = (512, 4096u32);
    let (a, b) =
        (values(&vec![0.5f32; (rows * width) as usize], "rows"), memory((rows * width * 4) as usize, "out"));
    for check in [false, true] {
        let mut softmax = launch("softmax", &[&a, &b]).grid(rows * 1024, 1024).bytes(width);
        softmax.check = check;
        let mut copy = launch("copy", &[&a, &b]).grid(rows * width, 1024);
        copy.check = check;
        let mut exchanges = launch("exchanges", &[&b]).grid(1024, 1024);
        exchanges.check = check;
        for (name, launch) in
            [("softmax 512x4096", softmax), ("copy of 2M", copy), ("1M exchanges", exchanges)]
        {
            for _ in 0..2 {
                let start = cpu_time();
                launch.run(1).unwrap();
                println!("{name}, checker {check}: {:?}", cpu_time() - start);
            }
        }
    }
    assert_eq!(report::take(), []);
}
