//! The tape: what the trainer records instead of Candle's graph.
//!
//! While [`Tape::record`] runs on a thread, ops on tensors that a leaf or a variable reaches are written down as
//! they happen, and Candle sees no graph. Backward takes the nodes from the end: the first gradient of a tensor is
//! moved in, where Candle's autograd adds it to zeros, and activations are freed as their node is done. A plain
//! Candle op on a recorded tensor would be a gap, so layers use the ops of this crate only; without a tape, those
//! ops are ordinary Candle ops with gradients.

use super::{Fused, FusedOp};
use candle_core::{Result, Tensor, TensorId};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

thread_local! {
    static TAPE: RefCell<Option<Tape>> = const { RefCell::new(None) };
}

type Backward = Box<dyn FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>>>;

struct Node {
    output: TensorId,
    inputs: Vec<TensorId>,
    backward: Backward,
}

/// What happened to the tensors that have gradients: this crate's ops, written down while [`Tape::record`] runs.
///
/// Only the ops of this crate are written down: a plain Candle op on a recorded tensor ends its gradients. Backward
/// moves gradients where Candle's adds them to zeros, and frees activations as it passes.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use metal_candle::ops::{Tape, rms_norm};
///
/// # fn main() -> candle_core::Result<()> {
/// let x = Tensor::new(&[[1f32, 2.], [3., 4.]], &Device::Cpu)?;
/// let w = Tensor::new(&[1f32, 0.5], &Device::Cpu)?;
/// let (y, tape) = Tape::record(&[&x, &w], || rms_norm(&x, &w, 1e-6))?;
/// let gradients = tape.backward(&y, y.ones_like()?)?;
/// assert_eq!(gradients.get(&x).map(|dx| dx.dims()), Some(x.dims()));
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Tape {
    nodes: Vec<Node>,
    tracked: HashSet<TensorId>,
}

/// Gradients by tensor.
#[derive(Debug, Default)]
pub struct Gradients(HashMap<TensorId, Tensor>);

impl Gradients {
    /// The gradient of a tensor.
    pub fn get(&self, tensor: &Tensor) -> Option<&Tensor> {
        self.0.get(&tensor.id())
    }

    /// Takes the gradient of a tensor out.
    pub(crate) fn remove(&mut self, tensor: &Tensor) -> Option<Tensor> {
        self.0.remove(&tensor.id())
    }

    /// Adds to the gradient of a tensor.
    ///
    /// # Errors
    ///
    /// When there is one already, of another shape.
    pub fn add(&mut self, tensor: &Tensor, g: Tensor) -> Result<()> {
        self.add_id(tensor.id(), g)
    }

    fn add_id(&mut self, id: TensorId, g: Tensor) -> Result<()> {
        let sum = match self.0.remove(&id) {
            Some(old) => super::add::sum(&old, &g)?,
            None => g,
        };
        self.0.insert(id, sum);
        Ok(())
    }
}

/// Puts the tape that was there before back, also when the recorded code fails.
struct Restore(Option<Option<Tape>>);

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(before) = self.0.take() {
            TAPE.set(before);
        }
    }
}

impl Tape {
    /// Runs `f` on this thread and records what becomes of `leaves` and of variables.
    ///
    /// # Errors
    ///
    /// What `f` returns.
    pub fn record<R>(leaves: &[&Tensor], f: impl FnOnce() -> Result<R>) -> Result<(R, Tape)> {
        let tape = Tape { nodes: Vec::new(), tracked: leaves.iter().map(|t| t.id()).collect() };
        let restore = Restore(Some(TAPE.replace(Some(tape))));
        let result = f()?;
        let tape = TAPE.take().unwrap_or_default();
        drop(restore);
        Ok((result, tape))
    }

    /// Whether a gradient flows through `tensor`.
    pub fn tracks(&self, tensor: &Tensor) -> bool {
        tensor.is_variable() || self.tracked.contains(&tensor.id())
    }

    /// The gradients of leaves and variables, when that of `y` is `g`.
    ///
    /// # Errors
    ///
    /// When an op fails, or one has no gradient.
    pub fn backward(self, y: &Tensor, g: Tensor) -> Result<Gradients> {
        let mut gradients = Gradients::default();
        gradients.add(y, g)?;
        for node in self.nodes.into_iter().rev() {
            let Some(g) = gradients.0.remove(&node.output) else { continue };
            for (input, part) in node.inputs.iter().zip((node.backward)(&g)?) {
                if let Some(part) = part {
                    gradients.add_id(*input, part)?;
                }
            }
        }
        Ok(gradients)
    }
}

/// Whether `tensor` has a gradient: on the tape if there is one, in Candle's graph otherwise.
pub(crate) fn tracked(tensor: &Tensor) -> bool {
    TAPE.with_borrow(|tape| match tape {
        Some(tape) => tape.tracks(tensor),
        None => tensor.track_op(),
    })
}

/// Whether a tape is being recorded on this thread.
pub(crate) fn recording() -> bool {
    TAPE.with_borrow(|tape| tape.is_some())
}

/// An op in plain Candle, `f`, whose gradient on a tape is `backward`; without a tape Candle follows it.
pub(crate) fn follow(
    inputs: &[&Tensor],
    f: impl FnOnce() -> Result<Tensor>,
    backward: impl FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + 'static,
) -> Result<Tensor> {
    let y = f()?;
    TAPE.with_borrow_mut(|tape| {
        let Some(tape) = tape else { return Ok(y) };
        if !inputs.iter().any(|t| tape.tracks(t)) {
            return Ok(y);
        }
        // Candle hands a tensor back as it is where there is nothing to do; a node's output needs its own name.
        let y = y.detach();
        tape.tracked.insert(y.id());
        let inputs = inputs.iter().map(|t| t.id()).collect();
        tape.nodes.push(Node { output: y.id(), inputs, backward: Box::new(backward) });
        Ok(y)
    })
}

/// Refuses to let a kernel of Candle's run on what is being captured, which it would not be part of.
pub(crate) fn plain(x: &Tensor) -> Result<()> {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(device) = x.device()
        && super::cuda::graph::captured(device).is_some()
    {
        candle_core::bail!("cuda graph: wants this crate's kernels, got one of Candle's")
    }
    let _ = x;
    Ok(())
}

/// `x` with its elements in order, by Candle.
pub(crate) fn in_order(x: &Tensor) -> Result<Tensor> {
    if !x.is_contiguous() {
        plain(x)?;
    }
    x.contiguous()
}

/// `x` with its elements in order.
pub(crate) fn contiguous(x: &Tensor) -> Result<Tensor> {
    match x.is_contiguous() {
        true => Ok(x.clone()),
        false => follow(&[x], || in_order(x), |g| Ok(vec![Some(g.clone())])),
    }
}

macro_rules! apply {
    ($apply:ident, $strided:ident, $n:literal, $with:ident, $no_bwd:ident, [$x:ident $(, $t:ident)*]) => {
        /// Applies an op to tensors whose elements it puts in order first.
        pub(crate) fn $apply<K: FusedOp<$n>>(op: K, $x: &Tensor $(, $t: &Tensor)*) -> Result<Tensor> {
            $strided(op, &contiguous($x)? $(, &contiguous($t)?)*)
        }

        /// Applies an op to tensors as they lie in memory.
        pub(crate) fn $strided<K: FusedOp<$n>>(op: K, $x: &Tensor $(, $t: &Tensor)*) -> Result<Tensor> {
            if !recording() {
                return $x.$with($($t,)* Fused(op));
            }
            let op = Arc::new(Fused(op));
            let y = $x.$no_bwd($($t,)* &*op)?;
            let inputs = [$x.clone() $(, $t.clone())*];
            let needs = [tracked($x) $(, tracked($t))*];
            let result = y.clone();
            follow(&[$x $(, $t)*], || Ok(y), move |g| {
                let g = in_order(g)?;
                Ok(op.0.grad(inputs.each_ref(), &result, &g, needs)?.into())
            })
        }
    };
}
apply!(apply1, apply1_strided, 1, apply_op1, apply_op1_no_bwd, [x]);
apply!(apply2, apply2_strided, 2, apply_op2, apply_op2_no_bwd, [x, t2]);
apply!(apply3, apply3_strided, 3, apply_op3, apply_op3_no_bwd, [x, t2, t3]);
