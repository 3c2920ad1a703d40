//! The stand-in for `<metal_stdlib>`, compiled as C++ without the transformer: each function against the same one in
//! Rust, and simdgroups of 32 threads of the operating system.

#[path = "shim/integers.rs"]
mod integers;
#[path = "shim/lanes.rs"]
mod lanes;
#[path = "shim/math.rs"]
mod math;

use std::ffi::{CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

const DIRECTORY: &str = env!("CARGO_MANIFEST_DIR");

fn clang(args: &[&str], source: &Path) -> Output {
    let mut command =
        Command::new(std::env::var_os("SOFTMETAL_CLANG").unwrap_or_else(|| "clang++-19".into()));
    command.args(["-std=c++17", "-O1", "-fsigned-char", "-fno-lax-vector-conversions", "-ffp-contract=off"]);
    command.args(["-fno-strict-aliasing", "-Wno-psabi", "-Xclang", "-cl-single-precision-constant"]);
    for narrow in ["-ffloat16-excess-precision=none", "-fbfloat16-excess-precision=none"] {
        command.args(["-Xclang", narrow]);
    }
    command.arg("-I").arg(Path::new(DIRECTORY).join("shim")).args(args).arg(source);
    command.output().expect("clang++-19 is installed")
}

/// The compiled functions, loaded.
struct Functions(*mut c_void);

// SAFETY: a handle of dlopen's may be used by all threads.
unsafe impl Send for Functions {}
// SAFETY: as above.
unsafe impl Sync for Functions {}

impl Functions {
    fn address(&self, name: &str) -> *mut c_void {
        let symbol = CString::new(name).unwrap();
        // SAFETY: the handle is open and the name ends in NUL.
        let address = unsafe { libc::dlsym(self.0, symbol.as_ptr()) };
        assert!(!address.is_null(), "functions.cpp has no {name}");
        address
    }
}

static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let library = directory.path().join("functions.so");
    let source = Path::new(DIRECTORY).join("tests/shim/functions.cpp");
    let to = library.to_str().unwrap();
    let output =
        clang(&["-shared", "-fPIC", "-Wall", "-Werror", "--rtlib=compiler-rt", "-lm", "-o", to], &source);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = CString::new(to).unwrap();
    // SAFETY: what is loaded has no initialisers.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!handle.is_null());
    let functions = Functions(handle);
    lanes::install(functions.address("softmetal_runtime"));
    functions
});

/// `name` of each x, y and z, by an array function of the library's.
fn apply<T: Copy + Default>(function: &str, name: &str, x: &[T], y: &[T], z: &[T]) -> Vec<T> {
    type Function<T> = unsafe extern "C" fn(*const c_char, *const T, *const T, *const T, *mut T, i64) -> bool;
    assert!(x.len() == y.len() && x.len() == z.len());
    let mut results = vec![T::default(); x.len()];
    let c_name = CString::new(name).unwrap();
    // SAFETY: functions.cpp defines the function so, for arrays of n.
    let known = unsafe {
        let function: Function<T> = std::mem::transmute(FUNCTIONS.address(function));
        function(c_name.as_ptr(), x.as_ptr(), y.as_ptr(), z.as_ptr(), results.as_mut_ptr(), x.len() as i64)
    };
    assert!(known, "{function} knows no {name}, or contradicts itself");
    results
}

/// A stream of bits that is the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e3779b97f4a7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d049bb133111eb);
        z ^ (z >> 31)
    }
}

#[test]
fn vectors_matrices_and_words() {
    // SAFETY: functions.cpp defines it so.
    let laws: unsafe extern "C" fn() -> i32 = unsafe { std::mem::transmute(FUNCTIONS.address("laws")) };
    // SAFETY: as above.
    let line = unsafe { laws() };
    assert_eq!(line, 0, "functions.cpp:{line}: does not hold");
}

/// What Metal accepts, and beside it what Metal refuses.
const ACCEPTED_AND_REFUSED: [(&str, &str); 15] = [
    ("auto r = max(1u, 2u);", "auto r = max(1, 2u);"),
    ("auto r = max(1.0f, float(2));", "auto r = max(1.0f, 2);"),
    ("auto r = exp(1.0f);", "auto r = exp(1);"),
    ("auto r = pow(2.0f, 3.0f);", "auto r = pow(2, 3);"),
    ("float4 a = {1, 2, 3, 4}; a = max(a, 2);", "float4 a = {1, 2, 3, 4}; a = max(a, int4(2));"),
    ("half4 a; a = a * 2.0h_;", "half4 a; a = a * float4(2.0f);"),
    ("int4 i; i = i + 1;", "int4 i; float4 f = i;"),
    ("float v = simd_sum(1.0f);", "bfloat v = simd_sum(bfloat(1.0f));"),
    ("uint v = simd_shuffle_down(1u, ushort(1));", "long v = simd_shuffle_down(1l, ushort(1));"),
    ("uint v = simd_and(1u);", "float v = simd_and(1.0f);"),
    ("atomic<float> a;", "atomic<half> a;"),
    (
        "atomic_int a; atomic_fetch_max_explicit(&a, 1, memory_order_relaxed);",
        "atomic_float a; atomic_fetch_max_explicit(&a, 1.0f, memory_order_relaxed);",
    ),
    ("simdgroup_matrix<half, 8, 8> m;", "simdgroup_matrix<half, 16, 16> m;"),
    (
        "const half* p = nullptr; simdgroup_half8x8 m; simdgroup_load(m, p);",
        "const half* p = nullptr; simdgroup_float8x8 m; simdgroup_load(m, p);",
    ),
    ("uint r = as_type<uint>(1.0f);", "ushort r = as_type<ushort>(1.0f);"),
];

#[test]
fn refuses_what_metal_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let compiles = |text: &str| {
        let source: PathBuf = directory.path().join("case.cpp");
        let text = text.replace("2.0h_", "half(2.0f)");
        std::fs::write(
            &source,
            format!("#include \"metal_stdlib\"\nusing namespace metal;\nvoid f() {{ {text} }}"),
        )
        .unwrap();
        clang(&["-fsyntax-only"], &source).status.success()
    };
    for (accepted, refused) in ACCEPTED_AND_REFUSED {
        assert!(compiles(accepted), "refused: {accepted}");
        assert!(!compiles(refused), "accepted: {refused}");
    }
}

#[test]
fn every_header_is_complete() {
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(Path::new(DIRECTORY).join("shim")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let source = directory.path().join("header.cpp");
        std::fs::write(&source, format!("#include \"{name}\"\n")).unwrap();
        let output = clang(&["-fsyntax-only", "-Wall", "-Werror"], &source);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
