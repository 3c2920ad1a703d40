//! A cache that outlives an answer: the next prompt reads only what differs from what was read before.

use super::model::CausalLm;

/// The keys and values of one row, and the tokens they are of.
///
/// They belong to the model as it was when it read the tokens: another adapter needs another cache.
pub struct PromptCache<M: CausalLm> {
    pub(super) cache: Option<M::Cache>,
    pub(super) tokens: Vec<u32>,
}

impl<M: CausalLm> PromptCache<M> {
    /// A cache of nothing.
    pub fn new() -> Self {
        PromptCache { cache: None, tokens: Vec::new() }
    }

    /// A cache that holds these tokens.
    pub fn of(cache: M::Cache, tokens: Vec<u32>) -> Self {
        PromptCache { cache: Some(cache), tokens }
    }

    /// The tokens it holds.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The keys and values, once something was read.
    pub fn cache(&self) -> Option<&M::Cache> {
        self.cache.as_ref()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Forgets the tokens from `len` on.
    pub(super) fn truncate(&mut self, model: &M, len: usize) {
        self.tokens.truncate(len);
        // It may hold one more than the tokens, of a pass that an error has ended.
        let held = self.tokens.len();
        self.cache.iter_mut().for_each(|cache| model.truncate(cache, held));
    }

    /// Forgets what is not the beginning of `tokens`; how many it still holds.
    pub(super) fn keep_prefix(&mut self, model: &M, tokens: &[u32]) -> usize {
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.truncate(model, common);
        common
    }
}

impl<M: CausalLm> Default for PromptCache<M> {
    fn default() -> Self {
        Self::new()
    }
}
