//! The environment variables of `huggingface_hub`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Hub, Token};
use crate::{Error, Result};

const ENDPOINT: &str = "https://huggingface.co";

impl Hub {
    /// The hub that the environment variables say, as `huggingface_hub` reads them: `HF_ENDPOINT`; `HF_HOME`,
    /// `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `XDG_CACHE_HOME`; `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`,
    /// `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`; `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`;
    /// `HF_HUB_ETAG_TIMEOUT`, `HF_HUB_DOWNLOAD_TIMEOUT` (seconds); `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE`.
    ///
    /// # Errors
    ///
    /// When a variable has no sense, or no home directory is known.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| std::env::var_os(name).and_then(|value| value.into_string().ok()))
    }

    /// [`Hub::from_env`] with variables that `var` gives.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let home = var("HOME").or_else(|| var("USERPROFILE")).map(PathBuf::from);
        let path = |text: String| match (text.strip_prefix("~/"), &home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(text),
        };
        let hf_home = var("HF_HOME").map(path).or_else(|| {
            let cache = var("XDG_CACHE_HOME").map(path).or_else(|| Some(home.as_ref()?.join(".cache")));
            Some(cache?.join("huggingface"))
        });
        let cache = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE")).map(path);
        let Some(cache) = cache.or_else(|| Some(hf_home.as_ref()?.join("hub"))) else {
            return Err(Error::wants("HF_HOME", "a directory for the cache", "neither it nor HOME"));
        };
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_string());
        let endpoint = endpoint.trim_end_matches('/').to_string();
        if !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            return Err(Error::wants("HF_ENDPOINT", "an address (https://...)", format!("{endpoint:?}")));
        }
        let file = var("HF_TOKEN_PATH").map(path).or_else(|| Some(hf_home.as_ref()?.join("token")));
        let token = || {
            let given = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter();
            given
                .filter_map(|name| Token::new(&var(name)?, name))
                .next()
                .or_else(|| Token::read(file.as_deref()?))
        };
        let secs = |name: &str| match var(name).map(|value| (value.parse::<u64>(), value)) {
            None | Some((Ok(0), _)) => Ok(Duration::from_secs(10)),
            Some((Ok(secs), _)) => Ok(Duration::from_secs(secs)),
            Some((Err(_), value)) => Err(Error::wants(name, "whole seconds", format!("{value:?}"))),
        };
        let truth = |name: &str| {
            var(name).is_some_and(|value| {
                ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
            })
        };
        // As in Python, the second is looked at when the first is not set at all.
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find(|name| var(name).is_some());
        Ok(Hub {
            endpoint,
            cache,
            token: if truth("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { token() },
            certificates: var("SSL_CERT_FILE").or_else(|| var("REQUESTS_CA_BUNDLE")).map(path),
            offline: offline.filter(|name| truth(name)).map(str::to_string),
            etag_timeout: secs("HF_HUB_ETAG_TIMEOUT")?,
            download_timeout: secs("HF_HUB_DOWNLOAD_TIMEOUT")?,
            tries: 5,
            backoff: Duration::from_millis(500),
        })
    }
}

impl Token {
    /// The token in a file, if there is one.
    fn read(file: &Path) -> Option<Self> {
        Token::new(&std::fs::read_to_string(file).ok()?, file.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(set: &[(&str, &str)]) -> Result<Hub> {
        Hub::from_vars(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn the_cache_follows_the_variables_in_order() {
        let cache = |set: &[(&str, &str)]| hub(set).unwrap().cache.to_string_lossy().replace('\\', "/");
        assert_eq!(cache(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")]), "/f/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "~/f")]), "/h/f/hub");
        assert_eq!(cache(&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/l")]), "/l");
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/l"), ("HF_HUB_CACHE", "/c")]), "/c");
        let error = hub(&[]).unwrap_err().to_string();
        assert_eq!(error, "HF_HOME: wants a directory for the cache, got neither it nor HOME");
    }

    #[test]
    fn the_token_follows_the_variables_in_order() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "of-file\n").unwrap();
        std::fs::write(dir.path().join("other"), "of-other").unwrap();
        let (home, other) = (dir.path().to_str().unwrap(), dir.path().join("other"));
        let token = |set: &[(&str, &str)]| {
            let set = [&[("HF_HOME", home)], set].concat();
            hub(&set).unwrap().token.map(|token| token.secret)
        };
        assert_eq!(token(&[]).unwrap(), "of-file");
        let path = ("HF_TOKEN_PATH", other.to_str().unwrap());
        assert_eq!(token(&[path]).unwrap(), "of-other");
        assert_eq!(token(&[path, ("HUGGING_FACE_HUB_TOKEN", "old")]).unwrap(), "old");
        assert_eq!(token(&[("HUGGING_FACE_HUB_TOKEN", "old"), ("HF_TOKEN", " new\n")]).unwrap(), "new");
        assert_eq!(token(&[("HF_TOKEN", "new"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        let hub = hub(&[("HF_HOME", home), ("HF_TOKEN", "secret")]).unwrap();
        assert!(!format!("{hub:?}").contains("secret"), "{hub:?}");
    }

    #[test]
    fn the_other_variables_are_read_or_refused() {
        let home = ("HOME", "/h");
        let usual = hub(&[home]).unwrap();
        assert_eq!((usual.endpoint.as_str(), usual.offline), (ENDPOINT, None));
        let set =
            hub(&[home, ("HF_ENDPOINT", "http://mirror/hf/"), ("TRANSFORMERS_OFFLINE", "yes")]).unwrap();
        assert_eq!(set.endpoint, "http://mirror/hf");
        assert_eq!(set.offline.as_deref(), Some("TRANSFORMERS_OFFLINE"));
        assert_eq!(
            hub(&[home, ("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]).unwrap().offline,
            None
        );
        assert_eq!(hub(&[home, ("HF_HUB_ETAG_TIMEOUT", "3")]).unwrap().etag_timeout, Duration::from_secs(3));
        for bad in [("HF_ENDPOINT", "mirror"), ("HF_HUB_DOWNLOAD_TIMEOUT", "soon")] {
            assert!(hub(&[home, bad]).unwrap_err().to_string().starts_with(bad.0));
        }
    }
}
