//! The memory plan: what a run will hold at its peak, told before step 1.

use super::step::GradCheckpoint;
use crate::device;
use crate::models::{Config, Layer, Model};
use crate::nn::Linear;
use crate::ops::LOGITS_CHUNK;
use candle_core::{DType, Device};
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// Bytes a run is expected to hold at its peak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// The model's weights.
    pub weights: usize,
    /// The trainable variables beside the weights: an adapter's.
    pub adapters: usize,
    /// Gradients of the variables.
    pub gradients: usize,
    /// The optimiser's moments.
    pub optimizer: usize,
    /// What forward keeps for backward at the given batch and length.
    pub activations: usize,
    /// What comes and goes: a layer's gradients, or a chunk of logits.
    pub transient: usize,
    /// On a CPU, what its process holds beside: code, threads, and free memory that its allocator keeps.
    pub process: usize,
}

/// Of a process that trains a small model: peaks less the plan's other parts (Linux, mimalloc).
const PROCESS: usize = 60_000_000;
/// One part of so many is what the allocator keeps: what a 0.5B model's peaks at 128 to 2048 tokens and ranks 4 to 128 hold more.
const KEPT_FREE: usize = 12;

impl MemoryPlan {
    /// The plan for training `model` on batches of `rows` x `len`.
    pub fn new(model: &Model, rows: usize, len: usize, grad_checkpoint: GradCheckpoint) -> Self {
        let vars = model.trainable();
        let trained: usize = vars.iter().map(|(_, v)| v.elem_count()).sum();
        let factors =
            vars.iter().filter(|(name, _)| name.contains(".lora_")).map(|(_, v)| v.elem_count()).sum();
        // An adapter's weights stand beside those they replace; otherwise trained weights are the model's own.
        let full = trained > factors && !model.has_replaced_weights();
        let weights = model.parameter_count() * if full { 4 } else { model.dtype().size_in_bytes() };
        let shape = Shape::new(&model.config, model.dtype(), rows * len);
        // Whether one product makes queries, keys and values, and residual sums are its like's.
        let half_on_cuda = model.device().is_cuda() && model.dtype() != DType::F32;
        let joined = |layer: &Layer| half_on_cuda && !model.config.qk_norm && joins(layer);
        let head = shape.head(model.head().is_variable(), !model.device().is_cpu());
        let embedding = vars.iter().any(|(name, _)| name.ends_with("embed_tokens.weight"));
        let reached: Vec<&Layer> =
            model.layers().iter().skip_while(|layer| !embedding && !layer.is_trained()).collect();
        // What a layer keeps, with what DoRA scales.
        let kept = |layer: &&Layer| {
            let linears = layer.linears().into_iter().map(|(_, linear)| linear);
            let dora =
                linears.clone().filter(|l| l.lora.as_ref().is_some_and(|lora| lora.magnitude.is_some()));
            let ranks = linears.filter_map(|l| l.lora.as_ref()?.a.dim(0).ok());
            shape.layer_kept(joined(layer))
                + shape.outputs(dora.map(Linear::out_features).sum::<usize>() + ranks.sum::<usize>())
        };
        let (mut activations, mut rerun) = (0, 0);
        for (i, layer) in reached.iter().enumerate() {
            match grad_checkpoint.covers(i) {
                true => {
                    activations += shape.layer_input();
                    rerun = rerun.max(kept(layer));
                }
                false => activations += kept(layer),
            }
        }
        // The first layers come last in backward, when what the others kept is free again.
        let free: usize = match grad_checkpoint {
            GradCheckpoint::First(count) => reached.iter().skip(count).map(kept).sum(),
            _ => 0,
        };
        let rerun = rerun.saturating_sub(free);
        // A graph leaves gradients where it does each time; they are taken from there.
        #[cfg(feature = "cuda")]
        let graphs = model.is_step_replayable().unwrap_or(false);
        #[cfg(not(feature = "cuda"))]
        let graphs = false;
        let plan = MemoryPlan {
            weights,
            adapters: if full { 0 } else { 4 * trained },
            gradients: if graphs { 8 } else { 4 } * trained,
            optimizer: 8 * trained,
            activations,
            transient: head.max(rerun + shape.layer_backward()),
            process: 0,
        };
        match model.device().is_cpu() {
            true => MemoryPlan { process: PROCESS + plan.total() / KEPT_FREE, ..plan },
            false => plan,
        }
    }

    /// The layers to run again, as few as let a batch of `rows` x `len` fit into `available` bytes, a tenth of which is
    /// left; all of them if nothing fits.
    pub fn choose(model: &Model, rows: usize, len: usize, available: u64) -> GradCheckpoint {
        let layers = model.layers().len();
        let ways = (0..=layers).map(|count| match count {
            0 => GradCheckpoint::None,
            count if count == layers => GradCheckpoint::All,
            count => GradCheckpoint::First(count),
        });
        let fits = |way: &GradCheckpoint| {
            let wants = MemoryPlan::new(model, rows, len, *way).to_come() as u64;
            wants <= available - available / 10
        };
        ways.into_iter().find(fits).unwrap_or(GradCheckpoint::All)
    }

    /// What comes on top of a model that is loaded.
    pub fn to_come(&self) -> usize {
        self.total() - self.weights - self.adapters
    }

    /// All of it.
    pub fn total(&self) -> usize {
        let run = self.gradients + self.optimizer + self.activations + self.transient;
        self.weights + self.adapters + run + self.process
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gb = |bytes: usize| bytes as f64 / 1e9;
        write!(
            f,
            "{:.3} GB: weights {:.3}, adapters {:.3}, gradients {:.3}, optimizer {:.3}, activations {:.3}, transient {:.3}",
            gb(self.total()),
            gb(self.weights),
            gb(self.adapters),
            gb(self.gradients),
            gb(self.optimizer),
            gb(self.activations),
            gb(self.transient)
        )?;
        match self.process {
            0 => Ok(()),
            process => write!(f, ", process {:.3}", gb(process)),
        }
    }
}

/// Whether the updates of a layer let its products be joined: all of one rank that is not too large, or none; without
/// dropout or magnitudes, beside frozen weights.
fn joins(layer: &Layer) -> bool {
    const MOST: usize = 32;
    let linears = layer.linears();
    let ranks: Vec<usize> =
        linears.iter().filter_map(|(_, linear)| linear.lora.as_ref()?.a.dim(0).ok()).collect();
    let plain = |linear: &Linear| {
        let update = linear.lora.as_ref().is_none_or(|lora| lora.dropout == 0. && lora.magnitude.is_none());
        update && !linear.weight.is_variable()
    };
    linears.iter().all(|(_, linear)| plain(linear))
        && (ranks.is_empty() || ranks.len() == linears.len())
        && ranks.iter().all(|rank| *rank == ranks[0] && *rank <= MOST && rank.is_multiple_of(4))
}

/// The sizes that activations are made of.
struct Shape {
    tokens: usize,
    bytes: usize,
    hidden: usize,
    queries: usize,
    keys: usize,
    ffn: usize,
    vocab: usize,
    norms: usize,
    fused: bool,
    gemma: bool,
}

impl Shape {
    fn new(config: &Config, dtype: DType, tokens: usize) -> Self {
        Shape {
            tokens,
            bytes: dtype.size_in_bytes(),
            hidden: config.hidden_size,
            queries: config.num_attention_heads * config.head_dim,
            keys: config.num_key_value_heads * config.head_dim,
            ffn: config.intermediate_size,
            vocab: config.vocab_size,
            norms: if config.qk_norm { 1 } else { 0 },
            fused: config.fused_projections,
            gemma: config.gemma,
        }
    }

    fn layer_input(&self) -> usize {
        self.outputs(self.hidden)
    }

    /// A tensor of `width` numbers a token.
    fn outputs(&self, width: usize) -> usize {
        self.tokens * self.bytes * width
    }

    /// Every op's output is kept: input, two norms, the attention's output projection, the sum, the feed-forward
    /// block's output and the layer's; queries and keys as projected, normalized and rotated; values and the
    /// attention; gate, up and their product. A fused projection is kept beside its parts.
    fn layer_kept(&self, joined: bool) -> usize {
        if joined {
            // Input, two norms and the sum between the blocks; what attention reads, in one tensor, and what it writes.
            let residual = if self.gemma { 7 } else { 4 };
            let attention = 2 * self.queries + 2 * self.keys;
            return self.outputs(residual * self.hidden + attention + 3 * self.ffn);
        }
        let queries = 3 + self.norms;
        let keys = 3 + self.norms;
        let copies = if self.fused { self.queries + 2 * self.keys } else { 0 };
        self.tokens
            * self.bytes
            * (7 * self.hidden + queries * self.queries + keys * self.keys + 3 * self.ffn + copies)
    }

    /// Gradients of the feed-forward block, or the attention's in `f32`, whichever is more.
    fn layer_backward(&self) -> usize {
        let mlp = self.bytes * (3 * self.hidden + 5 * self.ffn);
        let attention =
            4 * (2 * self.queries + 2 * self.keys) + self.bytes * (2 * self.queries + 2 * self.keys);
        self.tokens * mlp.max(attention)
    }

    /// A chunk of logits with its gradient (on a GPU one takes the other's place), hidden states and theirs; in full
    /// fine-tuning the head's gradient.
    fn head(&self, trained: bool, on_gpu: bool) -> usize {
        let logits = match on_gpu {
            true => {
                let row = self.vocab.max(1) * self.bytes;
                (LOGITS_CHUNK / row).max(128).min(self.tokens) * row
            }
            false => {
                let rows = ((1 << 24) / self.vocab.max(1)).max(32).min(self.tokens.max(32));
                rows * self.vocab * (4 + self.bytes)
            }
        };
        let head = if trained { 12 * self.vocab * self.hidden } else { 0 };
        logits + 3 * self.tokens * self.bytes * self.hidden + head
    }
}

/// The bytes this process may still take of a device's memory. Of the CPU's: what the machine has free, what its control
/// groups leave it, what its address space may grow by, whichever is least. None where the system does not say (anywhere
/// but Linux).
pub fn available(device: &Device) -> Option<u64> {
    if !device.is_cpu() {
        return device::available(device);
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let free = field(&read("/proc/meminfo"), "MemAvailable:").map(|kib| kib * 1024);
    let limit = field(&read("/proc/self/limits"), "Max address space");
    let held = field(&read("/proc/self/status"), "VmSize:").map(|kib| kib * 1024);
    let address_space = limit.zip(held).map(|(limit, held)| limit.saturating_sub(held));
    [free, address_space, control_group(&read("/proc/self/cgroup"))].into_iter().flatten().min()
}

/// The first number after `name` in a listing of /proc.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// What the control groups of this process leave it; page cache that can be dropped counts as free.
fn control_group(own: &str) -> Option<u64> {
    let number = |dir: &Path, name: &str| -> Option<u64> {
        std::fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
    };
    let left = |dir: &Path, limit: &str, used: &str, cache: &str| {
        let stat = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
        let used = number(dir, used)?.saturating_sub(field(&stat, cache).unwrap_or(0));
        Some(number(dir, limit)?.saturating_sub(used))
    };
    // Version 2 has one group with a path, whose ancestors limit it too; version 1 one for memory.
    let path = |of: &str| own.lines().find_map(|line| line.split_once(of)).map(|(_, path)| path);
    let v2 = Path::new("/sys/fs/cgroup").join(path("0::").unwrap_or("/").trim_start_matches('/'));
    let v2 = v2.ancestors().take_while(|dir| dir.starts_with("/sys/fs/cgroup"));
    let v1 = Path::new("/sys/fs/cgroup/memory").join(path(":memory:").unwrap_or("/").trim_start_matches('/'));
    let v1 = v1.ancestors().take_while(|dir| dir.starts_with("/sys/fs/cgroup/memory"));
    let of_v2 = v2.filter_map(|dir| left(dir, "memory.max", "memory.current", "inactive_file"));
    let of_v1 = v1
        .filter_map(|dir| left(dir, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"));
    of_v2.chain(of_v1).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_holds_its_own_chunk_of_logits() {
        let serde_json::Value::Object(config) = serde_json::json!({
            "model_type": "llama", "vocab_size": 150_000, "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "rms_norm_eps": 1e-6,
        }) else {
            unreachable!()
        };
        let config = Config::from_json("config", config).unwrap();
        let head = |tokens: usize, on_gpu: bool| {
            let shape = Shape::new(&config, DType::BF16, tokens);
            shape.head(false, on_gpu) - 3 * tokens * 2 * 8
        };
        assert!((LOGITS_CHUNK * 9 / 10..=LOGITS_CHUNK).contains(&head(4096, true)));
        assert_eq!((head(10, true), head(4096, false)), (10 * 150_000 * 2, 111 * 150_000 * 6));
    }
}
