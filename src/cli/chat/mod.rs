//! `metal-candle chat`: a conversation on the terminal, or over a pipe.

mod command;
mod input;
mod screen;
mod session;

use super::compute::Compute;
use super::draft::DraftArgs;
use super::generate::prompt;
use super::interrupt;
use super::sampling::Sampling;
use super::source::{self, ModelArgs};
use crate::generate::Conversation;
use crate::models::{Config, Model};
use anyhow::{Context, bail, ensure};
use command::Command;
use input::{Input, Line};
use screen::Screen;
use session::{Session, Voice};
use std::path::{Path, PathBuf};

/// Talk to a model, fine-tuned or not.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle chat --model ./Qwen3-0.6B
  metal-candle chat --model ./Qwen3-0.6B --adapter pirate=./adapters --adapter poet=./other
  metal-candle chat --model ./Qwen3-8B --draft-model ./Qwen3-0.6B --system-prompt \"Be brief.\"
  cat questions.txt | metal-candle chat --model ./Qwen3-0.6B --temp 0

/help in the chat lists its commands. Ctrl-C stops an answer, twice ends the chat at once; Ctrl-D
ends the chat. A line that ends in \\ goes on in the next; so does everything between two \"\"\". Over a
pipe, answers go to stdout and all else to stderr.
What is not given is as the model's generation_config.json says, or greedy.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// An adapter, PEFT's or mlx-lm's, with a name for /adapter: a directory, or org/name of the hub; may be repeated,
    /// the first is on at the beginning
    #[arg(long, alias = "adapter-path", value_name = "[NAME=]ADAPTER")]
    adapter: Vec<String>,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system_prompt: Option<String>,
    /// Go on with a conversation that /save has written
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    /// Tools the model may call: a JSON file, a list as in OpenAI's API; /tool gives a result
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// Variables of the chat template, as a JSON object: {"enable_thinking": false}
    #[arg(long, value_name = "JSON")]
    chat_template_config: Option<String>,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    draft: DraftArgs,
    #[command(flatten)]
    compute: Compute,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    interrupt::set_idle(true);
    let mut session = open(&args)?;
    let mut input = Input::open(session.adapter_names());
    let screen = Screen::new(input.is_terminal());
    if let Some(path) = &args.load {
        session.load(path, screen)?;
        // What is typed now counts more than what was saved.
        if let Some(system) = &args.system_prompt {
            session.set_system(system.clone());
        }
    }
    screen.say(session.greeting(&args.model.model));
    let mut failures = 0;
    loop {
        // On a terminal, Ctrl-C at the prompt is a key; one that comes just after an answer is none to leave by.
        interrupt::set_idle(!input.is_terminal());
        let line = match input.read()? {
            Line::End => break,
            Line::Dropped => {
                screen.say("Ctrl-D or /exit ends the chat");
                continue;
            }
            Line::Bad(error) => {
                screen.fail(error);
                failures += 1;
                continue;
            }
            Line::Text(line) => line,
        };
        interrupt::set_idle(false);
        interrupt::clear();
        let done = match Command::parse(&line) {
            Some(Ok(Command::Exit)) => break,
            Some(Ok(command)) => session.obey(command, screen),
            Some(Err(error)) => Err(error),
            None => session.ask(&line, screen),
        };
        if let Err(error) = done {
            // A reader who has gone away wants no more answers.
            if error.downcast_ref::<std::io::Error>().is_some() {
                return Err(error);
            }
            screen.fail(format!("{error:#}"));
            failures += 1;
        }
        if interrupt::requested() && !input.is_terminal() {
            return Ok(());
        }
        interrupt::clear();
    }
    ensure!(failures == 0 || input.is_terminal(), "{failures} of the lines failed");
    Ok(())
}

fn open(args: &Args) -> anyhow::Result<Session> {
    let dir = args.model.resolve()?;
    let config = Config::open(&dir)?;
    let tokenizer = dir.tokenizer()?;
    let Some(template) = dir.chat_template()? else {
        bail!(
            "{}: wants a chat template, got a model without (metal-candle generate continues plain text)",
            args.model.model
        );
    };
    let mut options = args.sampling.options(&dir, &tokenizer)?;
    // A conversation has more to say than one answer: it ends where the model ends it.
    options.max_tokens = args.sampling.max_tokens;
    let tools = args.tools.as_deref().map(prompt::tools).transpose()?;
    options.skip_special_tokens = tools.is_none();
    let variables = args.chat_template_config.as_deref().map_or(Ok(Default::default()), prompt::variables)?;
    let format = match &tools {
        Some(tools) => prompt::tool_format(&template, tools, &variables)?,
        None => None,
    };
    let mut talk = Conversation::default();
    (talk.system, talk.tools, talk.variables) = (args.system_prompt.clone(), tools, variables);

    let device = args.compute.device.open()?;
    let dtype = args.compute.dtype.dtype(config.dtype, &device);
    let model = Model::load(&config, &dir.weights()?, dtype, &device)?;
    let mut voices: Vec<Voice> = Vec::new();
    for given in &args.adapter {
        let (name, path) = named(given);
        ensure!(
            name != "off" && !name.is_empty() && !voices.iter().any(|voice| voice.name == name),
            "--adapter {given}: wants a name of its own, got {name:?} (give one: NAME={})",
            path.display()
        );
        let on = || format!("{} on {}", path.display(), dir.path.display());
        let adapter = model.prepare_adapter(&source::adapter(&path, Some(&model))?).with_context(on)?;
        voices.push(Voice { name, path, adapter });
    }
    let draft = args.draft.load(&tokenizer, &model)?;
    let session = Session::new(model, tokenizer, template, options, talk, draft);
    Ok(session.with_tools(format).with_voices(voices))
}

/// The name and the directory of `--adapter`.
fn named(given: &str) -> (String, PathBuf) {
    match given.split_once('=').filter(|_| !Path::new(given).is_dir()) {
        Some((name, dir)) => (name.to_string(), PathBuf::from(dir)),
        None => {
            let path = PathBuf::from(given);
            // `.` and `..` have no name of their own.
            let whole = path.canonicalize().unwrap_or_else(|_| path.clone());
            (whole.file_name().map_or(given.to_string(), |name| name.to_string_lossy().into_owned()), path)
        }
    }
}
