//! Functions of simdgroups: each lane is a thread of the operating system, which waits at an exchange for the others
//! that have not ended.

use super::FUNCTIONS;
use softmetal::exec::abi::{
    ACCESS_ATOMIC, ACCESS_READ, ACCESS_WRITE, COMPLAINT_INACTIVE_LANE, COMPLAINT_UNDEFINED, Runtime, SLOT,
    Site, Thread,
};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Arc, Condvar, Mutex};

const LANES: usize = 32;
type Slots = [u8; SLOT * LANES];

struct State {
    alive: u32,
    arrived: u32,
    round: u32,
    slots: Slots,
    /// What the last round's lanes held, and which they were.
    done: (Slots, u32),
    complaints: Vec<(c_int, String, u32)>,
    accesses: Vec<(usize, usize, c_int)>,
    barriers: Vec<(c_int, c_int)>,
}

struct Group {
    state: Mutex<State>,
    changed: Condvar,
}

impl State {
    /// Ends the round once all have arrived that can.
    fn settle(&mut self) -> bool {
        let all = self.arrived != 0 && self.arrived == self.alive;
        if all {
            self.done = (self.slots, self.arrived);
            self.arrived = 0;
            self.round += 1;
        }
        all
    }
}

thread_local! {
    static GROUP: RefCell<Option<Arc<Group>>> = const { RefCell::new(None) };
    static THREAD: Cell<Thread> = Cell::default();
    static READ: RefCell<Box<Slots>> = RefCell::new(Box::new([0; SLOT * LANES]));
}

fn with_state<R>(f: impl FnOnce(&Group, std::sync::MutexGuard<'_, State>) -> R) -> R {
    let group = GROUP.with_borrow(|group| group.clone().expect("runs in a simdgroup"));
    f(&group, group.state.lock().unwrap())
}

unsafe extern "C" fn thread() -> *const Thread {
    THREAD.with(|thread| thread.as_ptr().cast_const())
}

unsafe extern "C" fn barrier(scope: c_int, flags: c_int, _: Site) {
    with_state(|_, mut state| state.barriers.push((scope, flags)));
}

unsafe extern "C" fn exchange(value: *const c_void, size: u32, active: *mut u32, _: Site) -> *const c_void {
    let lane = THREAD.get().lane as usize;
    let done = with_state(|group, mut state| {
        // SAFETY: the caller has `size` bytes, no more than a slot's.
        let bytes = unsafe { std::slice::from_raw_parts(value.cast::<u8>(), size as usize) };
        state.slots[SLOT * lane..][..size as usize].copy_from_slice(bytes);
        state.arrived |= 1 << lane;
        let round = state.round;
        if state.settle() {
            group.changed.notify_all();
        }
        let state = group.changed.wait_while(state, |state| state.round == round).unwrap();
        state.done
    });
    // SAFETY: the caller's own variable.
    unsafe { *active = done.1 };
    READ.with_borrow_mut(|read| {
        **read = done.0;
        read.as_ptr().cast()
    })
}

unsafe extern "C" fn threadgroup_variable(
    _: *const c_void,
    _: usize,
    _: usize,
    _: *const c_char,
    _: Site,
) -> *mut c_void {
    unreachable!("no kernel is run")
}

unsafe extern "C" fn complain(complaint: c_int, what: *const c_char, site: Site) {
    // SAFETY: a literal of the library's.
    let what = unsafe { CStr::from_ptr(what) }.to_str().unwrap().to_owned();
    with_state(|_, mut state| state.complaints.push((complaint, what, site.line)));
}

unsafe extern "C" fn access(address: *const c_void, bytes: usize, kind: c_int, _: *const c_void) {
    with_state(|_, mut state| state.accesses.push((address as usize, bytes, kind)));
}

static RUNTIME: Runtime = Runtime { thread, barrier, exchange, threadgroup_variable, complain, access };

pub fn install(variable: *mut c_void) {
    // SAFETY: functions.cpp defines the pointer.
    unsafe { *variable.cast::<*const Runtime>() = &RUNTIME };
}

/// What came of a simdgroup: each lane's result, and what the runtime was told.
struct Outcome<R> {
    results: [Option<R>; LANES],
    complaints: Vec<(c_int, String, u32)>,
    accesses: Vec<(usize, usize, c_int)>,
    barriers: Vec<(c_int, c_int)>,
}

fn simdgroup<R: Send>(active: u32, f: impl Fn(u32) -> R + Sync) -> Outcome<R> {
    let _ = &*FUNCTIONS;
    let empty = [0xee; SLOT * LANES];
    let state = State {
        alive: active,
        arrived: 0,
        round: 0,
        slots: empty,
        done: (empty, 0),
        complaints: Vec::new(),
        accesses: Vec::new(),
        barriers: Vec::new(),
    };
    let group = Arc::new(Group { state: Mutex::new(state), changed: Condvar::new() });
    let run = |lane: u32| {
        GROUP.set(Some(group.clone()));
        THREAD.set(Thread { lane, ..Thread::default() });
        let result = f(lane);
        let mut state = group.state.lock().unwrap();
        state.alive &= !(1 << lane);
        if state.settle() {
            group.changed.notify_all();
        }
        result
    };
    let results = std::thread::scope(|scope| {
        let handle = |lane: usize| (active >> lane & 1 == 1).then(|| scope.spawn(move || run(lane as u32)));
        let handles: [_; LANES] = std::array::from_fn(handle);
        handles.map(|handle| handle.map(|handle| handle.join().unwrap()))
    });
    let mut state = group.state.lock().unwrap();
    let state = &mut *state;
    Outcome {
        results,
        complaints: std::mem::take(&mut state.complaints),
        accesses: std::mem::take(&mut state.accesses),
        barriers: std::mem::take(&mut state.barriers),
    }
}

fn floats(name: &str, active: u32, number: impl Fn(u32) -> u16 + Sync) -> Outcome<f32> {
    type Function = unsafe extern "C" fn(*const c_char, f32, u16) -> f32;
    let name = CString::new(name).unwrap();
    // SAFETY: functions.cpp defines it so.
    let function: Function = unsafe { std::mem::transmute(FUNCTIONS.address("lanes_float")) };
    // SAFETY: as above.
    simdgroup(active, |lane| unsafe { function(name.as_ptr(), value(lane), number(lane)) })
}

fn words(name: &str, active: u32, value: impl Fn(u32) -> u32 + Sync) -> [Option<u32>; LANES] {
    type Function = unsafe extern "C" fn(*const c_char, u32) -> u32;
    let name = CString::new(name).unwrap();
    // SAFETY: functions.cpp defines it so.
    let function: Function = unsafe { std::mem::transmute(FUNCTIONS.address("lanes_uint")) };
    // SAFETY: as above.
    let outcome = simdgroup(active, |lane| unsafe { function(name.as_ptr(), value(lane)) });
    assert!(outcome.complaints.is_empty(), "{:?}", outcome.complaints);
    outcome.results
}

/// What a lane holds: small whole numbers, whose sums are exact.
fn value(lane: u32) -> f32 {
    (lane * 7 % 11) as f32 - 3.0
}

/// Lanes that ended early, and none.
const MASKS: [u32; 3] = [u32::MAX, 0x00ff_f0f1, 0x8000_0001];

#[test]
fn sums_and_the_like() {
    for active in MASKS {
        let lanes = |from: u32, to: u32| (from..to).filter(move |lane| active >> lane & 1 == 1).map(value);
        let expect = |name: &str, want: &dyn Fn(u32) -> f32| {
            let outcome = floats(name, active, |_| 0);
            assert!(outcome.complaints.is_empty(), "{name}: {:?}", outcome.complaints);
            for (lane, got) in outcome.results.into_iter().enumerate() {
                let want = (active >> lane & 1 == 1).then(|| want(lane as u32));
                assert_eq!(got, want, "{name} of lane {lane} in {active:#x}");
            }
        };
        let quad = |lane: u32| lane / 4 * 4;
        expect("sum", &|_| lanes(0, 32).sum());
        expect("product", &|_| lanes(0, 32).product());
        expect("max", &|_| lanes(0, 32).reduce(f32::max).unwrap());
        expect("min", &|_| lanes(0, 32).reduce(f32::min).unwrap());
        expect("prefix_inclusive_sum", &|lane| lanes(0, lane + 1).sum());
        expect("prefix_exclusive_sum", &|lane| lanes(0, lane).sum::<f32>() + 0.0);
        expect("prefix_inclusive_product", &|lane| lanes(0, lane + 1).product());
        expect("prefix_exclusive_product", &|lane| lanes(0, lane).product());
        expect("broadcast_first", &|_| lanes(0, 32).next().unwrap());
        expect("quad_sum", &|lane| lanes(quad(lane), quad(lane) + 4).sum());
        expect("quad_max", &|lane| lanes(quad(lane), quad(lane) + 4).reduce(f32::max).unwrap());
        expect("quad_prefix_exclusive_sum", &|lane| lanes(quad(lane), lane).sum::<f32>() + 0.0);
        expect("half4", &|_| lanes(0, 32).sum::<f32>() * 4.0);
    }
}

/// The lane that each lane reads, or what it gets instead.
enum From {
    Lane(u32),
    Filling(u32),
    Own,
    Nobody,
}

#[test]
fn shuffles() {
    use From::{Filling, Lane, Nobody, Own};
    type Source = fn(u32, u32) -> From;
    let cases: [(&str, Source); 15] = [
        ("broadcast", |_, n| if n < 32 { Lane(n) } else { Nobody }),
        ("shuffle", |_, n| if n < 32 { Lane(n) } else { Nobody }),
        ("shuffle_up", |lane, n| if lane >= n { Lane(lane - n) } else { Own }),
        ("shuffle_down", |lane, n| if lane + n < 32 { Lane(lane + n) } else { Own }),
        ("shuffle_xor", |lane, n| if n < 32 { Lane(lane ^ n) } else { Nobody }),
        ("shuffle_rotate_up", |lane, n| Lane((lane + 64 - n) % 32)),
        ("shuffle_rotate_down", |lane, n| Lane((lane + n) % 32)),
        ("shuffle_and_fill_up", |lane, n| match n {
            n if n > 32 => Nobody,
            n if lane >= n => Lane(lane - n),
            n => Filling(lane + 32 - n),
        }),
        ("shuffle_and_fill_down", |lane, n| match lane + n {
            _ if n > 32 => Nobody,
            from if from < 32 => Lane(from),
            from => Filling(from - 32),
        }),
        ("shuffle_and_fill_down by 8", |lane, n| match lane % 8 + n {
            _ if n > 8 => Nobody,
            from if from < 8 => Lane(lane / 8 * 8 + from),
            from => Filling(lane / 8 * 8 + from - 8),
        }),
        ("quad_broadcast", |lane, n| if n < 4 { Lane(lane / 4 * 4 + n) } else { Nobody }),
        ("quad_shuffle_xor", |lane, n| if n < 4 { Lane(lane ^ n) } else { Nobody }),
        ("quad_shuffle_down", |lane, n| if lane % 4 + n < 4 { Lane(lane + n) } else { Own }),
        ("quad_shuffle_up", |lane, n| if lane % 4 >= n { Lane(lane - n) } else { Own }),
        ("quad_shuffle_rotate_down", |lane, n| Lane(lane / 4 * 4 + (lane + n) % 4)),
    ];
    for (name, source) in cases {
        for number in [0, 1, 2, 3, 5, 17, 31, 33] {
            for active in MASKS {
                let outcome = floats(name, active, |_| number as u16);
                let mut poisoned = 0;
                for lane in (0..32).filter(|lane| active >> lane & 1 == 1) {
                    let there = |from: u32| active >> from & 1 == 1;
                    let want = match source(lane, number) {
                        Lane(from) if there(from) => Some(value(from)),
                        Filling(from) if there(from) => Some(value(from) + 100.0),
                        Own => Some(value(lane)),
                        _ => None,
                    };
                    let got = outcome.results[lane as usize].unwrap();
                    poisoned += usize::from(want.is_none());
                    match want {
                        Some(want) => {
                            assert_eq!(got, want, "{name} by {number}, lane {lane}, in {active:#x}")
                        }
                        None => {
                            assert!(got.is_nan(), "{name} by {number}, lane {lane}, in {active:#x}: {got}")
                        }
                    }
                }
                assert_eq!(outcome.complaints.len(), poisoned, "{name} by {number} in {active:#x}");
            }
        }
    }
}

#[test]
fn each_lane_may_read_another_only_by_shuffle() {
    let outcome = floats("shuffle", u32::MAX, |lane| (31 - lane) as u16);
    assert!(outcome.complaints.is_empty());
    assert_eq!(outcome.results[3], Some(value(28)));
    for name in ["shuffle_xor", "broadcast", "shuffle_down", "quad_broadcast"] {
        let clean = floats(name, u32::MAX, |_| 1);
        assert!(clean.complaints.is_empty());
        let outcome = floats(name, u32::MAX, |lane| (lane % 2) as u16);
        assert_eq!(outcome.complaints.len(), 32, "{name}");
        assert!(outcome.complaints.iter().all(|(kind, ..)| *kind == COMPLAINT_UNDEFINED));
    }
}

#[test]
fn complaints_say_where() {
    let text = include_str!("functions.cpp");
    let line = 1 + text.lines().position(|line| line.contains("return simd_shuffle_xor")).unwrap() as u32;
    let outcome = floats("shuffle_xor", 1, |_| 1);
    assert_eq!(
        outcome.complaints,
        [(COMPLAINT_INACTIVE_LANE, "reads lane 01, which is not active".to_owned(), line)]
    );
}

#[test]
fn votes() {
    let odd = |lane: u32| lane % 2 + lane / 16;
    for active in MASKS {
        let yes = (0..32).filter(|lane| odd(*lane) != 0).fold(0, |bits, lane| bits | 1 << lane) & active;
        let expect = |name, want: &dyn Fn(u32) -> u32| {
            for (lane, got) in words(name, active, odd).into_iter().enumerate() {
                assert_eq!(got, got.map(|_| want(lane as u32)), "{name} of lane {lane} in {active:#x}");
            }
        };
        let values = || (0..32).filter(|lane| active >> lane & 1 == 1).map(odd);
        expect("and", &|_| values().reduce(|a, b| a & b).unwrap());
        expect("or", &|_| values().reduce(|a, b| a | b).unwrap());
        expect("xor", &|_| values().reduce(|a, b| a ^ b).unwrap());
        expect("ballot", &|_| yes);
        expect("all", &|_| u32::from(yes == active));
        expect("any", &|_| u32::from(yes != 0));
        expect("is_first", &|lane| u32::from(lane == active.trailing_zeros()));
        expect("active_threads_mask", &|_| active);
        expect("ballot's all", &|_| u32::from(yes == u32::MAX));
        expect("quad_ballot", &|lane| yes >> (lane / 4 * 4) & 15);
        expect("quad_any", &|lane| u32::from(yes >> (lane / 4 * 4) & 15 != 0));
        expect("quad_is_first", &|lane| {
            u32::from(lane % 4 == (active >> (lane / 4 * 4) & 15).trailing_zeros())
        });
        expect("uint2", &|_| active.count_ones());
    }
}

struct Pointers(*const f32, *const f32, *const f32, *mut f32);
// SAFETY: lanes write elements of their own.
unsafe impl Sync for Pointers {}

#[test]
fn matrices() {
    type Function = unsafe extern "C" fn(*const f32, *const f32, *const f32, *mut f32, bool, u64);
    // SAFETY: functions.cpp defines it so.
    let function: Function = unsafe { std::mem::transmute(FUNCTIONS.address("lanes_matrix")) };
    let numbers = |seed: usize| (0..256).map(|i| ((i * 37 + seed) % 19) as f32 - 9.0).collect::<Vec<f32>>();
    let (a, b, c) = (numbers(1), numbers(2), numbers(3));
    for (transpose, origin) in [(false, 0), (true, 3)] {
        let mut d = vec![f32::NAN; 64];
        let pointers = Pointers(a.as_ptr(), b.as_ptr(), c.as_ptr(), d.as_mut_ptr());
        let run = |_| {
            let Pointers(a, b, c, d) = &pointers;
            // SAFETY: the matrices and the second's rows of 16 lie within the numbers.
            unsafe { function(*a, *b, *c, *d, transpose, origin as u64) }
        };
        let outcome = simdgroup(u32::MAX, run);
        assert!(outcome.complaints.is_empty(), "{:?}", outcome.complaints);
        let told = |kind| outcome.accesses.iter().filter(|access| access.2 == kind && access.1 == 4).count();
        assert_eq!((told(ACCESS_READ), told(ACCESS_WRITE), told(ACCESS_ATOMIC)), (3 * 64, 64, 0));
        for (row, col) in (0..64).map(|i| (i / 8, i % 8)) {
            let left = |k: usize| if transpose { a[k * 8 + row] } else { a[row * 8 + k] };
            let right = |k: usize| b[(k + origin) * 16 + col + origin];
            let want = 2.0 * ((0..8).map(|k| left(k) * right(k)).sum::<f32>() + c[row * 8 + col]);
            assert_eq!(d[row * 8 + col], want, "row {row}, column {col}");
        }
        // One lane has ended.
        let outcome = simdgroup(u32::MAX >> 1, run);
        assert!(outcome.complaints.iter().any(|(kind, ..)| *kind == COMPLAINT_UNDEFINED));
    }
}

#[test]
fn matrices_of_half_are_summed_in_float() {
    use half::f16;
    type Function = unsafe extern "C" fn(*const f16, *const f16, *mut f32);
    // SAFETY: functions.cpp defines it so.
    let function: Function = unsafe { std::mem::transmute(FUNCTIONS.address("lanes_matrix_half")) };
    let a: Vec<f16> = (0..64).map(|i| f16::from_f32(1.0 + i as f32 / 1024.0)).collect();
    let mut d = vec![f32::NAN; 64];
    let pointers = Pointers(a.as_ptr().cast(), std::ptr::null(), std::ptr::null(), d.as_mut_ptr());
    let outcome = simdgroup(u32::MAX, |_| {
        let Pointers(a, _, _, d) = &pointers;
        // SAFETY: both matrices are the numbers.
        unsafe { function(a.cast(), a.cast(), *d) }
    });
    assert!(outcome.complaints.is_empty(), "{:?}", outcome.complaints);
    for (row, col) in (0..64).map(|i| (i / 8, i % 8)) {
        let product = |k: usize| a[row * 8 + k].to_f32() * a[k * 8 + col].to_f32();
        assert_eq!(d[row * 8 + col], (0..8).map(product).fold(1.0, |sum, product| sum + product));
    }
}

#[test]
fn atomics_tell_what_they_use() {
    type Function = unsafe extern "C" fn(*mut i32, *mut u32, *mut f32, *mut u64) -> c_int;
    // SAFETY: functions.cpp defines it so.
    let function: Function = unsafe { std::mem::transmute(FUNCTIONS.address("atomics")) };
    let outcome = simdgroup(1, |_| {
        let (mut i, mut u, mut f, mut l) = (0, 0, 0.0, 5);
        // SAFETY: each is a word of its own.
        let line = unsafe { function(&mut i, &mut u, &mut f, &mut l) };
        (line, i, u, f, l)
    });
    assert_eq!(outcome.results[0], Some((0, 12, 9, 3.5, 1 << 40)));
    assert!(outcome.accesses.iter().all(|access| access.2 == ACCESS_ATOMIC));
    assert!(outcome.accesses.len() >= 20);
    assert_eq!(outcome.accesses.last().map(|access| access.1), Some(8));
}

#[test]
fn barriers_say_what_they_order() {
    // SAFETY: functions.cpp defines it so.
    let function: unsafe extern "C" fn() = unsafe { std::mem::transmute(FUNCTIONS.address("barriers")) };
    // SAFETY: as above.
    let outcome = simdgroup(1, |_| unsafe { function() });
    assert_eq!(outcome.barriers, [(0, 2), (1, 3)]);
}
