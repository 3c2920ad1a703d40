//! Products in one command buffer, and their results when it has run.

use super::commands::Commands;
use super::kernels::queue;
use super::prepared::Prepared;
use super::{as_view, metal, same_matrices};
use crate::kernels::Held;
use crate::matmul::{Product, View};
use candle_core::backend::BackendDevice;
use candle_core::{Device, MetalDevice, Result, Tensor, bail};
use objc2::rc::autoreleasepool;

/// Products that are computed by one command buffer, with one wait for candle's work before all of them and none between.
///
/// They do not depend on each other: a result exists once [`Pending::wait`] has given it.
///
/// ```no_run
/// use candle_core::{DType, Device, Tensor};
/// use metal_candle::matmul::mps::Batch;
///
/// # fn main() -> candle_core::Result<()> {
/// let device = Device::new_metal(0)?;
/// let (a, b) = (Tensor::ones((8, 64, 32), DType::F32, &device)?, Tensor::ones((8, 32, 16), DType::F32, &device)?);
/// let mut batch = Batch::new(&device)?;
/// let first = batch.add(1.0, &a, &b, None)?;
/// batch.add(0.5, &a, &b, None)?;
/// let pending = batch.commit()?;
/// // The CPU is free here.
/// let results = pending.wait()?;
/// assert_eq!(results[first.index()].dims(), [8, 64, 16]);
/// # Ok(())
/// # }
/// ```
pub struct Batch {
    device: MetalDevice,
    work: Vec<Prepared>,
}

/// Which of a batch's results a product's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(usize);

impl Handle {
    /// The index in what [`Pending::wait`] gives.
    pub fn index(self) -> usize {
        self.0
    }
}

impl Batch {
    /// An empty batch.
    ///
    /// # Errors
    ///
    /// When the device is not a Metal device.
    pub fn new(device: &Device) -> Result<Self> {
        match device {
            Device::Metal(device) => Ok(Batch { device: device.clone(), work: Vec::new() }),
            device => bail!("mps batch: wants a Metal device, got {:?}", device.location()),
        }
    }

    /// Adds `alpha a b + beta c`: `a` is `(.., m, k)`, `b` `(.., k, n)` with the same first dimensions (an expanded tensor
    /// is not copied), `c` `(.., m, n)`; all f32, f16 or bf16. `c` is read, not changed: the result is a new tensor.
    ///
    /// The tensors must not be changed in place (`Var::set`, an optimizer's step) before the batch is done. They may be
    /// dropped.
    ///
    /// # Errors
    ///
    /// When shapes, dtypes or devices do not fit, or a tensor is tracked for gradients: the result has none.
    pub fn add(&mut self, alpha: f32, a: &Tensor, b: &Tensor, c: Option<(f32, &Tensor)>) -> Result<Handle> {
        let mut tensors = vec![a, b];
        tensors.extend(c.map(|(_, c)| c));
        let device = metal("mps batch", &tensors)?;
        if !self.device.same_device(&device) {
            bail!("mps batch: wants tensors on the batch's device, got another")
        }
        let shape = same_matrices("mps batch", a, b)?;
        if let Some((_, c)) = c
            && c.dims() != shape
        {
            bail!("mps batch: wants c of shape {shape:?}, got {:?}", c.dims())
        }
        let prepared = autoreleasepool(|_| {
            let (a, b) = (as_view(a)?, as_view(b)?);
            let c = c.map(|(beta, c)| Result::Ok((beta, c.contiguous()?))).transpose()?;
            let (a, b) = (Held::new(&a), Held::new(&b));
            let held = c.as_ref().map(|(beta, c)| (*beta, Held::new(c)));
            let (Some(a), Some(b)) = (View::of(a.input("mps batch")), View::of(b.input("mps batch"))) else {
                bail!("mps batch: wants matrices in rows or columns")
            };
            let c = held.as_ref().map(|(beta, c)| (*beta, c.input("mps batch")));
            Prepared::product(&self.device, &Product::new(alpha, a, b, c)?, true)
        })?;
        self.work.push(prepared.shaped(shape));
        Ok(Handle(self.work.len() - 1))
    }

    /// Encodes the products into a command buffer, waits once for what candle has encoded, and commits. It does not wait
    /// for the products.
    ///
    /// # Errors
    ///
    /// When Metal makes no command buffer, or candle's work has failed.
    pub fn commit(self) -> Result<Pending> {
        let commands = autoreleasepool(|_| -> Result<Option<Commands>> {
            if self.work.iter().all(|work| work.steps.is_empty()) {
                return Ok(None);
            }
            let commands = Commands::new(&queue(&self.device)?)?;
            let mut steps = self.work.iter().flat_map(|work| &work.steps);
            steps.try_for_each(|step| commands.encode(&self.device, step))?;
            commands.commit_after(&self.device)?;
            Ok(Some(commands))
        })?;
        Ok(Pending { commands, work: self.work })
    }
}

/// A batch that was committed. It keeps the memory of the inputs and of the results from being used by others.
///
/// It has no completion handler and no shared event: [`Self::is_done`] reads the command buffer's status. Dropped, it waits
/// until the GPU is done; a handler could release the memory without that wait, but on a thread of Metal's, whenever that is.
#[must_use = "the results are `wait`'s"]
pub struct Pending {
    /// None when there was nothing to compute.
    commands: Option<Commands>,
    work: Vec<Prepared>,
}

impl Pending {
    /// Whether [`Self::wait`] would not wait: the products are done, or failed.
    pub fn is_done(&self) -> bool {
        self.commands.as_ref().is_none_or(|commands| autoreleasepool(|_| commands.is_done()))
    }

    /// Waits for the products, and gives their results in the order in which they were added.
    ///
    /// # Errors
    ///
    /// When the GPU has failed.
    pub fn wait(mut self) -> Result<Vec<Tensor>> {
        let work = std::mem::take(&mut self.work);
        autoreleasepool(|_| {
            if let Some(commands) = self.commands.take() {
                commands.wait(|| match work.iter().find(|work| !work.steps.is_empty()) {
                    Some(first) if work.len() > 1 => format!("a batch of {}, first {first},", work.len()),
                    Some(first) => first.to_string(),
                    None => "a batch".into(),
                })?;
            }
            work.into_iter().map(|work| Ok(work.finish()?.tensor())).collect()
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.take() {
            // Nobody asks for the results; that they failed is of no consequence.
            let _ = autoreleasepool(|_| commands.wait(|| "a batch".into()));
        }
    }
}
