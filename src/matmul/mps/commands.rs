//! A command buffer of ours: what it encodes, and the host's waits before and after it.

use super::kernels::{Kernel, Key, Queue, with_kernel};
use candle_core::{MetalDevice, Result, bail};
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLCommandBuffer, MTLCommandBufferStatus, MTLCommandQueue};
use objc2_metal_performance_shaders::{MPSMatrix, MPSVector};

/// One kernel on its matrices.
pub(super) struct Step {
    pub key: Key,
    pub on: On,
}

/// The last of each is the result.
pub(super) enum On {
    Matrices([Retained<MPSMatrix>; 3]),
    Vector(Retained<MPSMatrix>, [Retained<MPSVector>; 2]),
    Rows([Retained<MPSMatrix>; 2]),
}

impl Step {
    fn encode(&self, kernel: &Kernel, commands: &ProtocolObject<dyn MTLCommandBuffer>) {
        // SAFETY: the kernel is the key's, whose sizes the matrices have, and the command buffer is not committed.
        unsafe {
            match (kernel, &self.on) {
                (Kernel::Product(kernel), On::Matrices([a, b, c])) => {
                    kernel.encodeToCommandBuffer_leftMatrix_rightMatrix_resultMatrix(commands, a, b, c);
                }
                (Kernel::Vector(kernel), On::Vector(matrix, [x, y])) => {
                    kernel.encodeToCommandBuffer_inputMatrix_inputVector_resultVector(commands, matrix, x, y);
                }
                (Kernel::SoftMax(kernel), On::Rows([x, y])) => {
                    kernel.encodeToCommandBuffer_inputMatrix_resultMatrix(commands, x, y);
                }
                _ => unreachable!("a step's matrices are its kernel's"),
            }
        }
    }
}

/// A command buffer.
pub(super) struct Commands(pub Retained<ProtocolObject<dyn MTLCommandBuffer>>);

impl Commands {
    pub fn new(queue: &Queue) -> Result<Self> {
        match queue.commandBuffer() {
            Some(commands) => Ok(Commands(commands)),
            None => bail!("mps: Metal makes no command buffer"),
        }
    }

    /// With the kernel object that is kept.
    pub fn encode(&self, device: &MetalDevice, step: &Step) -> Result<()> {
        with_kernel(device, &step.key, |kernel| step.encode(kernel, &self.0))
    }

    /// With a kernel object of the caller.
    pub fn encode_with(&self, kernel: &Kernel, step: &Step) {
        step.encode(kernel, &self.0);
    }

    /// Commits it once candle's work is complete.
    pub fn commit_after(&self, device: &MetalDevice) -> Result<()> {
        if !left_out(Wait::Before) {
            device.flush_and_wait_current()?;
        }
        self.commit();
        Ok(())
    }

    /// Commits it, with nothing of candle's under way that it depends on.
    pub fn commit(&self) {
        self.0.commit();
    }

    /// Waits until it has completed; `what` names what it computes.
    pub fn wait(&self, what: impl FnOnce() -> String) -> Result<()> {
        if left_out(Wait::After) {
            return Ok(());
        }
        self.0.waitUntilCompleted();
        if self.0.status() == MTLCommandBufferStatus::Completed {
            return Ok(());
        }
        let error = self.0.error().map(|e| e.localizedDescription().to_string());
        bail!("mps: {} failed on the GPU: {}", what(), error.unwrap_or_else(|| "without an error".into()))
    }

    /// Whether it has completed or failed, without a wait.
    pub fn is_done(&self) -> bool {
        matches!(self.0.status(), MTLCommandBufferStatus::Completed | MTLCommandBufferStatus::Error)
    }

    /// Microseconds on the GPU, once it has completed.
    pub fn gpu_us(&self) -> f64 {
        (self.0.GPUEndTime() - self.0.GPUStartTime()) * 1e6
    }
}

/// The waits of a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// For candle's work.
    Before,
    /// For ours.
    After,
}

/// The wait that a test leaves out, to see that the checker of its device finds it.
#[cfg(test)]
pub(super) static LEFT_OUT: std::sync::Mutex<Option<Wait>> = std::sync::Mutex::new(None);

fn left_out(wait: Wait) -> bool {
    #[cfg(test)]
    return *LEFT_OUT.lock().unwrap_or_else(|e| e.into_inner()) == Some(wait);
    #[cfg(not(test))]
    {
        let _ = wait;
        false
    }
}
