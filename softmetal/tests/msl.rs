//! From Metal's text to a kernel: what kernels are called, what they take, what is refused and where.

use softmetal::exec::abi::{
    PARAM_BUFFER, PARAM_BUILTIN, PARAM_CONSTANT, PARAM_THREADGROUP, PARAM_UNUSED, PARAM_WRITES, Param,
};
use softmetal::msl::{Constants, Kernel, Library, Options};
use std::ffi::CStr;

fn library(text: &str) -> Library {
    Library::new(text, &Options::default()).unwrap()
}

/// The error of a text, or of one of its kernels.
fn error(text: &str) -> String {
    let library = match Library::new(text, &Options::default()) {
        Ok(library) => library,
        Err(error) => return error.to_string(),
    };
    let failed = library.kernels().filter_map(|name| library.kernel(name, &Constants::default()).err());
    failed.map(|error| error.to_string()).collect()
}

const BOOL: u32 = 53;

fn with_mask(value: bool) -> Constants {
    let mut constants = Constants::default();
    constants.by_index.insert(3, (BOOL, vec![value.into()]));
    constants
}

fn parameters(kernel: &Kernel) -> Vec<(String, i32, i32, i32, u32)> {
    let entry = kernel.entry();
    // SAFETY: the image's table has as many.
    let parameters = unsafe { std::slice::from_raw_parts(entry.params, entry.param_count as usize) };
    let row = |p: &Param| {
        // SAFETY: a constant of the image.
        let name = unsafe { CStr::from_ptr(p.name) }.to_str().unwrap().to_owned();
        (name, p.kind, p.index, p.flags, p.size)
    };
    parameters.iter().map(row).collect()
}

#[test]
fn kernels_are_found_by_every_form_of_name() {
    let library = library(include_str!("msl/kernels.metal"));
    let mut names: Vec<&str> = library.kernels().collect();
    names.sort_unstable();
    let wanted = [
        "another name",
        "as_attribute",
        "by_decltype_f16_(int)4",
        "by_decltype_f32_3",
        "by_default",
        "by_typedef",
        "in_front",
        "in_full",
        "inner::nested",
        "without_value",
    ];
    assert_eq!(names, wanted);
    for name in wanted.iter().filter(|name| **name != "without_value") {
        let kernel = library.kernel(name, &with_mask(true)).unwrap();
        // SAFETY: a constant of the image.
        let entry = unsafe { CStr::from_ptr(kernel.entry().name) };
        assert_eq!(entry.to_str().unwrap(), *name);
        assert!(kernel.image().is_file());
    }
    assert!(library.kernel("by_decltype", &Constants::default()).is_err());
}

#[test]
fn parameters_have_their_index_and_address_space() {
    let library = library(include_str!("msl/kernels.metal"));
    let row = |name: &str, kind, index, flags, size| (name.to_owned(), kind, index, flags, size);
    let kernel = library.kernel("in_front", &Constants::default()).unwrap();
    assert_eq!(kernel.entry().max_threads, 128);
    let wanted = [
        row("y", PARAM_BUFFER, 0, PARAM_WRITES, 4),
        row("sizes", PARAM_BUFFER, 1, PARAM_CONSTANT, 8),
        row("x", PARAM_BUFFER, 2, 0, 4),
        row("shared", PARAM_THREADGROUP, 0, PARAM_WRITES, 4),
        row("i", PARAM_BUILTIN, 0, 0, 4),
    ];
    assert_eq!(parameters(&kernel), wanted);

    for (mask, unused) in [(true, 0), (false, PARAM_UNUSED)] {
        let kernel = library.kernel("as_attribute", &with_mask(mask)).unwrap();
        let wanted = [row("y", PARAM_BUFFER, 2, PARAM_WRITES, 2), row("x", PARAM_BUFFER, 0, 0, 2)];
        assert_eq!(parameters(&kernel)[..2], wanted);
        assert_eq!(parameters(&kernel)[2], row("mask", PARAM_BUFFER, 5, unused, 1));
    }

    let threads = |name| library.kernel(name, &Constants::default()).unwrap().entry().max_threads;
    assert_eq!((threads("by_typedef"), threads("in_full"), threads("by_default")), (32, 32, 0));
    let nested = library.kernel("inner::nested", &Constants::default()).unwrap();
    assert_eq!(parameters(&nested)[1], row("n", PARAM_BUFFER, 30, PARAM_CONSTANT, 4));
}

#[test]
fn function_constants_want_their_type_and_a_value_where_they_are_used() {
    let library = library(include_str!("msl/kernels.metal"));
    let refused = |name, constants: &Constants| library.kernel(name, constants).err().unwrap().to_string();
    let text = refused("without_value", &Constants::default());
    assert_eq!(text, "function constant `scale`: wants a value, got none");
    let mut constants = Constants::default();
    constants.by_name.insert("scale".to_owned(), (BOOL, vec![1]));
    let text = refused("without_value", &constants);
    assert!(text.starts_with("program_source:5:16: error: function constant `scale`: wants float"), "{text}");
    constants.by_name.insert("scale".to_owned(), (3, 2.5f32.to_ne_bytes().to_vec()));
    library.kernel("without_value", &constants).unwrap();
}

#[test]
fn errors_name_the_line_of_the_text() {
    let text = "#include <metal_stdlib>\nusing namespace metal;\nkernel void k(device float* x) {\n    x[0] = nothing;\n}\n";
    assert_eq!(error(text), "program_source:4:12: error: use of undeclared identifier 'nothing'");
    // Behind what grows when it is rewritten, the column is still the text's own.
    let text = text.replace("x[0] = nothing", "x[0] = float4(1, 2, 3, 4).x + nothing");
    assert_eq!(error(&text), "program_source:4:35: error: use of undeclared identifier 'nothing'");
    let text = "#define FN void\n#line 7 \"op.h\"\nkernel FN k(device float* x) {\n    x[0] = nothing;\n}\n";
    assert_eq!(error(text), "op.h:8:12: error: use of undeclared identifier 'nothing'");
    assert_eq!(error("\n#error no such thing\n"), "program_source:2:2: error: no such thing");
    // An error in our headers is one of the line that uses them.
    let text = "#include <metal_stdlib>\nkernel void k(device float4* x) {\n    x[0] = float4(x[0].xyz, x[0].xyz);\n}\n";
    assert!(error(text).starts_with("program_source:3:"), "{}", error(text));
}

#[test]
fn what_is_not_known_is_refused_by_its_name() {
    let refused = |text: &str, line: u32, name: &str| {
        let said = error(&format!("#include <metal_stdlib>\nusing namespace metal;\n{text}"));
        let at = format!("program_source:{line}:");
        assert!(said.contains(&at) && said.contains(name), "{text}\n{said}");
    };
    refused("kernel void k(texture2d<float> t [[texture(0)]]) {}", 3, "texture");
    refused("kernel void k(device float* x,\n  sampler s [[sampler(0)]]) {}", 4, "sampler");
    refused("struct A { device float* x [[id(0)]]; };", 3, "`id`");
    refused("vertex float4 v() { return 0; }", 3, "`vertex`");
    refused("[[visible]] float v() { return 0; }", 3, "`visible`");
    refused("[[nothing]] kernel void k() {}", 3, "`nothing`");
    refused("kernel void k(device float* x, uint i [[thread_of_gold]]) {}", 3, "`thread_of_gold`");
    refused("kernel void k(device float* x) {\n double y = 1; x[0] = y; }", 4, "`double`");
    refused("kernel void k(device float* x, float y) {}", 3, "`y`");
    refused("kernel void k(device float* x [[buffer(4)]], device float* y) {}", 3, "`y`");
    refused("kernel void k(device float* x) {\n threadgroup float y = 1; }", 4, "threadgroup memory");
    refused("kernel void k(device float* x) {\n device float* threadgroup y[2]; }", 4, "threadgroup");
    refused("threadgroup float y[4];", 3, "threadgroup variable");
    refused("kernel void k(device float* x) {\n#pragma METAL magic\n}", 4, "magic");
    refused("#pragma METAL fp math_mode(reckless)\nkernel void k() {}", 3, "reckless");
    refused("#pragma METAL fp contract\nkernel void k() {}", 3, "contract");
    for known in ["fp contract(off)", "fp math_mode(safe)", "internals : enable"] {
        library(&format!("kernel void k(device float* x) {{\n#pragma METAL {known}\n x[0] = 1; }}"));
    }
    refused("#include <metal_texture>", 3, "metal_texture");
    refused("constant int n [[function_constant(N)]];", 3, "`N`");
    refused("float f(float x [[stage_in]]);", 3, "stage_in");
}

#[test]
fn a_library_is_checked_whole() {
    let kernels = "#include <metal_stdlib>
template <typename T> kernel void good(device T* x) { x[0] = T(1); }
template [[host_name(\"good\")]] kernel void good<float>(device float* x);
template <typename T> kernel void bad(device T* x) { x[0] = T(1).nothing; }
";
    library(kernels).check().unwrap();
    let instantiated =
        format!("{kernels}template [[host_name(\"bad\")]] kernel void bad<float>(device float* x);\n");
    let error = library(&instantiated).check().unwrap_err().to_string();
    assert!(error.starts_with("program_source:4:65: error: member reference base type 'float'"), "{error}");
    // The other kernel is none the worse for it.
    library(&instantiated).kernel("good", &Constants::default()).unwrap();
    library(include_str!("msl/kernels.metal")).check().unwrap();
    library(include_str!("msl/values.metal")).check().unwrap_err(); // its macro is not defined
}
