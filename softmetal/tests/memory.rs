//! The memory of buffers: each way to misuse it is reported, and the right use beside it is not.

use softmetal::exec::memory::{Place, find, poison};
use softmetal::metal::memory::{Allocation, StorageMode, Token, running};
use softmetal::report::{self, Kind, Report};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};

/// Reports are the process's: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(|e| e.into_inner());
    report::take();
    guard
}

fn shared(length: usize, label: &str) -> Allocation {
    Allocation::new(length, StorageMode::Shared, label).expect("memory")
}

fn read(memory: &Allocation, offset: usize) -> u8 {
    let contents = memory.contents().expect("shared");
    // SAFETY: a mapped address, or a fault that is expected.
    unsafe { contents.add(offset).read_volatile() }
}

fn write(memory: &Allocation, offset: usize, byte: u8) {
    let contents = memory.contents().expect("shared");
    // SAFETY: as above.
    unsafe { contents.add(offset).write_volatile(byte) }
}

fn only(reports: &[Report], kind: Kind, words: &[&str]) {
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert_eq!(reports[0].kind, kind);
    for word in words {
        assert!(reports[0].text.contains(word), "{word} in {}", reports[0]);
    }
}

#[test]
fn both_sides_see_the_same_bytes() {
    let _alone = alone();
    for length in [1, 15, 16, 17, 255, 256, 4095, 4096, 4097, 100_000] {
        let bytes: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
        let memory = Allocation::with_bytes(&bytes, StorageMode::Shared, "b").expect("memory");
        assert_eq!(memory.length(), length);
        for (offset, byte) in bytes.iter().enumerate() {
            assert_eq!(read(&memory, offset), *byte);
        }
        write(&memory, length - 1, 99);
        // SAFETY: the last byte.
        assert_eq!(unsafe { memory.memory().address().add(length - 1).read_volatile() }, 99);
        let aligned = if length % 256 == 0 { 256 } else { 16 };
        assert_eq!(memory.memory().address() as usize % aligned, 0);
        assert_eq!(memory.contents().expect("shared").as_ptr() as usize % aligned, 0);
    }
    assert!(report::take().is_empty());
}

#[test]
fn fresh_memory_is_recognised() {
    let _alone = alone();
    // Twice, so that the second has what the first left, if anything is left.
    for round in 0..2 {
        let memory = shared(5003, "fresh");
        for offset in (0..5000).step_by(8) {
            // SAFETY: within the buffer, aligned.
            let word = unsafe { memory.memory().address().add(offset).cast::<u64>().read() };
            assert_eq!(word, poison(offset), "{round} {offset}");
            assert_ne!(poison(offset), poison(offset + 8));
            assert!(f32::from_bits(word as u32).is_nan() && f32::from_bits((word >> 32) as u32).is_nan());
            assert!(
                half::f16::from_bits(word as u16).is_nan() && half::bf16::from_bits(word as u16).is_nan()
            );
        }
        assert_eq!(read(&memory, 5002), poison(5000).to_ne_bytes()[2]);
        for offset in 0..5003 {
            write(&memory, offset, 0);
        }
    }
}

#[test]
fn fresh_memory_can_be_zeros() {
    let _alone = alone();
    // More than are kept back when they are freed, so that the last have memory of the first.
    for round in 0..5000 {
        let memory = Allocation::fresh(5003, StorageMode::Shared, "zeros", true).expect("memory");
        for offset in 0..5003 {
            assert_eq!(read(&memory, offset), 0, "{round} {offset}");
            write(&memory, offset, 0xff);
        }
    }
}

#[test]
fn kernels_find_buffers_by_address() {
    let memory = shared(100, "found");
    let address = memory.memory().address() as usize;
    assert_eq!(find(address + 99), Place::Memory("found".into(), 100, 99));
    assert_eq!(find(address + 4096), Place::Arena(Some(("found".into(), 100, 4096))));
    memory.set_label("renamed");
    assert_eq!(find(address), Place::Memory("renamed".into(), 100, 0));
    drop(memory);
    assert!(matches!(find(address), Place::Arena(_)));
}

#[test]
fn private_memory_has_no_contents() {
    let memory = Allocation::with_bytes(&[1, 2, 3], StorageMode::Private, "p").expect("memory");
    assert!(memory.contents().is_none());
    // SAFETY: within the buffer.
    assert_eq!(unsafe { memory.memory().address().add(2).read() }, 3);
}

#[test]
fn reading_what_is_still_written_is_a_hazard() {
    let _alone = alone();
    let memory = shared(64, "result");
    write(&memory, 5, 42);
    let commands = Token::new("command buffer `forward`");
    memory.in_use(true, &commands);
    assert_eq!(read(&memory, 5), 42, "the access goes on");
    only(&report::take(), Kind::Hazard, &["byte 5 of result (64 bytes)", "`forward`", "got a read"]);
    memory.observed(&commands);

    memory.in_use(true, &commands);
    memory.observed(&commands);
    assert_eq!(read(&memory, 5), 42);
    write(&memory, 5, 43);
    assert!(report::take().is_empty());
}

#[test]
fn writing_what_is_still_read_is_a_hazard() {
    let _alone = alone();
    let memory = shared(10_000, "weights");
    let commands = Token::new("command buffer 7");
    memory.in_use(false, &commands);
    read(&memory, 9_999);
    assert!(report::take().is_empty(), "both may read");
    write(&memory, 9_999, 1);
    assert_eq!(read(&memory, 9_999), 1);
    only(&report::take(), Kind::Hazard, &["byte 9999 of weights", "command buffer 7", "got a write"]);
    memory.observed(&commands);
    write(&memory, 0, 1);
    assert!(report::take().is_empty());
}

#[test]
fn a_hazard_names_the_line() {
    let _alone = alone();
    let memory = shared(4000, "lines");
    let contents = memory.contents().expect("shared");
    let mut copy = vec![0u8; 4000];
    let commands = Token::new("c");
    memory.in_use(true, &commands);
    // SAFETY: a mapped address, or a fault that is expected.
    let (direct, _) = (line!() + 1, unsafe {
        contents.as_ptr().write_volatile(1);
    });
    memory.observed(&commands);
    memory.in_use(true, &commands);
    // By a function of the C library.
    // SAFETY: as above.
    let (copied, _) = (line!() + 1, unsafe {
        libc::memcpy(copy.as_mut_ptr().cast(), contents.as_ptr().cast(), std::hint::black_box(4000));
    });
    std::hint::black_box(&copy);
    let lines: Vec<_> = report::take().into_iter().filter_map(|report| report.line).collect();
    memory.observed(&commands);
    let wants = [direct, copied].map(|line| ("tests/memory.rs", line));
    assert_eq!(lines.len(), 2, "{lines:?}");
    for ((file, line), wants) in lines.iter().zip(wants) {
        assert!(file.ends_with(wants.0) && *line == wants.1, "{file}:{line}, not {wants:?}");
    }
}

#[test]
fn uses_nest() {
    let _alone = alone();
    let memory = shared(8, "nested");
    let (first, second) = (Token::new("first"), Token::new("second"));
    memory.in_use(false, &first);
    memory.in_use(true, &second);
    memory.in_use(false, &second);
    memory.observed(&first);
    read(&memory, 0);
    only(&report::take(), Kind::Hazard, &["second"]);
    memory.observed(&second);
    write(&memory, 0, 0);
    assert!(report::take().is_empty());

    // The one that writes is observed: reading is right again, writing is not.
    memory.in_use(false, &first);
    memory.in_use(true, &second);
    memory.observed(&second);
    read(&memory, 0);
    assert!(report::take().is_empty());
    write(&memory, 0, 0);
    only(&report::take(), Kind::Hazard, &["first", "got a write"]);
    memory.observed(&first);
}

#[test]
fn buffers_do_not_share_a_page() {
    let _alone = alone();
    let (one, other) = (shared(4, "one"), shared(4, "other"));
    let commands = Token::new("c");
    one.in_use(true, &commands);
    write(&other, 0, 1);
    assert!(report::take().is_empty());
    one.observed(&commands);
}

#[test]
fn threads_that_fault_together_all_go_on() {
    let _alone = alone();
    let memory = shared(1 << 16, "contended");
    for _ in 0..50 {
        let commands = Token::new("c");
        memory.in_use(true, &commands);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let memory = &memory;
                scope.spawn(move || write(memory, thread * 5000, 1));
            }
        });
        memory.observed(&commands);
    }
    only(&report::take(), Kind::Hazard, &["contended"]);
}

#[test]
fn small_buffers_are_cheap_and_many() {
    let _alone = alone();
    let mut live = Vec::new();
    for i in 0..20_000usize {
        live.push(Allocation::with_bytes(&i.to_ne_bytes(), StorageMode::Shared, "small").expect("memory"));
    }
    for (i, memory) in live.iter().enumerate() {
        assert_eq!(read(memory, 0), i as u8);
    }
    drop(live);
    for length in 1..60_000 {
        shared(length % 300, "recycled");
    }
    assert!(report::take().is_empty());
}

#[test]
fn what_was_freed_is_free() {
    // More than any machine has, a piece at a time.
    for _ in 0..200 {
        let memory = Allocation::new(8 << 20, StorageMode::Shared, "large").expect("memory");
        write(&memory, 0, 1);
    }
    assert!(Allocation::new(usize::MAX - 64, StorageMode::Shared, "too large").is_none());
    assert!(Allocation::new(1 << 45, StorageMode::Shared, "too large").is_none());
}

/// Runs a test of this file in a process of its own, where `end` is what is done; its output.
fn child(test: &str, end: fn()) -> Option<String> {
    if std::env::var_os("SOFTMETAL_TEST_CHILD").is_some() {
        end();
        std::process::exit(0);
    }
    let output = Command::new(std::env::current_exe().expect("a test"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("SOFTMETAL_TEST_CHILD", "1")
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (!output.status.success()).then_some(text)
}

fn expect(output: Option<String>, words: &[&str]) {
    let output = output.expect("the process ends");
    for word in words {
        assert!(output.contains(word), "{word} in {output}");
    }
}

#[test]
fn a_kernel_past_the_end_ends_the_process() {
    let output = child("a_kernel_past_the_end_ends_the_process", || {
        let memory = shared(64, "`x`");
        let _running = running("softmax_f32");
        // SAFETY: the guard behind the buffer.
        unsafe { memory.memory().address().add(64).write_volatile(1) };
    });
    expect(
        output,
        &["OutOfBounds in softmax_f32", "`x`: wants a byte of its 64, got a write of byte 64", "ends"],
    );
}

#[test]
fn a_kernel_up_to_the_end_does_not() {
    let output = child("a_kernel_up_to_the_end_does_not", || {
        let memory = shared(64, "`x`");
        let _running = running("softmax_f32");
        // SAFETY: the last byte.
        unsafe { memory.memory().address().add(63).write_volatile(1) };
    });
    assert_eq!(output, None);
}

#[test]
fn a_late_use_names_the_freed_buffer() {
    let output = child("a_late_use_names_the_freed_buffer", || {
        let memory = shared(64, "`gone`");
        let address = memory.contents().expect("shared");
        drop(memory);
        // SAFETY: pages that stay reserved.
        unsafe { address.read_volatile() };
    });
    expect(output, &["Lifetime in host", "`gone` (64 bytes): wants it alive, got a read of its byte 0"]);
}

#[test]
fn the_handler_before_is_still_asked() {
    extern "C" fn mine(_: libc::c_int) {
        // SAFETY: writes and ends, as a handler may.
        unsafe {
            libc::write(2, c"mine".as_ptr().cast(), 4);
            libc::_exit(3);
        }
    }
    let output = child("the_handler_before_is_still_asked", || {
        // SAFETY: a handler of the right type.
        unsafe { libc::signal(libc::SIGSEGV, mine as extern "C" fn(_) as usize) };
        let memory = shared(8, "b");
        let commands = Token::new("c");
        memory.in_use(true, &commands);
        write(&memory, 0, 1);
        assert_eq!(report::take().len(), 1);
        // SAFETY: no address of anything.
        unsafe { std::ptr::without_provenance_mut::<u8>(4096).write_volatile(1) };
    });
    expect(output, &["mine"]);
}

#[test]
fn without_a_handler_before_the_fault_ends_the_process() {
    let output = child("without_a_handler_before_the_fault_ends_the_process", || {
        let _memory = shared(8, "b");
        // SAFETY: no address of anything.
        unsafe { std::ptr::without_provenance_mut::<u8>(4096).write_volatile(1) };
    });
    assert!(output.is_some());
}
