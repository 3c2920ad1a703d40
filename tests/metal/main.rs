//! The Metal shaders, read by clang with the rules of Apple's compiler that C++ for OpenCL shares: every pointer and
//! reference has an address space, and they do not mix. `scripts/metal.sh` runs this; it needs clang-19.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Bytes of threadgroup memory that every Apple GPU has.
const THREADGROUP_MEMORY: usize = 32 << 10;
/// Bytes that `setBytes` takes.
const SET_BYTES: usize = 4 << 10;

/// What clang says of a copy from `__constant` memory, which Metal makes.
const NO_COPY: &str =
    "cannot bind reference in address space '__constant' to object in address space '__generic'";

/// What is wrong with a shader's text, a line a problem.
fn check(text: &str) -> Vec<String> {
    // The built-ins that Metal fills in at program scope have no initialiser.
    let builtin = |line: &str| line.starts_with("const ") && line.contains("[[") && line.ends_with(";");
    let mut source = String::new();
    for line in text.lines() {
        source += if builtin(line) { "extern " } else { "" };
        source += line;
        source += "\n";
    }
    let (_, errors) = clang(&source, &[]);
    if !errors.is_empty() {
        return errors;
    }
    let (ast, errors) = clang(&source, &["-DCOPIES", "-Xclang", "-ast-dump=json"]);
    if !errors.is_empty() {
        return errors;
    }
    let ast = serde_json::from_str(&ast).expect("an AST in JSON");
    let mut reader = Reader::default();
    reader.read(&ast);
    source += &reader.limits;
    reader.problems.extend(clang(&source, &["-DCOPIES"]).1);
    reader.problems
}

/// Clang's output and errors.
fn clang(source: &str, options: &[&str]) -> (String, Vec<String>) {
    let mut child = Command::new("clang++-19")
        .args(
            "-x clcpp -cl-std=clc++2021 --target=x86_64-linux-gnu -cl-single-precision-constant -Xclang -cl-ext=+all"
                .split(' '),
        )
        .args("-cl-no-stdinc -nostdinc -fsyntax-only -Wno-unknown-attributes".split(' '))
        .args(["-I", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/metal")])
        .args(options)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("clang++-19, from Debian's package clang-19");
    let mut stdin = child.stdin.take().expect("a pipe");
    let source = source.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(source.as_bytes()));
    let output = child.wait_with_output().expect("clang's output");
    writer.join().expect("no panic").expect("clang reads its input");
    let text = String::from_utf8_lossy(&output.stderr);
    let all: Vec<_> = text.split_inclusive('\n').collect();
    let starts: Vec<_> = (0..all.len()).filter(|i| all[*i].contains("error:")).collect();
    let mut errors = Vec::new();
    for (n, start) in starts.iter().enumerate() {
        let notes = &all[*start..starts.get(n + 1).copied().unwrap_or(all.len())];
        if !notes.iter().any(|note| note.contains(NO_COPY)) {
            errors.push(all[*start].trim_end().to_owned());
        }
    }
    if !output.status.success() && starts.is_empty() {
        errors.push(format!("clang: {}", output.status));
    }
    (String::from_utf8_lossy(&output.stdout).into_owned(), errors)
}

/// Reads clang's tree in the order in which it is written, as a place says only what differs from the place before.
#[derive(Default)]
struct Reader {
    file: String,
    /// As `#line` has it.
    place: (String, u64),
    /// Inside of so many members that the compiler has made.
    implicit: usize,
    functions: BTreeMap<String, String>,
    problems: Vec<String>,
    /// Sizes that clang is to compare, as `static_assert`s.
    limits: String,
}

/// What one function declares.
#[derive(Default)]
struct Function {
    threadgroup: Vec<String>,
    params: Vec<String>,
}

impl Reader {
    fn read(&mut self, node: &Value) {
        self.node(node, &mut Function::default());
    }

    fn node(&mut self, node: &Value, function: &mut Function) {
        let Some(fields) = node.as_object() else { return };
        let kind = node["kind"].as_str().unwrap_or_default();
        let implicit = (node["isImplicit"] == true && kind.starts_with("CXX")) as usize;
        self.implicit += implicit;
        self.visit(fields, kind, node, function);
        self.implicit -= implicit;
    }

    fn visit(&mut self, fields: &Map<String, Value>, kind: &str, node: &Value, function: &mut Function) {
        for (key, value) in fields {
            if matches!(key.as_str(), "loc" | "range") {
                self.follow(value);
                let ours = self.implicit == 0 && !self.file.ends_with("metal_stdlib");
                if key == "range" && !kind.is_empty() && ours {
                    self.rules(kind, node, function);
                }
            }
        }
        let inner = node["inner"].as_array().map_or(&[][..], |inner| inner);
        if !matches!(kind, "FunctionDecl" | "CXXMethodDecl") {
            inner.iter().for_each(|n| self.node(n, function));
            return;
        }
        let mut own = Function::default();
        inner.iter().for_each(|n| self.node(n, &mut own));
        let name = node["name"].as_str().unwrap_or_default();
        let sum: String =
            own.threadgroup.iter().map(|t| format!("(sizeof({t}) + 15) / 16 * 16 + ")).collect();
        self.limits += &format!(
            "static_assert({sum}0 <= {THREADGROUP_MEMORY}, \"{name}: wants at most 32 KiB of threadgroup memory\");\n"
        );
        for param in own.params {
            self.limits += &format!(
                "static_assert(sizeof({param}) <= {SET_BYTES}, \"{name}: wants parameters of at most 4 KiB\");\n"
            );
        }
    }

    /// Every file and line on the way, the last of them where the node is.
    fn follow(&mut self, place: &Value) {
        for (key, value) in place.as_object().into_iter().flatten() {
            match (key.as_str(), value) {
                ("file", Value::String(file)) => self.file = file.clone(),
                ("line", Value::Number(line)) => self.place.1 = line.as_u64().unwrap_or_default(),
                ("presumedFile", Value::String(file)) => self.place.0 = file.clone(),
                ("presumedLine", Value::Number(line)) => self.place.1 = line.as_u64().unwrap_or_default(),
                ("includedFrom", _) => {}
                _ => self.follow(value),
            }
        }
    }

    fn rules(&mut self, kind: &str, node: &Value, function: &mut Function) {
        let name = node["name"].as_str().unwrap_or_default();
        let ty = node["type"]["qualType"].as_str().unwrap_or_default();
        let declared = matches!(kind, "VarDecl" | "ParmVarDecl" | "FieldDecl") && !name.is_empty();
        let cast = kind.ends_with("CastExpr") && kind != "ImplicitCastExpr";
        let result =
            kind == "FunctionDecl" && ty.split('(').next().is_some_and(|result| result.contains("__generic"));
        if (declared || cast || result) && ty.contains("__generic") {
            self.refuse(format!("wants an address space on each pointer and reference, got {name} {ty}"));
        }
        if (declared || cast) && ty.split(|c: char| !c.is_alphanumeric()).any(|word| word == "double") {
            self.refuse(format!("wants no double, got {name}"));
        }
        let plain = |node: &Value| {
            let ty = &node["type"];
            let ty = ty["desugaredQualType"].as_str().or(ty["qualType"].as_str()).unwrap_or_default();
            ty.rsplit(' ').next().unwrap_or_default().to_owned()
        };
        let converted = kind == "ImplicitCastExpr" && node["castKind"] == "FloatingCast";
        if converted && node["isPartOfExplicitCast"] != true && plain(node) == "__bf16" {
            self.refuse(format!("wants T(..) where a bfloat is made, got a {}", plain(&node["inner"][0])));
        }
        if kind == "VarDecl" && node["storageClass"] == "static" {
            self.refuse(format!("wants no static variable, got {name}"));
        }
        let object = &node["inner"][0];
        let from = object["inner"][0]["type"]["qualType"].as_str().unwrap_or_default();
        if kind == "MemberExpr"
            && object["castKind"] == "AddressSpaceConversion"
            && ["__global ", "__local ", "__constant "].iter().any(|space| from.contains(space))
        {
            self.refuse(format!("wants member functions on objects in thread memory only, got {from}"));
        }
        if kind == "VarDecl" && ty.starts_with("__local ") && !ty.contains(['*', '&']) {
            function.threadgroup.push(ty["__local ".len()..].to_owned());
        }
        let read = ty.starts_with("const ");
        let pointed = ty.trim_start_matches("const ").strip_prefix("__global ");
        if kind == "ParmVarDecl"
            && let Some((params, _)) = pointed.and_then(|ty| ty.split_once('&'))
        {
            function.params.push(params.trim().to_owned());
        }
        if kind == "FunctionDecl" {
            let spaces = ["__global ", "__local ", "__constant ", "__private "];
            let without = spaces.iter().fold(format!("{name} {ty}"), |t, space| t.replace(space, ""));
            let first = self.functions.entry(without).or_insert_with(|| ty.to_owned());
            if first != ty {
                self.refuse(format!(
                    "wants no overloads that differ only in address space, got two of {name}"
                ));
            }
        }
    }

    fn refuse(&mut self, problem: String) {
        let (file, line) = &self.place;
        self.problems.push(format!("{file}:{line}: error: {problem}"));
    }
}

/// The texts that the crate compiles, as its test `writes_its_metal_sources` wrote them.
#[test]
fn the_shaders_of_the_crate() {
    let dir =
        std::env::var_os("METAL_CANDLE_SHADERS").expect("METAL_CANDLE_SHADERS: the directory of the shaders");
    let mut files: Vec<_> = std::fs::read_dir(Path::new(&dir)).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "metal"));
    files.sort();
    assert!(files.len() > 1, "no shaders in {dir:?}");
    let next = std::sync::atomic::AtomicUsize::new(0);
    let problems = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let found = check(&std::fs::read_to_string(file).unwrap());
                    let name = file.file_name().unwrap().to_string_lossy();
                    problems.lock().unwrap().extend(found.into_iter().map(|p| format!("{name}: {p}")));
                }
            });
        }
    });
    let problems = problems.into_inner().unwrap();
    assert!(problems.is_empty(), "{} of {} shaders:\n{}", problems.len(), files.len(), problems.join("\n"));
    println!("{} shaders are in order", files.len());
}

const CLEAN: &str = r#"
#include <metal_stdlib>
using namespace metal;
typedef bfloat T;
struct Params { uint cols; float scale; };
struct alignas(16) Eight { T v[8]; };
const uint thread_index [[thread_index_in_threadgroup]];
#line 1 "op.h"
inline float sum(float v, threadgroup float* scratch) {
    scratch[thread_index] = v;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    return scratch[0] + scratch[1];
}
[[max_total_threads_per_threadgroup(256)]] kernel void op(device const T* x, device T* y, constant Params& p) {
    threadgroup float scratch[32];
    threadgroup Eight tile[4];
    tile[thread_index] = *(device const Eight*)(x + 8);
    Eight mine = tile[1];
    float row[4] = {0};
    thread float* last = row + 3;
    *last = 1.5;
    const Params copy = p;
    mine.v[1] = T(copy.scale);
    mine.v[0] = T(float(x[thread_index]) * p.scale + simd_sum(sum(*last, scratch)));
    *(device Eight*)(y + 8) = mine;
    simdgroup_matrix<float, 8, 8> c = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    simdgroup_load(c, scratch, 8);
    y[2] = T(c.thread_elements()[0]);
    y[0] = x[1];
    //HERE
}
"#;

#[test]
fn a_clean_shader_passes() {
    assert_eq!(check(CLEAN), [""; 0]);
}

#[test]
fn each_planted_error_is_found() {
    let planted = [
        ("device const T* from = scratch;", "cannot initialize"),
        ("const T* from = x;", "address space on each pointer"),
        ("auto from = (const T*)x;", "address space on each pointer"),
        ("float v = *(float*)row;", "address space on each pointer"),
        ("thread float& r = row[0]; const float& q = scratch[0]; r = q;", "address space on each pointer"),
        ("p.cols = 1;", "read-only"),
        ("y[1] = T(sum(1, row));", "no matching function"),
        ("device const float* scale = &p.scale;", "cannot initialize"),
        ("threadgroup float* to = last;", "cannot initialize"),
        ("y[1] = 1.0f;", "where a bfloat is made"),
        ("if (p.cols > 1) { threadgroup float late[2]; y[0] = T(late[1]); }", "outermost scope of a kernel"),
        ("threadgroup float more[8192]; y[0] = T(more[1]);", "at most 32 KiB of threadgroup memory"),
        ("static float kept = 1;", "static"),
        ("double d = 1; y[0] = T(float(d));", "no double"),
        ("uint forgotten = lane_id();", "undeclared"),
    ];
    for (line, wants) in planted {
        let problems = check(&CLEAN.replace("//HERE", line));
        assert!(problems.iter().any(|p| p.contains(wants)), "{line}: wants {wants:?}, got {problems:?}");
    }
    let above = [
        ("inline float get(const float* x) { return x[0]; }", "address space on each pointer"),
        ("inline float get(const float& x) { return x; }", "address space on each pointer"),
        ("struct Rows { float* first; };", "address space on each pointer"),
        (
            "inline float get(float v) { threadgroup float s[2]; s[0] = v; return s[1]; }",
            "non-kernel function",
        ),
        ("struct Params { uint many[1025]; };\n#define Params Many", "at most 4 KiB"),
        ("inline float sum(float v, device float* x) { return v + x[0]; }", "differ only in address space"),
    ];
    for (line, wants) in above {
        let text = match line.split_once("\n#define Params Many") {
            Some((params, _)) => {
                CLEAN.replace("struct Params { uint cols;", &params.replace("};", "uint cols;"))
            }
            None => CLEAN.replace("[[max_total", &format!("{line}\n[[max_total")),
        };
        let problems = check(&text);
        assert!(problems.iter().any(|p| p.contains(wants)), "{line}: wants {wants:?}, got {problems:?}");
    }
    let method = CLEAN.replace("T v[8];", "T v[8]; float first() const { return v[0]; }");
    let problems = check(&method.replace("//HERE", "y[1] = T(tile[0].first());"));
    assert!(
        problems[0].starts_with("op.h:") && problems[0].contains("in thread memory only"),
        "{problems:?}"
    );
    assert_eq!(check(&method.replace("//HERE", "y[1] = T(mine.first());")), [""; 0]);
}
