//! A pass of a checkpoint with one layer's weights in memory at a time, for models larger than memory.

use candle_core::{DType, Device, Tensor};

use super::build::Names;
use super::{Config, Context, Model};
use crate::Result;
use crate::load::{Adapter, Weights};
use crate::nn::Pass;
use crate::ops::Keys;

impl Config {
    /// The logits of every position of each prompt, (T, V) in f32, by a checkpoint with or without an adapter: those
    /// that [`Model::logits`] gives.
    ///
    /// `progress` is told the layer that comes next; an error of it ends the pass.
    ///
    /// # Errors
    ///
    /// When the checkpoint or the adapter is not of this configuration: all tensors that are wrong are listed.
    pub fn logits_by_layer(
        &self,
        weights: &Weights,
        adapter: Option<&Adapter>,
        prompts: &[Vec<u32>],
        dtype: DType,
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        let (device, pass) = (&Device::Cpu, Pass::default());
        let names = Names::checked(self, weights)?;
        let mut model = Model::hollow(self, dtype, device)?;
        if let Some(adapter) = adapter {
            let ready = model.prepare_adapter(adapter)?;
            model.attach_adapter(&ready);
        }
        let (layers, frame): (Vec<_>, Vec<_>) = (model.named_tensors().into_iter())
            .filter(|(name, _)| !adapter.is_some_and(|adapter| adapter.saved.contains_key(name)))
            .partition(|(name, _)| name.starts_with(&format!("{}.layers.", self.prefix)));
        let load = |(name, hollow): &(String, Tensor)| -> Result<(String, Tensor)> {
            // A head that an adapter parts from the embedding is what the two were.
            let apart = self.tie_word_embeddings && name == "lm_head.weight";
            let source = if apart { &format!("{}.embed_tokens.weight", self.prefix) } else { name };
            Ok((name.clone(), weights.get(&names.stored(source), hollow.shape(), dtype, device)?))
        };
        model.exchange(frame.iter().map(load).collect::<Result<_>>()?);
        let start = |ids: &Vec<u32>| -> Result<(Tensor, Context)> {
            let ids = Tensor::new(ids.as_slice(), device)?.unsqueeze(0)?;
            Ok((model.embed(&ids, pass)?, model.context(1, ids.dim(1)?, Keys::All, pass)?))
        };
        let mut states = prompts.iter().map(start).collect::<Result<Vec<_>>>()?;
        for i in 0..self.layers.len() {
            progress(i)?;
            let prefix = format!("{}.layers.{i}.", self.prefix);
            let of_layer = layers.iter().filter(|(name, _)| name.starts_with(&prefix));
            let hollow = model.exchange(of_layer.map(load).collect::<Result<_>>()?);
            for (x, context) in &mut states {
                *x = model.layers[i].forward(x, context)?;
            }
            model.exchange(hollow);
        }
        let end = |(x, _): (Tensor, Context)| Ok(model.project(&model.final_norm(&x, pass)?)?.squeeze(0)?);
        states.into_iter().map(end).collect()
    }
}
