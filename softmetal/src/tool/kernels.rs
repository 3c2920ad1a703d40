//! `softmetal kernels`: what is in a library.

use std::ffi::CStr;
use std::path::Path;

use anyhow::{Context, Result};
use softmetal::exec::abi;
use softmetal::msl::{Constants, Library, Options};

/// Prints the names of a text's kernels; of those that are named, the parameters.
pub fn run(file: &Path, names: &[String], definitions: &[(String, String)]) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let options = Options { macros: definitions.iter().cloned().collect(), ..Options::default() };
    let library = Library::new(&text, &options).with_context(|| file.display().to_string())?;
    if names.is_empty() {
        library.kernels().for_each(|name| println!("{name}"));
        return Ok(());
    }
    for name in names {
        let kernel =
            library.kernel(name, &Constants::default()).with_context(|| file.display().to_string())?;
        let entry = kernel.entry();
        match entry.max_threads {
            0 => println!("{name}"),
            most => println!("{name} (at most {most} threads per threadgroup)"),
        }
        // SAFETY: an entry has that many parameters, in an image that stays loaded.
        let parameters = unsafe { std::slice::from_raw_parts(entry.params, entry.param_count as usize) };
        for parameter in parameters {
            println!("  {}", line(parameter));
        }
    }
    Ok(())
}

fn line(parameter: &abi::Param) -> String {
    // SAFETY: a string constant of the image.
    let name = unsafe { CStr::from_ptr(parameter.name) }.to_string_lossy();
    let abi::Param { kind, index, flags, size, align, .. } = parameter;
    let place = match *kind {
        abi::PARAM_BUFFER => format!("[[buffer({index})]]"),
        abi::PARAM_THREADGROUP => format!("[[threadgroup({index})]]"),
        _ => return format!("{name}: of the thread"),
    };
    let has = |flag| flags & flag != 0;
    let access = match *kind {
        abi::PARAM_THREADGROUP => "threadgroup memory",
        _ if has(abi::PARAM_UNUSED) => "unused: its function constant is false",
        _ if has(abi::PARAM_CONSTANT) => "constant",
        _ if has(abi::PARAM_WRITES) => "device, written",
        _ => "device, read",
    };
    format!("{name} {place}: {access}; elements of {size} bytes, aligned to {align}")
}
