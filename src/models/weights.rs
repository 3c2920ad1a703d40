//! A model's weights by their names in the checkpoint: listed, exchanged, made variables.

use std::collections::BTreeMap;
use std::convert::Infallible;

use candle_core::{DType, Tensor, Var};

use super::Model;
use crate::nn::{Linear, RmsNorm};

impl Model {
    /// The linear layers of all layers by path, `model.layers.0.self_attn.q_proj`; the head is not one.
    pub fn linears(&self) -> Vec<(String, &Linear)> {
        let prefix = &self.config.prefix;
        let mut linears = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let of = layer.linears().into_iter();
            linears.extend(of.map(|(name, linear)| (format!("{prefix}.layers.{i}.{name}"), linear)));
        }
        linears
    }

    /// As [`Model::linears`], to be changed.
    pub fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let prefix = &self.config.prefix;
        let mut linears = Vec::new();
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let of = layer.linears_mut().into_iter();
            linears.extend(of.map(|(name, linear)| (format!("{prefix}.layers.{i}.{name}"), linear)));
        }
        linears
    }

    /// All weights by their names in the checkpoint, LoRA's excepted. A tied head is not listed.
    pub fn named_tensors(&self) -> Vec<(String, Tensor)> {
        let prefix = &self.config.prefix;
        let mut tensors = vec![(format!("{prefix}.embed_tokens.weight"), self.embed_tokens.weight.clone())];
        for (path, linear) in self.linears() {
            tensors.push((format!("{path}.weight"), linear.weight.clone()));
            tensors.extend(linear.bias.as_ref().map(|bias| (format!("{path}.bias"), bias.clone())));
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let name = |name: &str| format!("{prefix}.layers.{i}.{name}.weight");
            tensors.extend(layer.norms().into_iter().map(|(path, norm)| (name(path), norm.weight().clone())));
        }
        tensors.push((format!("{prefix}.norm.weight"), self.norm.weight().clone()));
        tensors.extend(self.lm_head.as_ref().map(|head| ("lm_head.weight".to_string(), head.clone())));
        tensors
    }

    /// The number of weights, LoRA's excepted; a tied head counts once.
    pub fn parameter_count(&self) -> usize {
        self.config.parameter_count()
    }

    /// Makes every weight an f32 variable, for full fine-tuning. A tied head and embedding stay one.
    ///
    /// # Errors
    ///
    /// When the device has no room for it.
    pub fn make_trainable(&mut self) -> candle_core::Result<()> {
        self.each_weight(|_, weight| {
            *weight = variable(weight)?;
            Ok(())
        })
    }

    /// Puts other tensors in the places of weights, by name, and returns those that were there.
    pub(super) fn exchange(&mut self, mut new: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
        let mut old = BTreeMap::new();
        let Ok(()) = self.each_weight::<Infallible>(|name, weight| {
            if let Some(new) = new.remove(name) {
                old.insert(name.to_string(), std::mem::replace(weight, new));
            }
            Ok(())
        });
        old
    }

    /// Calls `f` with each weight and its name in the checkpoint, to be changed.
    fn each_weight<E>(&mut self, mut f: impl FnMut(&str, &mut Tensor) -> Result<(), E>) -> Result<(), E> {
        let prefix = self.config.prefix.clone();
        f(&format!("{prefix}.embed_tokens.weight"), &mut self.embed_tokens.weight)?;
        for (path, linear) in self.linears_mut() {
            f(&format!("{path}.weight"), &mut linear.weight)?;
            if let Some(bias) = &mut linear.bias {
                f(&format!("{path}.bias"), bias)?;
            }
        }
        let mut norm = |name: String, norm: &mut RmsNorm| {
            let mut weight = norm.weight().clone();
            f(&name, &mut weight)?;
            norm.set_weight(weight);
            Ok(())
        };
        for (i, layer) in self.layers.iter_mut().enumerate() {
            for (name, part) in layer.norms_mut() {
                norm(format!("{prefix}.layers.{i}.{name}.weight"), part)?;
            }
        }
        norm(format!("{prefix}.norm.weight"), &mut self.norm)?;
        #[cfg(feature = "cuda")]
        self.layers.iter_mut().for_each(super::Layer::drop_stale_joins);
        self.lm_head.as_mut().map_or(Ok(()), |head| f("lm_head.weight", head))
    }

    /// The variables: weights by their names in the checkpoint, then LoRA's by their names in a PEFT adapter.
    pub fn trainable(&self) -> Vec<(String, Var)> {
        let weights = self.named_tensors().into_iter().filter(|(_, tensor)| tensor.is_variable());
        let mut variables: Vec<(String, Var)> =
            weights.filter_map(|(name, tensor)| Some((name, Var::from_tensor(&tensor).ok()?))).collect();
        for (path, lora) in self.loras() {
            let mut push = |end: &str, var: &Var| {
                variables.push((format!("base_model.model.{path}.{end}"), var.clone()));
            };
            push("lora_A.weight", &lora.a);
            push("lora_B.weight", &lora.b);
            lora.magnitude.iter().for_each(|magnitude| push("lora_magnitude_vector", magnitude));
        }
        variables
    }
}

/// A copy in f32 that can be trained.
pub(super) fn variable(tensor: &Tensor) -> candle_core::Result<Tensor> {
    Ok(Var::from_tensor(&tensor.to_dtype(DType::F32)?)?.into_inner())
}
