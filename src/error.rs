//! The error of everything above the ops: what was asked of which thing, and what was there instead.
//!
//! Ops and layers return [`candle_core::Result`]; loading, training and generation return [`Result`].

use std::path::{Path, PathBuf};

/// The result of loading, training and generation.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, in fields; its text is one line that names the thing, what was wanted and what was got.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation on tensors failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),

    /// A file or directory could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A file is not the JSON that is expected of it.
    #[error("{}: wants {wants}, got {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the file should hold.
        wants: &'static str,
        /// The parser's message, with line and column.
        source: serde_json::Error,
    },

    /// A row of a dataset cannot be used.
    #[error("{}:{line}: wants {wants}, got {got}", path.display())]
    Row {
        /// The dataset file.
        path: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// What a row should hold.
        wants: String,
        /// What it holds.
        got: String,
    },

    /// A file, an option or a field has the wrong value.
    #[error("{what}: wants {wants}, got {got}")]
    Wants {
        /// The file, option or field.
        what: String,
        /// What is accepted.
        wants: String,
        /// What was given.
        got: String,
    },

    /// Tensors of a checkpoint or an adapter are missing, unknown or of the wrong shape; all are listed.
    #[error("{what}: {} tensor problem(s):\n  {}", problems.len(), problems.join("\n  "))]
    Tensors {
        /// The checkpoint.
        what: String,
        /// One line for each tensor: its name, what was wanted, what was got.
        problems: Vec<String>,
    },

    /// Trainable variables that the loss does not reach, or whose gradient is not finite.
    #[error("no finite gradient for {} of {total} trainable variables: {}", names.len(), names.join(", "))]
    NoGradient {
        /// The variables, each with what its gradient is.
        names: Vec<String>,
        /// How many variables are trained.
        total: usize,
    },

    /// The loss or the gradient stopped being a number.
    #[error(
        "{found}; the weights of step {} are as they were and nothing was saved since: lower the learning rate, look \
         at these rows, or pass over such steps (--on-nan skip){}",
        found.step - in_a_row,
        if *in_a_row > 1 { format!("; {in_a_row} steps in a row were like this") } else { String::new() }
    )]
    NotFinite {
        /// What was found, and where.
        found: NotFinite,
        /// How many steps in a row have been like this.
        in_a_row: usize,
    },

    /// A tokenizer refused its input.
    #[error("{what}: {message}")]
    Tokenizer {
        /// The tokenizer's file or the text's origin.
        what: String,
        /// What the tokenizer said.
        message: String,
    },

    /// The Hugging Face hub refused, failed or was not there.
    #[error("{what}: {failure}")]
    Hub {
        /// The repository, or its file.
        what: String,
        /// What happened, with the next step to take.
        failure: HubFailure,
    },

    /// The caller's callback asked to stop.
    #[error("{what}: stopped; {left}")]
    Stopped {
        /// What was stopped.
        what: String,
        /// What became of what was done so far.
        left: &'static str,
    },

    /// A chat template could not be read, or refused the conversation.
    #[error("chat template: {message}")]
    Template {
        /// What the template said, or where it is wrong.
        message: String,
    },
}

/// Why the Hugging Face hub gave no file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubFailure {
    /// There is no such repository, or it is private: the hub does not tell the two apart.
    #[error("no such directory, and no such repository on {endpoint} (a private one needs HF_TOKEN)")]
    NoRepository {
        /// The hub.
        endpoint: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("wants a branch, tag or commit, got {revision:?}, which the repository does not have")]
    NoRevision {
        /// What was asked for.
        revision: String,
    },
    /// The repository has no such file.
    #[error("no such file in revision {revision}")]
    NoFile {
        /// Where it was looked for.
        revision: String,
    },
    /// The licence must be accepted first.
    #[error("gated: accept its licence on {page}, then {}", match token {
        Some(token) => format!("try again (the token of {token} must be of the account that accepted)"),
        None => "set HF_TOKEN to a token of that account".to_string(),
    })]
    Gated {
        /// The repository's page.
        page: String,
        /// Where the token that was sent came from.
        token: Option<String>,
    },
    /// The hub does not know the token.
    #[error("the hub refuses the token of {token}: wants a valid one, or none")]
    BadToken {
        /// Where the token came from.
        token: String,
    },
    /// The token may not read this, or no one may.
    #[error("access refused: {message}")]
    Forbidden {
        /// What the hub said.
        message: String,
    },
    /// Too many requests.
    #[error("the hub refuses for now, too many requests{}", match wait {
        Some(wait) => format!(": try again in {wait} s; with HF_TOKEN set the limits are higher"),
        None => "; try again later, or set HF_TOKEN: the limits are higher".to_string(),
    })]
    RateLimited {
        /// Seconds to wait, if the hub said so.
        wait: Option<u64>,
    },
    /// An answer that means neither yes nor no.
    #[error("{endpoint} answered {status}; try again later")]
    Status {
        /// The hub.
        endpoint: String,
        /// The status of HTTP.
        status: u16,
    },
    /// No connection, or one that broke and did not come back.
    #[error("the connection to {host} failed ({message}){}", match cache {
        Some(cache) => format!("; no such directory, and nothing of that name in the cache {}", cache.display()),
        None => String::new(),
    })]
    Unreachable {
        /// Where the connection should have gone.
        host: String,
        /// What the system said.
        message: String,
        /// The cache, when it does not have it either.
        cache: Option<PathBuf>,
    },
    /// Nothing is asked of the hub, and the cache does not have it.
    #[error("{}, and {reason}", match missing.as_slice() {
        [] => format!("no such directory, and nothing of that name in the cache {}", cache.display()),
        missing => format!("incomplete in the cache {}, without {}", cache.display(), missing.join(", ")),
    })]
    NotCached {
        /// The cache.
        cache: PathBuf,
        /// The files that an incomplete copy lacks.
        missing: Vec<String>,
        /// Why the hub is not asked.
        reason: String,
    },
    /// What came has the wrong number of bytes.
    #[error("wants {wants} bytes, got {got}")]
    Size {
        /// What the hub announced.
        wants: u64,
        /// What it sent.
        got: u64,
    },
    /// What came is not what the hub announced.
    #[error("wants content of SHA-256 {wants}, got {got}; the download was damaged, try again")]
    Checksum {
        /// What the hub announced.
        wants: String,
        /// Of what it sent.
        got: String,
    },
    /// The hub's answer cannot be understood.
    #[error("wants {wants} from {endpoint}, got {got} (is HF_ENDPOINT a hub?)")]
    Answer {
        /// The hub.
        endpoint: String,
        /// What a hub answers.
        wants: &'static str,
        /// What this one did.
        got: String,
    },
}

impl Error {
    /// `what: wants <this>, got <that>`.
    pub fn wants(what: impl Into<String>, wants: impl Into<String>, got: impl Into<String>) -> Self {
        Error::Wants { what: what.into(), wants: wants.into(), got: got.into() }
    }

    /// Names the file in an I/O error: `.map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }
}

/// A loss or a gradient that is no finite number, and the rows that it is of.
#[derive(Clone, Debug, PartialEq)]
pub struct NotFinite {
    /// The step, counted from one.
    pub step: usize,
    /// `loss` or `gradient norm`.
    pub what: &'static str,
    /// Its value.
    pub value: f64,
    /// The batch of the step, counted from one; none if it may be any.
    pub batch: Option<usize>,
    /// The batches of the step.
    pub batches: usize,
    /// The file of the data.
    pub path: PathBuf,
    /// The lines of its rows in that batch, or in all, ascending.
    pub lines: Vec<usize>,
}

/// Rows that are named in a message; a packed batch can have hundreds.
const SHOWN: usize = 16;

impl std::fmt::Display for NotFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let NotFinite { step, what, value, batch, batches, path, lines } = self;
        let shown: Vec<String> = lines.iter().take(SHOWN).map(usize::to_string).collect();
        let noun = if lines.len() == 1 { "line" } else { "lines" };
        write!(f, "step {step}: {what} is {value} in ")?;
        match batch {
            Some(batch) => write!(f, "batch {batch} of {batches} ")?,
            None => write!(f, "batches 1 to {batches} together ")?,
        }
        write!(f, "({}: {noun} {}", path.display(), shown.join(", "))?;
        match lines.len().saturating_sub(SHOWN) {
            0 => f.write_str(")"),
            more => write!(f, " and {more} more)"),
        }
    }
}
