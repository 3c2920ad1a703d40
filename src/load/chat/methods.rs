//! Methods of Python's strings and lists that templates call and minijinja-contrib lacks.

use minijinja::value::{Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Called for methods minijinja does not know: those here, then minijinja-contrib's.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let found = match (value.kind(), value.as_str()) {
        (_, Some(text)) => on_string(text, method, args)?,
        (ValueKind::Seq | ValueKind::Iterable, _) => on_list(value, method, args)?,
        (ValueKind::Map, _) if method == "copy" => Some(value.clone()),
        _ => None,
    };
    match found {
        Some(value) => Ok(value),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn on_string(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let last = method == "rpartition";
            let at = if last { text.rfind(separator) } else { text.find(separator) };
            let parts = match at {
                Some(at) => [&text[..at], separator, &text[at + separator.len()..]],
                None if last => ["", "", text],
                None => [text, "", ""],
            };
            Value::from(Tuple::from(parts.map(Value::from).to_vec()))
        }
        "rsplit" => {
            let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
            let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
            let mut parts: Vec<&str> = match separator {
                Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
                Some(separator) => text.rsplitn(most.saturating_add(1), separator).collect(),
                None => rsplit_whitespace(text, most),
            };
            parts.reverse();
            Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>())
        }
        "zfill" | "ljust" | "rjust" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            // A width is a column count; the bound keeps a hostile template from exhausting memory.
            let missing = width.min(1 << 16).saturating_sub(text.chars().count());
            let sign = if method == "zfill" && text.starts_with(['+', '-']) { 1 } else { 0 };
            let fill = fill.unwrap_or(if method == "zfill" { "0" } else { " " }).repeat(missing);
            Value::from(match method {
                "ljust" => format!("{text}{fill}"),
                _ => format!("{}{fill}{}", &text[..sign], &text[sign..]),
            })
        }
        "index" => {
            let (what,): (&str,) = from_args(args)?;
            let at = text
                .find(what)
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        "casefold" => Value::from(text.to_lowercase()),
        _ => return Ok(None),
    }))
}

fn rsplit_whitespace(text: &str, most: usize) -> Vec<&str> {
    let mut rest = text.trim_end();
    let mut parts = Vec::new();
    while !rest.is_empty() {
        match rest.rfind(char::is_whitespace) {
            Some(at) if parts.len() < most => {
                let word = at + rest[at..].chars().next().map_or(0, char::len_utf8);
                parts.push(&rest[word..]);
                rest = rest[..at].trim_end();
            }
            _ => {
                parts.push(if parts.len() < most { rest.trim_start() } else { rest });
                break;
            }
        }
    }
    parts
}

fn on_list(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "copy" => value.try_iter()?.collect(),
        "index" => {
            let (what,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == *what);
            Value::from(at.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "value is not in list"))?)
        }
        _ => return Ok(None),
    }))
}
