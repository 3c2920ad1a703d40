//! Loads a kernel's image.

use super::CompileError;
use crate::exec::abi::{KernelEntry, Runtime};
use std::ffi::{CStr, CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A compiled kernel.
pub struct Kernel {
    entry: &'static KernelEntry,
    runtime: *mut *const Runtime,
    image: PathBuf,
}

// SAFETY: the entry is constant data of an image that is never unloaded; `set_runtime` is its caller's to order.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// The kernel of an entry, which calls the executor.
    ///
    /// # Safety
    /// The entry and the variable are those of an image that stays loaded, as `shim/abi.h` says, and none of its code
    /// runs meanwhile.
    pub unsafe fn new(entry: &'static KernelEntry, runtime: *mut *const Runtime, image: PathBuf) -> Self {
        let kernel = Self { entry, runtime, image };
        // SAFETY: as the caller says.
        unsafe { kernel.set_runtime(crate::exec::runtime()) };
        kernel
    }

    /// Its entry in the image.
    pub fn entry(&self) -> &'static KernelEntry {
        self.entry
    }

    /// What the kernel calls from now on.
    ///
    /// # Safety
    /// None of its code runs meanwhile.
    pub unsafe fn set_runtime(&self, runtime: &'static Runtime) {
        // SAFETY: the image's own variable, which only this writes.
        unsafe { *self.runtime = runtime };
    }

    /// The file it is loaded from, which has line tables: files and lines in it are those of the shader's text.
    pub fn image(&self) -> &Path {
        &self.image
    }
}

/// Loads the image at `path`, which `make` makes if it is missing, or damaged.
pub fn load(path: &Path, make: impl Fn() -> Result<(), CompileError>) -> Result<Kernel, CompileError> {
    let missing = !path.exists();
    if missing {
        make()?;
    }
    let loaded = open(path);
    if loaded.is_err() && !missing {
        let _ = std::fs::remove_file(path);
        make()?;
        return open(path);
    }
    loaded
}

fn open(path: &Path) -> Result<Kernel, CompileError> {
    let file = CString::new(path.as_os_str().as_bytes()).expect("a path without NUL");
    // SAFETY: the image's constructors are those of the kernel's constants.
    let image = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if image.is_null() {
        // SAFETY: dlerror has a text after a failure.
        let reason = unsafe { CStr::from_ptr(libc::dlerror()) };
        return Err(CompileError(format!("{}: {}", path.display(), reason.to_string_lossy())));
    }
    let kernels = symbol(image, c"softmetal_kernels", path)?.cast::<KernelEntry>();
    let runtime = symbol(image, c"softmetal_runtime", path)?.cast::<*const Runtime>();
    // SAFETY: `shim/abi.h` says that these are there, and the image is never unloaded.
    Ok(unsafe { Kernel::new(&*kernels, runtime, path.to_owned()) })
}

fn symbol(image: *mut c_void, name: &CStr, path: &Path) -> Result<*mut c_void, CompileError> {
    // SAFETY: the image is loaded.
    let symbol = unsafe { libc::dlsym(image, name.as_ptr()) };
    if symbol.is_null() {
        let name = name.to_string_lossy();
        return Err(CompileError(format!("{}: wants the symbol {name}, got none", path.display())));
    }
    Ok(symbol)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msl::{Constants, Library, Options};
    use std::cell::Cell;

    #[test]
    fn an_image_is_made_when_it_is_missing_or_damaged() {
        let library =
            Library::new("kernel void k(device float* x) { x[0] = 1; }", &Options::default()).unwrap();
        let good = library.kernel("k", &Constants::default()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("k.so");
        let made = Cell::new(0);
        let make = || {
            made.set(made.get() + 1);
            std::fs::copy(good.image(), &path).map(drop).map_err(|error| CompileError(error.to_string()))
        };
        load(&path, make).unwrap();
        load(&path, make).unwrap();
        assert_eq!(made.get(), 1);
        let damaged = directory.path().join("damaged.so");
        std::fs::write(&damaged, "no image").unwrap();
        let mend = || {
            std::fs::copy(good.image(), &damaged).map(drop).map_err(|error| CompileError(error.to_string()))
        };
        load(&damaged, mend).unwrap();
        let hopeless = directory.path().join("hopeless.so");
        assert!(
            load(&hopeless, || std::fs::write(&hopeless, "no image")
                .map_err(|e| CompileError(e.to_string())))
            .is_err()
        );
    }
}
