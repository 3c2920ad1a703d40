//! `NSProcessInfo`: what `available!` and programs ask the system's version of.

use super::{NSObject, NSString};
use crate::objc::{Argument, Class, Encode, Returned, Strong, class};
use std::sync::LazyLock;

/// `NSProcessInfo`.
pub struct NSProcessInfo;

class! {
    NSProcessInfo: linked "._OBJC_CLASS_NSProcessInfo" "NSProcessInfo", superclass NSObject, protocols [], Forever;
    + "processInfo" => NSProcessInfo::shared;
    - "operatingSystemVersion" => NSProcessInfo::version;
    - "isOperatingSystemAtLeastVersion:" => NSProcessInfo::is_at_least;
    - "operatingSystemVersionString" => NSProcessInfo::version_string;
    - "processName" => NSProcessInfo::process_name;
    - "processorCount" => NSProcessInfo::processor_count;
    - "activeProcessorCount" => NSProcessInfo::processor_count;
    - "physicalMemory" => NSProcessInfo::physical_memory;
}

/// `NSOperatingSystemVersion`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: isize,
    minor: isize,
    patch: isize,
}

/// macOS 14, the first with Metal's version 3.1: what is newer is not offered.
const VERSION: Version = Version { major: 14, minor: 0, patch: 0 };

// SAFETY: the encoding that objc2 has for it.
unsafe impl Encode for Version {
    const ENCODING: &'static str = "{?=qqq}";
}

impl Argument for Version {
    type Raw = Self;
    unsafe fn from_raw(raw: Self) -> Self {
        raw
    }
}

impl Returned for Version {
    type Raw = Self;
    const ENCODING: &'static str = <Self as Encode>::ENCODING;
    fn into_raw(self, _: bool) -> Self {
        self
    }
}

impl NSProcessInfo {
    fn shared(_: &'static Class) -> Strong<NSProcessInfo> {
        static SHARED: LazyLock<Strong<NSProcessInfo>> = LazyLock::new(|| Strong::new(NSProcessInfo));
        SHARED.clone()
    }

    fn version(&self) -> Version {
        VERSION
    }

    fn is_at_least(&self, version: Version) -> bool {
        VERSION >= version
    }

    fn version_string(&self) -> Strong<NSString> {
        NSString::new("Version 14.0 (softmetal)")
    }

    fn process_name(&self) -> Strong<NSString> {
        let name = std::env::current_exe().ok();
        let name = name.as_deref().and_then(|path| path.file_name());
        NSString::new(&name.map_or_else(String::new, |name| name.to_string_lossy().into_owned()))
    }

    fn processor_count(&self) -> usize {
        std::thread::available_parallelism().map_or(1, Into::into)
    }

    fn physical_memory(&self) -> u64 {
        // SAFETY: questions without arguments that matter.
        unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES) * libc::sysconf(libc::_SC_PAGESIZE)) as u64 }
    }
}
