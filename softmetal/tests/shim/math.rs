//! Functions of floating-point numbers, against Rust's in double precision.

use super::{FUNCTIONS, Random, apply};
use half::{bf16, f16};
use std::f64::consts::{LN_10, PI};
use std::ffi::{CString, c_char};

const ONE: [&str; 33] = [
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "cospi", "exp", "exp10",
    "exp2", "fabs", "floor", "fract", "log", "log10", "log2", "rint", "round", "rsqrt", "saturate", "sign",
    "sin", "sinh", "sinpi", "sqrt", "tan", "tanh", "tanpi", "trunc",
];
const TWO: [&str; 13] = [
    "atan2",
    "copysign",
    "divide",
    "fdim",
    "fmax",
    "fmin",
    "fmod",
    "max",
    "min",
    "nextafter",
    "pow",
    "powr",
    "step",
];
const THREE: [&str; 10] =
    ["clamp", "fma", "fmax3", "fmedian3", "fmin3", "max3", "median3", "min3", "mix", "smoothstep"];

/// A number of the types that shaders compute in.
trait Float: Copy + Default {
    /// The largest number below 1.
    const BELOW_ONE: f64;
    fn from_f64(value: f64) -> Self;
    fn to_f64(self) -> f64;
    /// Numbers in their order, beside each other.
    fn rank(self) -> i64;
    fn next(self, to: Self) -> Self;
}

fn rank(bits: u32, sign: u32) -> i64 {
    let magnitude = i64::from(bits & !sign);
    if bits & sign != 0 { -magnitude } else { magnitude }
}

macro_rules! float {
    ($t:ty, $bits:ty, $below_one:expr, $from:expr) => {
        impl Float for $t {
            const BELOW_ONE: f64 = $below_one;
            fn from_f64(value: f64) -> Self {
                $from(value)
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn rank(self) -> i64 {
                rank(u32::from(self.to_bits()), 1 << (<$bits>::BITS - 1))
            }
            fn next(self, to: Self) -> Self {
                let (a, b) = (self.to_f64(), to.to_f64());
                if a.is_nan() || b.is_nan() || a == b {
                    return if a.is_nan() { self } else { to };
                }
                let rank = self.rank() + if b > a { 1 } else { -1 };
                let sign = if rank < 0 || (rank == 0 && a < 0.0) { 1 << (<$bits>::BITS - 1) } else { 0 };
                Self::from_bits(rank.unsigned_abs() as $bits | sign)
            }
        }
    };
}
float!(f32, u32, 1.0 - 1.0 / (1u32 << 24) as f64, |value| value as f32);
float!(f16, u16, 1.0 - 1.0 / 2048.0, |value| f16::from_f32(odd(value)));
float!(bf16, u16, 1.0 - 1.0 / 256.0, |value| bf16::from_f32(odd(value)));

/// A float near a number, odd unless it is the number: what it is rounded to then, the number would be.
fn odd(value: f64) -> f32 {
    let near = value as f32;
    match f64::from(near) {
        back if back == value || value.is_nan() || near.to_bits() % 2 == 1 => near,
        back if back.abs() < value.abs() => f32::from_bits(near.to_bits() + 1),
        _ => f32::from_bits(near.to_bits() - 1),
    }
}

/// x less the multiple of `period` nearest to it, which is exact.
fn remainder(x: f64, period: f64) -> f64 {
    let r = x % period;
    if r.abs() > period / 2.0 { r - period.copysign(r) } else { r }
}

fn sinpi(x: f64) -> f64 {
    match remainder(x, 2.0) {
        r if r.abs() == 1.0 || r == 0.0 => 0.0f64.copysign(x),
        r => (r * PI).sin(),
    }
}

fn median(x: f64, y: f64, z: f64) -> f64 {
    match (x.is_nan(), y.is_nan(), z.is_nan()) {
        (true, ..) => y.min(z),
        (_, true, _) => x.min(z),
        (.., true) => x.min(y),
        _ => x.min(y).max(x.max(y).min(z)),
    }
}

// NaN becomes the bound, which `clamp` would keep.
#[allow(clippy::manual_clamp)]
fn expected<T: Float>(name: &str, x: f64, y: f64, z: f64) -> f64 {
    match name {
        "abs" | "fabs" => x.abs(),
        "acos" => x.acos(),
        "acosh" => x.acosh(),
        "asin" => x.asin(),
        // Rust's are not exact for small arguments.
        "asinh" if x.abs() < 1e-3 => x * (1.0 - x * x / 6.0),
        "asinh" => x.asinh(),
        "atan" => x.atan(),
        "atanh" if x.abs() < 1e-3 => x * (1.0 + x * x / 3.0),
        "atanh" => 0.5 * ((1.0 + x) / (1.0 - x)).ln(),
        "ceil" => x.ceil(),
        "cos" => x.cos(),
        "cosh" => x.cosh(),
        "cospi" => match remainder(x, 2.0).abs() {
            0.5 => 0.0,
            r => (r * PI).cos(),
        },
        "exp" => x.exp(),
        "exp10" => (x * LN_10).exp(),
        "exp2" => x.exp2(),
        "floor" => x.floor(),
        "fract" => {
            (x - x.floor()).min(T::BELOW_ONE) + if x.is_nan() || x.is_infinite() { f64::NAN } else { 0.0 }
        }
        "log" => x.ln(),
        "log10" => x.log10(),
        "log2" => x.log2(),
        "rint" => x.round_ties_even(),
        "round" => x.round(),
        "rsqrt" => 1.0 / x.sqrt(),
        "saturate" => x.max(0.0).min(1.0),
        "sign" if x.is_nan() => 0.0,
        "sign" if x == 0.0 => x,
        "sign" => x.signum(),
        "sin" => x.sin(),
        "sinh" => x.sinh(),
        "sinpi" => sinpi(x),
        "sqrt" => x.sqrt(),
        "tan" => x.tan(),
        "tanh" => x.tanh(),
        "tanpi" => match remainder(x, 2.0) {
            0.5 | -1.5 => f64::INFINITY,
            -0.5 | 1.5 => f64::NEG_INFINITY,
            r => (remainder(r, 1.0) * PI).tan(),
        },
        "trunc" => x.trunc(),
        "atan2" => x.atan2(y),
        "copysign" => x.copysign(y),
        "divide" => x / y,
        "fdim" if x.is_nan() || y.is_nan() => f64::NAN,
        "fdim" => {
            if x > y {
                x - y
            } else {
                0.0
            }
        }
        "fmax" | "max" => x.max(y),
        "fmin" | "min" => x.min(y),
        "fmod" => x % y,
        "nextafter" => T::from_f64(x).next(T::from_f64(y)).to_f64(),
        "pow" => x.powf(y),
        "powr" if x < 0.0 || y.is_nan() || (x == 0.0 && y == 0.0) || (x.is_infinite() && y == 0.0) => {
            f64::NAN
        }
        "powr" if x == 1.0 && y.is_infinite() => f64::NAN,
        "powr" => x.abs().powf(y) + if x.is_nan() { f64::NAN } else { 0.0 },
        "step" => {
            if y < x {
                0.0
            } else {
                1.0
            }
        }
        "clamp" => x.max(y).min(z),
        // Rounded once, where a double is not wide enough to be rounded again.
        "fma" if T::BELOW_ONE == f32::BELOW_ONE => f64::from((x as f32).mul_add(y as f32, z as f32)),
        "fma" => x.mul_add(y, z),
        "fmax3" | "max3" => x.max(y).max(z),
        "fmin3" | "min3" => x.min(y).min(z),
        "fmedian3" | "median3" => median(x, y, z),
        "mix" => f64::from(x as f32 + (y as f32 - x as f32) * z as f32),
        "smoothstep" => {
            let t = ((z as f32 - x as f32) / (y as f32 - x as f32)).max(0.0).min(1.0);
            f64::from(t * t * (3.0 - 2.0 * t))
        }
        _ => panic!("{name}"),
    }
}

/// Checks `name` within `ulps`: how many results are not the number nearest to the exact one.
fn check<T: Float>(function: &str, name: &str, ulps: i64, x: &[T], y: &[T], z: &[T]) -> usize {
    let results = apply(function, name, x, y, z);
    let mut off = 0;
    for (i, result) in results.into_iter().enumerate() {
        let (x, y, z) = (x[i].to_f64(), y[i].to_f64(), z[i].to_f64());
        let exact = expected::<T>(name, x, y, z);
        let want = T::from_f64(exact);
        let (got_f64, want_f64) = (result.to_f64(), want.to_f64());
        // Which zero is the larger one is left open.
        let unsure = ["max", "min", "med", "clamp", "saturate"].iter().any(|part| name.contains(part));
        let good = match (got_f64.is_nan(), want_f64.is_nan()) {
            (false, false) => {
                let apart = (result.rank() - want.rank()).abs();
                off += usize::from(apart != 0);
                let signs = got_f64.is_sign_negative() == want_f64.is_sign_negative();
                apart <= ulps && (signs || exact != 0.0 || unsure)
            }
            (got, want) => got && want,
        };
        assert!(good, "{function}: {name}({x:e}, {y:e}, {z:e}) wants {want_f64:e}, got {got_f64:e}");
    }
    off
}

/// What C says of NaN, it says of quiet ones.
fn quiet(x: f32) -> f32 {
    if x.is_nan() { f32::NAN } else { x }
}

fn floats(count: usize, seed: u64) -> Vec<f32> {
    let specials = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        2.0,
        3.0,
        -3.0,
        10.0,
        0.1,
        100.0,
        -100.0,
        1e-5,
        1e-20,
        1e20,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        1e-40,
        -1e-45,
        8388609.0,
        0.99999994,
        1.0000001,
        -1e-9,
        16777216.0,
    ];
    let mut random = Random(seed);
    let mut number = || match random.next() {
        r if r % 4 == 0 => specials[(r >> 8) as usize % specials.len()],
        r if r % 4 == 1 => quiet(f32::from_bits((r >> 16) as u32)),
        r => ((r >> 40) as f32 / (1 << 23) as f32 - 1.0) * [1.0, 4.0, 30.0, 1000.0][(r >> 3) as usize % 4],
    };
    (0..count).map(|_| number()).collect()
}

#[test]
fn float_functions() {
    let (x, y, z) = (floats(30_000, 1), floats(30_000, 2), floats(30_000, 3));
    for function in ["math_float", "math_precise"] {
        for name in ONE.into_iter().chain(TWO).chain(THREE) {
            // glibc's own bound for its functions; the others are rounded correctly.
            let ulps = match name {
                "acos" | "acosh" | "asin" | "asinh" | "atan" | "atanh" | "cosh" | "sinh" | "tan" | "tanh"
                | "log10" | "atan2" | "exp" | "exp2" | "exp10" | "log" | "log2" | "sin" | "cos" | "pow"
                | "powr" => 1,
                _ => 0,
            };
            check(function, name, ulps, &x, &y, &z);
        }
    }
}

/// Results of a type's 65536 that float's rounding may have moved from one side of a tie to the other.
const MOST_OFF: usize = 24;

/// All numbers of a narrow type, which has each result rounded once from float's.
fn narrow<T: Float>(function: &str, from_bits: fn(u16) -> T) {
    let all: Vec<T> = (0..=u16::MAX).map(from_bits).collect();
    for name in ONE {
        let off = check(function, name, 1, &all, &all, &all);
        assert!(off <= MOST_OFF, "{function}: {name} is not the nearest number {off} times");
    }
    let mut random = Random(4);
    let mut some = || (0..all.len()).map(|_| from_bits(random.next() as u16)).collect::<Vec<T>>();
    let (x, y, z) = (some(), some(), some());
    for name in TWO.into_iter().chain(THREE) {
        let off = check(function, name, 1, &x, &y, &z);
        assert!(off <= MOST_OFF, "{function}: {name} is not the nearest number {off} times");
    }
}

#[test]
fn half_functions() {
    narrow("math_half", |bits| f16::from_f32(quiet(f16::from_bits(bits).to_f32())));
}

#[test]
fn bfloat_functions() {
    narrow("math_bfloat", |bits| bf16::from_f32(quiet(bf16::from_bits(bits).to_f32())));
}

#[test]
fn fast_functions_are_made_as_metal_says() {
    let x: Vec<f32> = (1..2000).map(|i| i as f32 / 400.0).collect();
    let y = vec![1.7; x.len()];
    for name in ONE.into_iter().chain(TWO).chain(THREE) {
        let (fast, precise) = (apply("math_fast", name, &x, &y, &y), apply("math_precise", name, &x, &y, &y));
        for i in 0..x.len() {
            let near =
                fast[i] == precise[i] || (fast[i] - precise[i]).abs() <= 1e-5 * precise[i].abs().max(1.0);
            assert!(
                near || (fast[i].is_nan() && precise[i].is_nan()),
                "{name}({}): {} {}",
                x[i],
                fast[i],
                precise[i]
            );
        }
    }
    let one = |function, name, x: f32| apply(function, name, &[x], &[2.0], &[0.0])[0];
    assert!(one("math_fast", "tanh", 50.0).is_nan());
    assert_eq!(one("math_precise", "tanh", 50.0), 1.0);
    assert_eq!(one("math_fast", "sinh", 1e-9), 0.0);
    assert_eq!(one("math_fast", "pow", -3.0), 9.0);
    assert!(one("math_fast", "powr", -3.0).is_nan());
}

#[test]
fn functions_with_two_results() {
    type Function = unsafe extern "C" fn(*const c_char, *const f32, *mut f32, *mut f32, i64) -> bool;
    let x = floats(5_000, 9);
    let parts = |name: &str| {
        let (mut first, mut second) = (vec![0.0f32; x.len()], vec![0.0f32; x.len()]);
        let name = CString::new(name).unwrap();
        // SAFETY: functions.cpp defines it so, for arrays of n.
        let known = unsafe {
            let function: Function = std::mem::transmute(FUNCTIONS.address("parts"));
            function(name.as_ptr(), x.as_ptr(), first.as_mut_ptr(), second.as_mut_ptr(), x.len() as i64)
        };
        assert!(known);
        first.into_iter().zip(second)
    };
    let same = |a: f32, b: f32| a == b || (a.is_nan() && b.is_nan());
    for (&x, (part, whole)) in x.iter().zip(parts("modf")) {
        let fraction = if x.is_infinite() { 0.0 } else { x - x.trunc() };
        assert!(same(part, fraction) && same(whole, x.trunc()), "modf({x:e}): {part:e} {whole:e}");
    }
    for (&x, (fraction, exponent)) in x.iter().zip(parts("frexp")) {
        let good = (0.5..1.0).contains(&fraction.abs()) && exponent.is_finite();
        assert!(good || x == 0.0 || !x.is_finite(), "frexp({x:e}): {fraction:e} {exponent}");
    }
    for (&x, (exponent, _)) in x.iter().zip(parts("ilogb")) {
        let want = match x {
            0.0 => f32::NEG_INFINITY,
            x if !x.is_finite() => f32::INFINITY,
            x => (f64::from(x).abs().to_bits() >> 52) as f32 - 1023.0,
        };
        assert_eq!(exponent, want, "ilogb({x:e})");
    }
    for name in ["sincos", "sincos of half"] {
        for (&x, (sine, cosine)) in x.iter().zip(parts(name)) {
            let (x, tolerance) = if name == "sincos" { (x, 1e-7) } else { (f16::from_f32(x).to_f32(), 5e-4) };
            let near = |got: f32, want: f64| (f64::from(got) - want).abs() <= tolerance;
            let good = near(sine, f64::from(x).sin()) && near(cosine, f64::from(x).cos());
            assert!(good || !x.is_finite(), "{name}({x:e}): {sine} {cosine}");
        }
    }
}

#[test]
fn classes() {
    let bits = |x: f64, normal: bool| {
        let (finite, nan) = (u32::from(x.is_finite()), u32::from(x.is_nan()));
        let sign = u32::from(x.is_sign_negative());
        finite
            | u32::from(x.is_infinite()) << 1
            | nan << 2
            | u32::from(normal) << 3
            | sign << 4
            | nan << 5
            | finite << 6
            | nan << 7
    };
    // SAFETY: functions.cpp defines it so.
    let float: unsafe extern "C" fn(f32) -> u32 =
        unsafe { std::mem::transmute(FUNCTIONS.address("classes_float")) };
    for x in floats(5_000, 12) {
        // SAFETY: as above.
        assert_eq!(unsafe { float(x) }, bits(f64::from(x), x.is_normal()), "{x:e}");
    }
    let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let mut results = vec![0u32; all.len()];
    // SAFETY: as above, over arrays of n.
    unsafe {
        let half: unsafe extern "C" fn(*const f16, *mut u32, i64) =
            std::mem::transmute(FUNCTIONS.address("classes_half"));
        half(all.as_ptr(), results.as_mut_ptr(), all.len() as i64);
    }
    for (x, got) in all.into_iter().zip(results) {
        assert_eq!(got, bits(f64::from(x), x.is_normal()), "{x:e}");
    }
}
