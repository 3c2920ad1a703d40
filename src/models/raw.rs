//! `config.json` as it is written: fields by name, with the defaults that transformers gives the missing ones.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The fields of a `config.json`, and the name that errors give it.
pub(super) struct Raw<'a> {
    pub what: &'a str,
    pub fields: &'a Map<String, Value>,
}

impl<'a> Raw<'a> {
    /// `<file>: <field>: wants .., got ..`.
    pub fn wants(&self, field: &str, wants: impl Into<String>) -> Error {
        let got = self.fields.get(field).map_or("no such field".to_string(), Value::to_string);
        Error::wants(format!("{}: {field}", self.what), wants, got)
    }

    /// The value of a field; `None` where it is missing or null.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn parse<T>(
        &self,
        field: &str,
        wants: &str,
        parse: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => parse(value).map(Some).ok_or_else(|| self.wants(field, wants)),
        }
    }

    /// A length or a size: a whole number of at least one.
    pub fn size(&self, field: &str) -> Result<Option<usize>> {
        // Python may have written 4096.0; and no length comes near 2^31.
        let whole =
            |v: &Value| v.as_u64().or_else(|| v.as_f64().filter(|f| f.fract() == 0.).map(|f| f as u64));
        self.parse(field, "a whole number of at least 1", |value| {
            whole(value).filter(|n| (1..1 << 31).contains(n)).map(|n| n as usize)
        })
    }

    /// A size that tensors are made by, no larger than `most`.
    pub fn width(&self, field: &str, most: usize) -> Result<Option<usize>> {
        match self.size(field)? {
            Some(size) if size > most => Err(self.wants(field, format!("at most {most}"))),
            size => Ok(size),
        }
    }

    /// A finite number above zero.
    pub fn positive(&self, field: &str) -> Result<Option<f64>> {
        self.parse(field, "a number above 0", |value| value.as_f64().filter(|n| *n > 0. && n.is_finite()))
    }

    /// True or false.
    pub fn bool(&self, field: &str) -> Result<Option<bool>> {
        self.parse(field, "true or false", Value::as_bool)
    }

    /// Text.
    pub fn text(&self, field: &str) -> Result<Option<&'a str>> {
        self.parse(field, "a string", Value::as_str)
    }

    /// An object, to be read on under its name.
    pub fn object(&self, field: &str) -> Result<Option<&'a Map<String, Value>>> {
        self.parse(field, "an object", Value::as_object)
    }

    /// Numbers above zero.
    pub fn positives(&self, field: &str, count: usize) -> Result<Vec<f32>> {
        let wants = format!("{count} numbers above 0");
        let parse = |value: &Value| {
            let list = value.as_array().filter(|list| list.len() == count)?;
            list.iter().map(|v| v.as_f64().filter(|f| *f > 0.).map(|f| f as f32)).collect()
        };
        self.parse(field, &wants, parse)?.ok_or_else(|| self.wants(field, &wants))
    }

    /// Strings.
    pub fn texts(&self, field: &str) -> Result<Option<Vec<&'a str>>> {
        self.parse(field, "a list of strings", |value| value.as_array()?.iter().map(Value::as_str).collect())
    }
}
