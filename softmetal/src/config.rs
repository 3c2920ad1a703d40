//! What the environment sets.

use std::path::PathBuf;
use std::sync::LazyLock;

/// The settings of this process.
pub static CONFIG: LazyLock<Config> = LazyLock::new(Config::from_env);

/// Settings, by variable.
#[derive(Clone, Debug)]
pub struct Config {
    /// `SOFTMETAL_SEED`: fixes the order of threads, threadgroups and dispatches; 0 is the order of their numbers.
    pub seed: u64,
    /// `SOFTMETAL_CHECK=off`: kernels run without the checker of their memory, several times as fast.
    pub check: bool,
    /// `SOFTMETAL_CACHE`: where compiled kernels are kept; `$XDG_CACHE_HOME/softmetal`, or `~/.cache/softmetal`.
    pub cache: PathBuf,
    /// `SOFTMETAL_CLANG`: the compiler, `clang++-19` or the first of its newer versions.
    pub clang: Option<PathBuf>,
    /// `SOFTMETAL_LOG`: a file that reports are appended to.
    pub log: Option<PathBuf>,
    /// `SOFTMETAL_ALLOW`: a file of findings that are known and accepted; [`report`](crate::report) says how.
    pub allow: Option<PathBuf>,
    /// `SOFTMETAL_REPORTS=continue`: the process's exit status stays what it was. Otherwise it is 86 after a report.
    pub exit: bool,
    /// `SOFTMETAL_LEAKS=all`: at exit, everything alive is a leak; otherwise what Metal means to live shortly.
    pub leaks: bool,
    /// `SOFTMETAL_FRESH=zeros`: new buffers hold zeros, as Apple documents them, and reads of what nothing has written
    /// are found in threadgroup memory only; otherwise they hold a pattern that is recognised.
    pub zeros: bool,
    /// `SOFTMETAL_NIL`: a class of MPS whose objects cannot be made: `init` gives nil.
    pub nil: Option<String>,
}

impl Config {
    fn from_env() -> Self {
        let set = |name| std::env::var_os(name).filter(|value: &std::ffi::OsString| !value.is_empty());
        let cache = set("SOFTMETAL_CACHE").map(PathBuf::from).unwrap_or_else(|| {
            let home =
                || set("HOME").map_or_else(std::env::temp_dir, |home| PathBuf::from(home).join(".cache"));
            set("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("softmetal")
        });
        Self {
            seed: set("SOFTMETAL_SEED").and_then(|seed| seed.to_str()?.parse().ok()).unwrap_or(1),
            check: set("SOFTMETAL_CHECK").is_none_or(|check| check != "off"),
            cache,
            clang: set("SOFTMETAL_CLANG").map(PathBuf::from),
            log: set("SOFTMETAL_LOG").map(PathBuf::from),
            allow: set("SOFTMETAL_ALLOW").map(PathBuf::from),
            exit: set("SOFTMETAL_REPORTS").is_none_or(|reports| reports != "continue"),
            leaks: set("SOFTMETAL_LEAKS").is_some_and(|leaks| leaks == "all"),
            zeros: set("SOFTMETAL_FRESH").is_some_and(|fresh| fresh == "zeros"),
            nil: set("SOFTMETAL_NIL").and_then(|class| class.into_string().ok()),
        }
    }
}
