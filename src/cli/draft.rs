//! `--draft-model`: a small model that proposes tokens.

use super::source;
use crate::generate::{Draft, Drafted};
use crate::load::Tokenizer;
use crate::models::{Config, Model};
use anyhow::Context;

/// The flags of a draft model.
#[derive(Clone, Debug, clap::Args)]
pub struct DraftArgs {
    /// A small model with the same vocabulary that proposes tokens: the same answer, sooner
    #[arg(long, value_name = "MODEL")]
    pub draft_model: Option<String>,
    /// Tokens that it proposes at a time
    #[arg(long, value_name = "N", default_value_t = 3, requires = "draft_model")]
    num_draft_tokens: usize,
}

impl DraftArgs {
    /// The draft for `target`, a model with this tokenizer, if one is asked for.
    pub fn load(&self, tokenizer: &Tokenizer, target: &Model) -> anyhow::Result<Option<Draft<Model>>> {
        let Some(given) = &self.draft_model else { return Ok(None) };
        let dir = source::model(given, None)?;
        Draft::<Model>::check(&dir.tokenizer()?, tokenizer)
            .with_context(|| format!("--draft-model {given}"))?;
        let model = Model::load(&Config::open(&dir)?, &dir.weights()?, target.dtype(), target.device())?;
        Ok(Some(Draft::new(model, self.num_draft_tokens)?))
    }
}

/// How well a draft did.
pub fn rate(Drafted { proposed, accepted }: Drafted) -> String {
    let share = 100.0 * accepted as f64 / proposed.max(1) as f64;
    format!("{accepted} of {proposed} tokens accepted ({share:.0}%)")
}
