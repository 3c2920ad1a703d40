//! `metal-candle completions` and `metal-candle man`: what a shell and a manual want to know of the command line.

use super::Cli;
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::Write;
use std::path::PathBuf;

/// Print the completions of a shell
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle completions bash > ~/.local/share/bash-completion/completions/metal-candle
  metal-candle completions zsh > ~/.zfunc/_metal-candle
  metal-candle completions fish > ~/.config/fish/completions/metal-candle.fish")]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// Print the manual page, or write one for each verb
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle man | man -l -
  metal-candle man --out ~/.local/share/man/man1")]
pub struct Man {
    /// Where the pages go: metal-candle.1, metal-candle-train.1, ...
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs `completions`.
pub fn completions(args: &Completions) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "metal-candle", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}

/// Runs `man`.
pub fn man(args: &Man) -> anyhow::Result<()> {
    let command = Cli::command();
    match &args.out {
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(crate::Error::io(dir))?;
            Ok(clap_mangen::generate_to(command, dir).map_err(crate::Error::io(dir))?)
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            Ok(std::io::stdout().write_all(&page)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    /// The commands that a help text shows, a line each: continued ones joined, pipes cut.
    fn examples(help: &str) -> Vec<String> {
        let joined = help.replace("\\\n", " ");
        let lines = joined.lines().filter_map(|line| {
            let command = line.trim().split_once("metal-candle ")?.1;
            line.starts_with("  ")
                .then(|| command.split(['|', '>', '<']).next().unwrap_or_default().trim().to_string())
        });
        lines.collect()
    }

    /// Words as a shell makes them, for what the examples use.
    fn words(command: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quote = None;
        for c in command.chars() {
            match (quote, c) {
                (None, '"' | '\'') => quote = Some(c),
                (Some(q), c) if q == c => quote = None,
                (None, ' ') => words.push(String::new()),
                (_, c) => words.last_mut().expect("there is a first word").push(c),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    fn parses(example: &str) {
        let words = ["metal-candle".to_string()].into_iter().chain(words(example));
        if let Err(error) = Cli::try_parse_from(words) {
            panic!("{example}: {error}");
        }
    }

    #[test]
    fn every_command_in_the_readme_is_one() {
        let readme = include_str!("../../README.md");
        let blocks = readme.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
        let commands: Vec<String> =
            blocks.flat_map(|block| examples(&block.replace("metal-candle ", "  metal-candle "))).collect();
        assert!(commands.len() > 8, "{commands:?}");
        commands.iter().for_each(|command| parses(command));
    }

    #[test]
    fn the_command_line_is_sound_and_every_example_in_the_help_is_one() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        command.build();
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.lines().all(|line| line.chars().count() <= 100), "{}: wraps", verb.get_name());
            let examples = examples(&help);
            assert!(!examples.is_empty(), "{}: its help wants an example", verb.get_name());
            examples.iter().for_each(|example| parses(example));
        }
    }
}
