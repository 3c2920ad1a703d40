//! Requests to the hub: redirects, the token, and what a refusal means.

use std::time::Duration;

use ureq::http::{HeaderMap, HeaderValue, Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::{Hub, Repository};
use crate::error::{Error, HubFailure, Result};

/// Redirects that are followed.
const REDIRECTS: usize = 8;
/// The longest wait that a hub may ask for.
const PATIENCE: Duration = Duration::from_secs(300);

/// Makes requests; all end when it is shut down.
pub(super) struct Client<'a> {
    hub: &'a Hub,
    repository: &'a Repository,
    agent: Agent,
    authorization: Option<HeaderValue>,
}

/// Why a request gave nothing.
pub(super) enum Trouble {
    /// It will not do better another time.
    Lasting(Box<Error>),
    /// It may; after this wait, if the hub said so.
    Passing(Box<Error>, Option<Duration>),
}

impl Trouble {
    pub(super) fn into_error(self) -> Error {
        match self {
            Trouble::Lasting(error) | Trouble::Passing(error, _) => *error,
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Lasting(Box::new(error))
    }
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// The headers of a file as the hub itself has them: where it is stored is not asked.
    Head,
    /// What is there, from this byte on.
    From(u64),
}

impl<'a> Client<'a> {
    pub(super) fn new(hub: &'a Hub, repository: &'a Repository) -> Result<Self> {
        let mut config = Agent::config_builder()
            // A token must not follow a redirect to another host, so redirects are followed here.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("metal-candle/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &hub.certificates {
            let pem = std::fs::read(path).map_err(Error::io(path))?;
            let certificates = parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            config =
                config.tls_config(TlsConfig::builder().root_certs(RootCerts::from(certificates)).build());
        }
        let authorization = match &hub.token {
            None => None,
            Some(token) => match HeaderValue::from_str(&format!("Bearer {}", token.secret())) {
                Ok(value) => Some(value),
                Err(_) => {
                    let failure = HubFailure::BadToken { token: token.source.clone() };
                    return Err(Error::Hub { what: repository.to_string(), failure });
                }
            },
        };
        Ok(Client { hub, repository, agent: Agent::new_with_config(config.build()), authorization })
    }

    /// Ends all requests, now and later.
    pub(super) fn shut_down(&self) {
        self.agent.clone().shutdown();
    }

    /// A successful answer, or a redirect out of the hub for [`Ask::Head`].
    pub(super) fn send(
        &self,
        what: &str,
        url: &str,
        ask: Ask,
        silence: Duration,
    ) -> std::result::Result<Response<Body>, Trouble> {
        let mut url = url.to_string();
        for _ in 0..REDIRECTS {
            let mut request = if ask == Ask::Head { self.agent.head(&url) } else { self.agent.get(&url) };
            // Compressed bytes would be neither counted nor resumed.
            request = request.header("Accept-Encoding", "identity");
            if let (Some(authorization), true) = (&self.authorization, self.on_hub(&url)) {
                request = request.header("Authorization", authorization);
            }
            if let Ask::From(byte @ 1..) = ask {
                request = request.header("Range", format!("bytes={byte}-"));
            }
            let silence = Some(silence);
            let request = request.config().timeout_resolve(silence).timeout_connect(silence);
            let response = request.timeout_per_read(silence).build().call();
            let response = response.map_err(|error| self.unreachable(&url, &error))?;
            if !response.status().is_redirection() {
                return match response.status().is_success() {
                    true => Ok(response),
                    false => Err(self.refusal(what, response.status().as_u16(), response.headers())),
                };
            }
            let Some(next) = header(response.headers(), "location").and_then(|next| join(&url, next)) else {
                return Err(self.strange("a Location with a redirect", "none"));
            };
            if ask == Ask::Head && !self.on_hub(&next) {
                return Ok(response);
            }
            url = next;
        }
        Err(self.strange("a file", "redirects without end"))
    }

    /// Whether an address is the hub's own: the same scheme, host and port.
    fn on_hub(&self, url: &str) -> bool {
        matches!((origin(url), origin(&self.hub.endpoint)), (Some(a), Some(b)) if a == b)
    }

    /// A connection that could not be made, or broke.
    pub(super) fn unreachable(&self, url: &str, error: &dyn std::fmt::Display) -> Trouble {
        let host = origin(url).map_or(url.to_string(), |(scheme, host, _)| format!("{scheme}://{host}"));
        let message = error.to_string();
        let message = message.strip_prefix("io: ").unwrap_or(&message).to_string();
        Trouble::Passing(Box::new(self.error(HubFailure::Unreachable { host, message, cache: None })), None)
    }

    /// An answer that is none of a hub.
    pub(super) fn strange(&self, wants: &'static str, got: impl Into<String>) -> Trouble {
        let endpoint = self.hub.endpoint.clone();
        self.error(HubFailure::Answer { endpoint, wants, got: got.into() }).into()
    }

    fn error(&self, failure: HubFailure) -> Error {
        Error::Hub { what: self.repository.to_string(), failure }
    }

    /// What a status and the hub's own headers say. A missing repository and a private one are both a 401.
    fn refusal(&self, what: &str, status: u16, headers: &HeaderMap) -> Trouble {
        let endpoint = self.hub.endpoint.clone();
        let token = self.hub.token.as_ref().map(|token| token.source.clone());
        let message = header(headers, "x-error-message").unwrap_or_default();
        let wait = wait(headers);
        let failure = match (status, header(headers, "x-error-code"), token) {
            (_, Some("RevisionNotFound"), _) => {
                HubFailure::NoRevision { revision: self.repository.revision.clone() }
            }
            (_, Some("EntryNotFound"), _) => self.no_file(),
            (_, Some("GatedRepo"), token) => {
                HubFailure::Gated { page: format!("{endpoint}/{}", self.repository.id), token }
            }
            (401, _, Some(token)) if message.contains("credentials") => HubFailure::BadToken { token },
            (_, Some("RepoNotFound"), _) | (401, ..) => HubFailure::NoRepository { endpoint },
            (404, ..) if what != self.repository.to_string() => self.no_file(),
            (404, ..) => HubFailure::NoRepository { endpoint },
            (403, _, token) => HubFailure::Forbidden {
                message: match (message, token) {
                    ("", Some(token)) => format!("the token of {token} may not read it"),
                    ("", None) => "set HF_TOKEN to a token that may read it".to_string(),
                    (message, _) => message.chars().filter(|c| !c.is_control()).take(200).collect(),
                },
            },
            (429, ..) => HubFailure::RateLimited { wait: wait.map(|wait| wait.as_secs()) },
            _ => HubFailure::Status { endpoint, status },
        };
        let error = Box::new(Error::Hub { what: what.to_string(), failure });
        match status {
            408 | 429 | 500.. if wait.is_none_or(|wait| wait <= PATIENCE) => Trouble::Passing(error, wait),
            _ => Trouble::Lasting(error),
        }
    }

    fn no_file(&self) -> HubFailure {
        HubFailure::NoFile { revision: self.repository.revision.clone() }
    }
}

/// A header that is text.
pub(super) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// How long to wait: `Retry-After`, or the hub's own `RateLimit: "api";r=0;t=55`.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let limit = || header(headers, "ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t="));
    header(headers, "retry-after").or_else(limit)?.trim().parse().ok().map(Duration::from_secs)
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

/// Where a redirect from `url` leads.
fn join(url: &str, location: &str) -> Option<String> {
    if location.contains("://") {
        return Some(location.to_string());
    }
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?;
    if location.starts_with("//") {
        return Some(format!("{scheme}:{location}"));
    }
    let directory = match location.starts_with('/') {
        true => "",
        false => &uri.path()[..=uri.path().rfind('/')?],
    };
    Some(format!("{scheme}://{}{directory}{location}", uri.authority()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_where_the_standard_says() {
        let url = "https://hub.co:8443/org/name/resolve/main/a.json?x=1";
        let cases = [
            ("https://cdn.co/b", "https://cdn.co/b"),
            ("//cdn.co/b", "https://cdn.co/b"),
            ("/api/b?q=1", "https://hub.co:8443/api/b?q=1"),
            ("b.json", "https://hub.co:8443/org/name/resolve/main/b.json"),
        ];
        for (location, wanted) in cases {
            assert_eq!(join(url, location).as_deref(), Some(wanted));
        }
    }

    #[test]
    fn the_token_is_for_one_origin() {
        let same = |a: &str, b: &str| origin(a).unwrap() == origin(b).unwrap();
        assert!(same("https://Hub.co/x", "https://hub.co:443"));
        for other in ["http://hub.co", "https://hub.co:8443", "https://cdn.hub.co", "https://hub.co.evil.com"]
        {
            assert!(!same("https://hub.co", other), "{other}");
        }
        // What stands before an @ is no host.
        assert!(!same("https://hub.co", "https://hub.co@evil.com/"));
    }

    #[test]
    fn the_wait_is_in_either_header() {
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))])
        };
        assert_eq!(wait(&headers("retry-after", "7")), Some(Duration::from_secs(7)));
        assert_eq!(wait(&headers("ratelimit", r#""api";r=0;t=55"#)), Some(Duration::from_secs(55)));
        assert_eq!(wait(&headers("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")), None);
    }
}
