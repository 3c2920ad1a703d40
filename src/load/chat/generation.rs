//! `{% generation %}` blocks, with which training templates mark what the assistant says.
//!
//! The tag becomes a filter block whose filter puts marks around the text; the marks are taken out of the
//! finished prompt and leave the spans. Transformers compiles the same tag to a call block.

use std::ops::Range;

/// Noncharacters, which no text may contain; marks are chosen among them.
const MARKS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

/// The opening and the closing mark.
pub(super) type Marks = (char, char);

/// The first pair of marks that none of the texts contains.
pub(super) fn free_marks<'a>(texts: impl Iterator<Item = &'a str>) -> Option<Marks> {
    let mut used = [false; 32];
    for c in texts.flat_map(str::chars).filter(|c| MARKS.contains(c)) {
        used[c as usize - 0xFDD0] = true;
    }
    let mut free = MARKS.filter(|&c| !used[c as usize - 0xFDD0]);
    Some((free.next()?, free.next()?))
}

/// Takes the marks out: the text, and the byte ranges that were between them, in order.
pub(super) fn take_marks(text: &str, (open, close): Marks) -> (String, Vec<Range<usize>>) {
    let mut out = String::with_capacity(text.len());
    let (mut spans, mut starts) = (Vec::new(), Vec::new());
    for c in text.chars() {
        match c {
            c if c == open => starts.push(out.len()),
            c if c == close => spans.extend(starts.pop().map(|start| start..out.len())),
            c => out.push(c),
        }
    }
    (out, spans)
}

/// Rewrites the tags: `{%- generation %}` to a filter block with a scope of its own, as a call block has.
pub(super) fn rewrite(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len());
    let (mut rest, mut found) = (source, false);
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{{")).chain(rest.find("{#")).min() {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match rest.as_bytes()[1] {
            b'#' => rest.find("#}").map_or(rest.len(), |end| end + 2),
            b'%' => code_length(rest, "%}"),
            _ => code_length(rest, "}}"),
        };
        let (tag, after) = rest.split_at(length);
        rest = after;
        let Some((open, name, close)) = block_tag(tag) else {
            out.push_str(tag);
            continue;
        };
        match name {
            "generation" => {
                out.push_str(&format!("{open} filter generation %}}{{% with {close}"));
                found = true;
            }
            "endgeneration" => out.push_str(&format!("{open} endwith %}}{{% endfilter {close}")),
            "raw" => {
                // Nothing in a raw block is a tag.
                let end = raw_length(rest);
                out.push_str(tag);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            _ => out.push_str(tag),
        }
    }
    out.push_str(rest);
    (out, found)
}

/// `{%- name -%}` in its three parts, if that is all there is in the tag.
fn block_tag(tag: &str) -> Option<(&str, &str, &str)> {
    let inner = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let signed = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    let open = &tag[..2 + inner.len() - signed.len()];
    let name = signed.strip_suffix(['-', '+']).unwrap_or(signed);
    let close = &tag[open.len() + name.len()..];
    Some((open, name.trim(), close))
}

/// The length of a tag up to and with `end`, which may also occur in its string literals.
fn code_length(tag: &str, end: &str) -> usize {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in tag.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) => quote = Some(q).filter(|q| *q != c),
            None if c == '"' || c == '\'' => quote = Some(c),
            None if tag[at..].starts_with(end) => return at + end.len(),
            None => {}
        }
    }
    tag.len()
}

/// Where the raw block that starts here ends.
fn raw_length(text: &str) -> usize {
    let mut from = 0;
    while let Some(at) = text[from..].find("{%") {
        let start = from + at;
        let tag = &text[start..];
        let length = code_length(tag, "%}");
        if block_tag(&tag[..length]).is_some_and(|(_, name, _)| name == "endraw") {
            return start;
        }
        from = start + 2;
    }
    text.len()
}
