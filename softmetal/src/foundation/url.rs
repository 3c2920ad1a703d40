//! `NSURL` of files.

use super::{NSObject, NSString};
use crate::objc::{Allocated, Class, Instance, Strong, class};
use std::ffi::{CStr, c_char};

/// `NSURL`: here, the path of a file.
pub struct NSURL {
    path: String,
}

class! {
    NSURL: linked "._OBJC_CLASS_NSURL" "NSURL", superclass NSObject, protocols ["NSCopying"], Short;
    + "fileURLWithPath:" => NSURL::with_path;
    - "initFileURLWithPath:" => NSURL::init_with_path;
    - "initFileURLWithFileSystemRepresentation:isDirectory:relativeToURL:" => NSURL::init_with_representation;
    - "path" => NSURL::path;
    - "isFileURL" => NSURL::is_file;
}

impl NSURL {
    /// The path.
    pub fn text(&self) -> &str {
        &self.path
    }

    fn with_path(_: &'static Class, path: &Instance<NSString>) -> Strong<NSURL> {
        Strong::new(NSURL { path: path.text().to_owned() })
    }

    fn init_with_path(_: Allocated, path: &Instance<NSString>) -> Strong<NSURL> {
        Strong::new(NSURL { path: path.text().to_owned() })
    }

    fn init_with_representation(
        _: Allocated,
        path: *const c_char,
        _is_directory: bool,
        base: Option<&Instance<NSURL>>,
    ) -> Strong<NSURL> {
        // SAFETY: the caller's C string.
        let path = unsafe { CStr::from_ptr(path) }.to_string_lossy();
        let base = base.map_or_else(std::path::PathBuf::new, |base| base.path.clone().into());
        Strong::new(NSURL { path: base.join(&*path).to_string_lossy().into_owned() })
    }

    fn path(&self) -> Strong<NSString> {
        NSString::new(&self.path)
    }

    fn is_file(&self) -> bool {
        true
    }
}
