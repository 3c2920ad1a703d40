//! clang's tree, declaration by declaration: the few fields that the rules read.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// A node of the tree.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Node<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    pub kind: Cow<'a, str>,
    pub name: Cow<'a, str>,
    pub loc: Location<'a>,
    pub range: Range<'a>,
    #[serde(rename = "type")]
    pub ty: Type<'a>,
    pub is_implicit: bool,
    pub is_part_of_explicit_cast: bool,
    pub previous_decl: Cow<'a, str>,
    pub cast_kind: Cow<'a, str>,
    pub storage_class: Cow<'a, str>,
    pub referenced_decl: Option<Box<Reference<'a>>>,
    pub referenced_member_decl: Cow<'a, str>,
    pub bases: Vec<IgnoredAny>,
    /// Of a template's argument.
    pub value: Option<serde_json::Value>,
    pub inner: Vec<Node<'a>>,
}

/// A declaration that is named elsewhere.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Reference<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    pub kind: Cow<'a, str>,
    pub name: Cow<'a, str>,
    #[serde(rename = "type")]
    pub ty: Type<'a>,
}

/// A type as written, and with its names resolved where that differs.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Type<'a> {
    #[serde(borrow)]
    pub qual_type: Cow<'a, str>,
    pub desugared_qual_type: Option<Cow<'a, str>>,
}

impl Type<'_> {
    /// With its names resolved.
    pub fn resolved(&self) -> &str {
        self.desugared_qual_type.as_ref().unwrap_or(&self.qual_type)
    }
}

/// A place: the file is said only where it is not that of the place before.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Location<'a> {
    pub offset: Option<usize>,
    #[serde(borrow)]
    pub file: Option<Cow<'a, str>>,
    pub spelling_loc: Option<Box<Location<'a>>>,
    pub expansion_loc: Option<Box<Location<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Range<'a> {
    #[serde(borrow)]
    pub begin: Location<'a>,
    pub end: Location<'a>,
}

/// Calls `each` for every declaration at the outermost level.
pub(super) fn read<'a>(json: &'a str, each: impl FnMut(Node<'a>)) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.disable_recursion_limit();
    Unit(each).deserialize(&mut deserializer)
}

/// The outermost node.
struct Unit<F>(F);

impl<'de, F: FnMut(Node<'de>)> DeserializeSeed<'de> for Unit<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(Node<'de>)> Visitor<'de> for Unit<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("clang's tree")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<str>>()? {
            if key == "inner" {
                map.next_value_seed(Declarations(&mut self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct Declarations<'f, F>(&'f mut F);

impl<'de, F: FnMut(Node<'de>)> DeserializeSeed<'de> for Declarations<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(Node<'de>)> Visitor<'de> for Declarations<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("declarations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(node) = seq.next_element::<Node>()? {
            (self.0)(node);
        }
        Ok(())
    }
}
