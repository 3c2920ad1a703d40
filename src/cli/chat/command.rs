//! The `/` commands of a chat.

use anyhow::bail;
use std::path::PathBuf;

/// Names (the first is the one shown), what follows, what it does.
const COMMANDS: &[(&[&str], &str, &str)] = &[
    (&["help", "?"], "", "list the commands"),
    (&["exit", "quit", "bye"], "", "end the chat, as Ctrl-D does"),
    (&["reset", "clear"], "", "forget the conversation"),
    (&["retry", "regenerate"], "", "answer the last question anew"),
    (&["undo"], "", "take the last question and its answer back"),
    (&["system"], "[TEXT|off]", "show or change what the model is told before the conversation"),
    (&["adapter"], "[NAME|off]", "show or change the adapter"),
    (&["adapters"], "", "list the adapters"),
    (&["set"], "[NAME VALUE]", "show or change how answers are sampled: /set temp 0.7"),
    (&["save"], "FILE", "save the conversation; to a .safetensors file, with its cache"),
    (&["load"], "FILE", "go on with a saved conversation"),
    (&["tool"], "TEXT", "give the result of a tool that the model called"),
    (&["stats"], "", "tell what the last answer took"),
    (&["tokens"], "", "tell how full the context is"),
];

/// What a line asks of the chat itself.
#[derive(Debug, PartialEq)]
pub enum Command {
    Help,
    Exit,
    Reset,
    Retry,
    Undo,
    System(Option<String>),
    Adapter(Option<String>),
    Adapters,
    Set(Option<(String, String)>),
    Save(PathBuf),
    Load(PathBuf),
    Tool(String),
    Stats,
    Tokens,
}

impl Command {
    /// The command of a line; none if it is for the model. `//` begins a line for the model that begins with `/`.
    pub fn parse(line: &str) -> Option<anyhow::Result<Self>> {
        let rest = line.trim_start().strip_prefix('/')?;
        if rest.starts_with('/') {
            return None;
        }
        let (name, text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        Some(Self::of(name, text.trim()))
    }

    fn of(name: &str, text: &str) -> anyhow::Result<Self> {
        let Some((names, usage, _)) = COMMANDS.iter().find(|(names, ..)| names.contains(&name)) else {
            let hint = nearest(name).map_or(String::new(), |name| format!("did you mean /{name}? "));
            bail!("/{name}: wants a command, got an unknown one ({hint}/help lists them)")
        };
        let given = (!text.is_empty()).then(|| text.to_string());
        let needed = || match text.is_empty() {
            true => Err(anyhow::anyhow!("/{name}: wants {usage}, got nothing")),
            false => Ok(text.to_string()),
        };
        if usage.is_empty() && !text.is_empty() {
            bail!("/{name}: wants nothing after it, got {text:?}");
        }
        Ok(match names[0] {
            "help" => Command::Help,
            "exit" => Command::Exit,
            "reset" => Command::Reset,
            "retry" => Command::Retry,
            "undo" => Command::Undo,
            "system" => Command::System(given),
            "adapter" => Command::Adapter(given),
            "adapters" => Command::Adapters,
            "set" => Command::Set(
                given
                    .map(|text| match text.split_once(char::is_whitespace) {
                        Some((name, value)) => Ok((name.to_string(), value.trim().to_string())),
                        None => bail!("/set: wants {usage}, got {text:?}"),
                    })
                    .transpose()?,
            ),
            "save" => Command::Save(needed()?.into()),
            "load" => Command::Load(needed()?.into()),
            "tool" => Command::Tool(needed()?),
            "stats" => Command::Stats,
            _ => Command::Tokens,
        })
    }
}

/// What `/help` shows.
pub fn help() -> String {
    let left: Vec<String> =
        COMMANDS.iter().map(|(names, usage, _)| format!("/{} {usage}", names[0])).collect();
    let width = left.iter().map(String::len).max().unwrap_or(0);
    let lines = left.iter().zip(COMMANDS).map(|(left, (.., does))| format!("  {left:width$}  {does}\n"));
    lines.collect::<String>()
        + "A line that ends in \\ goes on in the next; so does everything between two \"\"\".\n\
           // begins a question that begins with /. Ctrl-C stops an answer."
}

/// The names that begin so.
pub fn completions(start: &str) -> Vec<String> {
    let names = COMMANDS.iter().map(|(names, usage, _)| match usage.is_empty() {
        true => format!("/{}", names[0]),
        false => format!("/{} ", names[0]),
    });
    names.filter(|name| name.starts_with(start)).collect()
}

/// The command that is spelled nearly so.
fn nearest(name: &str) -> Option<&'static str> {
    let all = COMMANDS.iter().flat_map(|(names, ..)| names.iter().copied());
    let best = all.map(|known| (distance(name, known), known)).min()?;
    (best.0 <= 2 && best.0 < name.len()).then_some(best.1)
}

/// How many letters differ: insertions, deletions, substitutions.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_for_the_model() {
        let parse =
            |line: &str| Command::parse(line).map(|command| command.map_err(|error| error.to_string()));
        assert_eq!(parse("hello /help"), None);
        assert_eq!(parse("//help"), None);
        assert_eq!(parse(" /system  Be brief. "), Some(Ok(Command::System(Some("Be brief.".into())))));
        assert_eq!(parse("/regenerate"), Some(Ok(Command::Retry)));
        assert_eq!(parse("/set temp 0.7"), Some(Ok(Command::Set(Some(("temp".into(), "0.7".into()))))));
        for (line, words) in [
            ("/hlep", "did you mean /help?"),
            ("/xyzzy", "got an unknown one (/help lists them)"),
            ("/save", "/save: wants FILE, got nothing"),
            ("/undo 3", "/undo: wants nothing after it"),
            ("/set temp", "/set: wants [NAME VALUE]"),
        ] {
            let error = parse(line).unwrap().unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
