//! Decoding on a CUDA GPU as one launch: the pass over one token a row, captured once and replayed.
//!
//! What changes from token to token is in the GPU's memory: the ids, each row's range of keys, each row's position.
//! The graph itself counts the latter two up. It is captured anew when what it was made of has changed: the buffers of
//! the cache, the weights, the adapter.

use std::sync::LazyLock;

use candle_core::{DType, Device, Result, Tensor};

use super::{Context, Model};
use crate::nn::{KvCache, Linear, Lora, MadeOf, Pass, Replay, RmsNorm, RopeScaling, Rotation};
use crate::ops::decode_state::{self, DecodeState};
use crate::ops::graph::{self, Graph};
use crate::ops::{self, Keys};

impl Model {
    /// The logits of [`Model::forward`] by a graph; none where there can be none.
    pub(super) fn replayed(&self, ids: &Tensor, cache: &mut KvCache) -> Result<Option<Tensor>> {
        let Device::Cuda(device) = &self.device else { return Ok(None) };
        let (rows, len) = ids.dims2()?;
        // A row that has not begun has no position.
        let begun = cache.starts().iter().all(|start| *start <= cache.len());
        if len != 1 || cache.is_empty() || !begun || !graph::is_possible(device) || !self.is_replayable(rows)
        {
            return Ok(None);
        }
        self.check_cache(rows, cache)?;
        self.check_ids(ids)?;
        let capacity = cache.make_room(cache.len() + 1)?;
        let Some(made_of) = self.made_of(cache)? else { return Ok(None) };
        let mut replay = match cache.replay.take() {
            Some(replay) if replay.made_of == made_of && replay.logits.dim(0)? == rows => replay,
            _ => new_replay(self, rows, capacity, made_of)?,
        };
        replay.state.set(ids, cache.starts(), cache.len())?;
        match &mut replay.graph {
            Some(graph) => graph.launch()?,
            // Compiled kernels and the library's memory are there after a first pass.
            none => {
                self.pass(cache, &replay.state, &replay.tables, &replay.logits)?;
                replay.runs += 1;
                if replay.runs == RUNS {
                    let once = some_of(&replay.logits)?;
                    let work = || self.pass(cache, &replay.state, &replay.tables, &replay.logits);
                    let graph = none.insert(Graph::capture(device, work)?);
                    replay.state.forget();
                    replay.state.set(ids, cache.starts(), cache.len())?;
                    graph.launch()?;
                    check(&some_of(&replay.logits)?, &once)?;
                }
            }
        }
        replay.state.advanced();
        cache.advance(1);
        // The next pass writes there again.
        let logits = replay.logits.copy()?;
        cache.replay = Some(replay);
        Ok(Some(logits))
    }

    /// Refuses ids that are on the CPU and outside the vocabulary, before anything has changed.
    fn check_ids(&self, ids: &Tensor) -> Result<()> {
        let vocabulary = self.config.vocab_size;
        if ids.device().is_cpu()
            && let Some(id) =
                ids.flatten_all()?.to_vec1::<u32>()?.iter().find(|id| **id as usize >= vocabulary)
        {
            candle_core::bail!("embedding: wants ids below {vocabulary}, got {id}")
        }
        Ok(())
    }

    /// Whether Candle's own kernels, which a capture does not see, have no part in a pass over a token for each of so many
    /// rows.
    fn is_replayable(&self, rows: usize) -> bool {
        let casts = rows > ops::FEW_ROWS && self.dtype != DType::F32;
        self.is_fixed() && !(casts && self.each_lora().any(|lora| lora.enabled))
    }

    /// Whether graphs are wanted, rotations are those of a fixed table, and nothing is computed of weights in each pass.
    fn is_fixed(&self) -> bool {
        let fixed = |scaling: &RopeScaling| {
            !matches!(scaling, RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. })
        };
        graphs_are_wanted()
            && self.embed_tokens.weight.dtype() == self.dtype
            && self.config.ropes.iter().all(|rope| fixed(&rope.scaling))
            && !self.each_lora().any(|lora| lora.magnitude.is_some())
    }

    /// Whether a training step over batches of one shape can be captured: one of LoRA's factors, without dropout.
    pub(crate) fn is_step_replayable(&self) -> Result<bool> {
        let Device::Cuda(device) = &self.device else { return Ok(false) };
        let factors = |lora: &Lora| lora.enabled && lora.dropout == 0.0 && lora.magnitude.is_none();
        let frozen = |linear: &Linear| {
            let bias = linear.bias.as_ref().is_some_and(Tensor::is_variable);
            !linear.weight.is_variable() && !bias
        };
        for norm in self.each_norm() {
            if norm.weight().is_variable() || norm.read_by()?.is_none() {
                return Ok(false);
            }
        }
        Ok(self.is_fixed()
            && graph::is_possible(device)
            && self.dtype != DType::F32
            && !self.embed_tokens.weight.is_variable()
            && !self.head().is_variable()
            && self.each_linear().all(frozen)
            && self.each_lora().all(factors))
    }

    /// Whether a pass may run without its kernels: DoRA keeps norms that they compute.
    pub(crate) fn is_compiled_ahead(&self) -> bool {
        !self.each_lora().any(|lora| lora.magnitude.is_some())
    }

    /// Compiles the kernels of a first prompt and of the tokens after it, several at a time.
    pub(super) fn compile_ahead(&self, ids: &Tensor) {
        let Device::Cuda(device) = &self.device else { return };
        if self.compiled.set(()).is_err() || !self.is_compiled_ahead() {
            return;
        }
        let pass = |ids: &Tensor, cache: &mut KvCache| {
            let x = self.read(ids, cache)?;
            let last = x.dim(1)? - 1;
            self.project(&self.final_norm(&x.narrow(1, last, 1)?.squeeze(1)?, Pass::default())?)
        };
        let work = || {
            let mut cache = self.cache(&vec![0; ids.dim(0)?]);
            pass(ids, &mut cache)?;
            pass(&ids.narrow(1, 0, 1)?.contiguous()?, &mut cache).map(drop)
        };
        // What is wrong with the pass is told when it is made.
        ops::in_pool(|| ops::compile_ahead(device, work)).ok();
    }

    fn each_lora(&self) -> impl Iterator<Item = &Lora> {
        self.each_linear().filter_map(|linear| linear.lora.as_ref())
    }

    fn each_norm(&self) -> impl Iterator<Item = &RmsNorm> {
        let layers = self.layers.iter().flat_map(|layer| layer.norms().into_iter().map(|(_, norm)| norm));
        std::iter::once(&self.norm).chain(layers)
    }

    fn each_linear(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|layer| layer.blocks().into_iter().flatten())
    }

    /// What a pass is made of: the tensors that it reads and writes by their addresses, and its constants. None where a
    /// tensor is made in each pass.
    fn made_of(&self, cache: &KvCache) -> Result<Option<MadeOf>> {
        let mut of = MadeOf { tensors: cache.buffers().map(Tensor::id).collect(), constants: Vec::new() };
        of.tensors.extend([self.embed_tokens.weight.id(), self.head().id()]);
        for linear in self.each_linear() {
            of.tensors.push(linear.weight.id());
            of.tensors.extend(linear.bias.as_ref().map(Tensor::id));
            if let Some(lora) = linear.lora.as_ref().filter(|lora| lora.enabled) {
                of.tensors.extend([lora.a.id(), lora.b.id()]);
                of.constants.push(lora.scale.to_bits());
            }
        }
        for norm in self.each_norm() {
            match norm.read_by()? {
                Some(id) => of.tensors.push(id),
                None => return Ok(None),
            }
        }
        Ok(Some(of))
    }

    /// The pass that is captured.
    fn pass(&self, cache: &mut KvCache, state: &DecodeState, tables: &[Rotation], to: &Tensor) -> Result<()> {
        let pass = Pass::default();
        let positions = state.positions()?;
        let turn = |table: &Tensor| ops::embedding(&positions, table);
        let rotation = |table: &Rotation| Ok(Rotation { cos: turn(&table.cos)?, sin: turn(&table.sin)? });
        let rotations = tables.iter().map(rotation).collect::<Result<_>>()?;
        let context = Context { rotations, keys: Keys::OnDevice(state.ranges()?), pass };
        let mut x = self.embed(&state.ids()?, pass)?;
        for (layer, cache) in self.layers.iter().zip(cache.layers_mut()) {
            x = layer.forward_cached(&x, &context, cache, 0)?;
        }
        let x = self.final_norm(&x.squeeze(1)?, pass)?;
        ops::cast_into(&ops::linear(&x, &self.head().detach(), None)?, to)?;
        decode_state::advance(state)
    }
}

fn new_replay(model: &Model, rows: usize, capacity: usize, made_of: MadeOf) -> Result<Replay> {
    let tables = model.ropes.iter().map(|rope| rope.range(0, capacity, capacity)).collect::<Result<_>>()?;
    Ok(Replay {
        made_of,
        state: DecodeState::new(rows, &model.device)?,
        logits: Tensor::zeros((rows, model.config.vocab_size), DType::F32, &model.device)?,
        tables,
        graph: None,
        runs: 0,
    })
}

/// Tokens after which a pass is captured: fewer are not worth it.
const RUNS: usize = 2;

/// The first logits of each row: work that went elsewhere leaves none of them right.
fn some_of(logits: &Tensor) -> Result<Vec<f32>> {
    const SOME: usize = 512;
    logits.narrow(1, 0, logits.dim(1)?.min(SOME))?.contiguous()?.flatten_all()?.to_vec1()
}

/// Refuses logits that are not those of the pass a graph was captured from: then work of it went elsewhere.
fn check(logits: &[f32], wanted: &[f32]) -> Result<()> {
    let largest = wanted.iter().fold(0f32, |most, x| most.max(x.abs()));
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 0.02 * largest || (a.is_nan() && b.is_nan()) || a == b;
    match logits.iter().zip(wanted).all(near) {
        true => Ok(()),
        false => candle_core::bail!(
            "cuda graph: wants the logits of the pass that was captured, got others; METAL_CANDLE_GRAPHS=0 does without"
        ),
    }
}

/// `METAL_CANDLE_GRAPHS=0` turns them off.
fn graphs_are_wanted() -> bool {
    static WANTED: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os("METAL_CANDLE_GRAPHS").is_none_or(|value| value != "0"));
    *WANTED
}
