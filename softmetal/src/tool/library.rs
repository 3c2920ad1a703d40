//! The directory that the linker finds the stand-in for the Objective-C runtime in.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Libraries that objc2 and its neighbours link on Linux. All that is called of them is in ours, so they are empty.
const EMPTY: [&str; 3] = ["libgnustep-base.a", "libdispatch.a", "libBlocksRuntime.a"];

/// An archive with no member.
const ARCHIVE: &[u8] = b"!<arch>\n";

/// Makes the directory: `libobjc.so` is this crate's shared library.
pub fn prepare(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    for name in EMPTY {
        let path = directory.join(name);
        if !path.exists() {
            fs::write(&path, ARCHIVE).with_context(|| path.display().to_string())?;
        }
    }
    let (library, link) = (find()?, directory.join("libobjc.so"));
    if fs::read_link(&link).ok().as_ref() != Some(&library) {
        let _ = fs::remove_file(&link);
        symlink(&library, &link).with_context(|| link.display().to_string())?;
    }
    Ok(())
}

/// `SOFTMETAL_LIBRARY`, or what `cargo build` puts beside this program.
fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SOFTMETAL_LIBRARY").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return path.canonicalize().with_context(|| format!("SOFTMETAL_LIBRARY {}", path.display()));
    }
    let program = std::env::current_exe()?.canonicalize()?;
    let path = program.with_file_name("libsoftmetal.so");
    ensure!(
        path.is_file(),
        "{}: wants to be beside the program (`cargo build -p softmetal` makes both)",
        path.display()
    );
    Ok(path)
}
