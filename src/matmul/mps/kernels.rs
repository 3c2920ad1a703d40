//! What is made once and kept: a command queue for each device, and MPS's kernel objects.

use candle_core::{DType, MetalDevice, Result, bail};
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2::{AnyThread, ClassType, msg_send};
use objc2_metal::{MTLCommandQueue, MTLDevice};
use objc2_metal_performance_shaders::{
    MPSMatrixMultiplication, MPSMatrixSoftMax, MPSMatrixVectorMultiplication, MPSSupportsMTLDevice,
};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{LazyLock, Mutex, MutexGuard};

pub(super) type Queue = Retained<ProtocolObject<dyn MTLCommandQueue>>;

/// The most kernel objects that are kept, of all devices together.
pub(super) const KEPT: usize = 256;

/// The queue of each device, by its registry id.
static QUEUES: LazyLock<Mutex<HashMap<u64, Queue>>> = LazyLock::new(Default::default);

static KERNELS: LazyLock<Mutex<Kernels>> = LazyLock::new(Default::default);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

pub(super) fn raw(device: &MetalDevice) -> &ProtocolObject<dyn MTLDevice> {
    device.metal_device().as_ref()
}

/// A queue that is not kept.
pub(super) fn new_queue(device: &MetalDevice) -> Result<Queue> {
    // SAFETY: a device of Metal.
    if !unsafe { MPSSupportsMTLDevice(Some(raw(device))) } {
        bail!("mps: wants a GPU that Metal Performance Shaders support, got {}", raw(device).name())
    }
    match raw(device).newCommandQueue() {
        Some(queue) => Ok(queue),
        None => bail!("mps: Metal makes no command queue"),
    }
}

/// The device's queue.
pub(super) fn queue(device: &MetalDevice) -> Result<Queue> {
    let id = device.metal_device().registry_id();
    let mut queues = lock(&QUEUES);
    if let Some(queue) = queues.get(&id) {
        return Ok(queue.clone());
    }
    let queue = new_queue(device)?;
    queues.insert(id, queue.clone());
    Ok(queue)
}

/// The bits of an alpha of 1 and a beta of 0.
pub(super) const PLAIN: [u32; 2] = [1f32.to_bits(), 0];

/// What a kernel object is made for. `dtype` is that of the matrices, which `init` is not told: an object may hold what Apple's code
/// has prepared for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// `(m, n, k)`, whether A and B are stored transposed, and the bits of alpha and beta.
    Product {
        dtype: DType,
        sizes: [usize; 3],
        transposed: [bool; 2],
        factors: [u32; 2],
    },
    /// `(m, k)`, whether the matrix is stored transposed, and the bits of alpha and beta.
    Vector {
        dtype: DType,
        sizes: [usize; 2],
        transposed: bool,
        factors: [u32; 2],
    },
    SoftMax {
        dtype: DType,
    },
}

pub(super) enum Kernel {
    Product(Retained<MPSMatrixMultiplication>),
    Vector(Retained<MPSMatrixVectorMultiplication>),
    SoftMax(Retained<MPSMatrixSoftMax>),
}

// SAFETY: MPS allows its kernels on any thread, one at a time: who has the cache's lock.
unsafe impl Send for Kernel {}

/// What `init` gives, which is nil where MPS cannot make it: objc2's own functions of these names panic then.
pub(super) fn made<T: ClassType>(object: Option<Retained<T>>) -> Result<Retained<T>> {
    match object {
        Some(object) => Ok(object),
        None => bail!("mps: Metal Performance Shaders make no {}", T::NAME),
    }
}

impl Kernel {
    pub fn new(device: &MetalDevice, key: &Key) -> Result<Self> {
        let device = raw(device);
        // SAFETY: a device that MPS supports, which `queue` has verified, and sizes of at least 1.
        unsafe {
            match *key {
                Key::Product { sizes: [m, n, k], transposed: [a, b], factors, .. } => {
                    let [alpha, beta] = factors.map(|bits| f64::from(f32::from_bits(bits)));
                    made(msg_send![
                        MPSMatrixMultiplication::alloc(), initWithDevice: device, transposeLeft: a,
                        transposeRight: b, resultRows: m, resultColumns: n, interiorColumns: k,
                        alpha: alpha, beta: beta,
                    ])
                    .map(Kernel::Product)
                }
                Key::Vector { sizes: [m, k], transposed, factors, .. } => {
                    let [alpha, beta] = factors.map(|bits| f64::from(f32::from_bits(bits)));
                    made(msg_send![
                        MPSMatrixVectorMultiplication::alloc(), initWithDevice: device,
                        transpose: transposed, rows: m, columns: k, alpha: alpha, beta: beta,
                    ])
                    .map(Kernel::Vector)
                }
                Key::SoftMax { .. } => {
                    made(msg_send![MPSMatrixSoftMax::alloc(), initWithDevice: device]).map(Kernel::SoftMax)
                }
            }
        }
    }
}

/// Kernel objects by what they are made for; the one that was used longest ago makes room.
#[derive(Default)]
pub(super) struct Kernels {
    kept: HashMap<(u64, Key), (Kernel, u64)>,
    uses: u64,
    made: u64,
}

impl Kernels {
    fn get(&mut self, device: &MetalDevice, key: &Key) -> Result<&Kernel> {
        let id = (device.metal_device().registry_id(), *key);
        self.uses += 1;
        if self.kept.len() == KEPT && !self.kept.contains_key(&id) {
            let oldest = self.kept.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id);
            oldest.map(|oldest| self.kept.remove(&oldest));
        }
        let (kernel, used) = match self.kept.entry(id) {
            Entry::Occupied(kept) => kept.into_mut(),
            Entry::Vacant(vacant) => {
                self.made += 1;
                vacant.insert((Kernel::new(device, key)?, 0))
            }
        };
        *used = self.uses;
        Ok(kernel)
    }
}

/// Calls `f` with the kernel object for `key`, which no other thread uses meanwhile.
pub(super) fn with_kernel<R>(device: &MetalDevice, key: &Key, f: impl FnOnce(&Kernel) -> R) -> Result<R> {
    Ok(f(lock(&KERNELS).get(device, key)?))
}

/// How many kernel objects are kept, and how many were made in all.
#[cfg(test)]
pub(super) fn counts() -> (usize, u64) {
    let kernels = lock(&KERNELS);
    (kernels.kept.len(), kernels.made)
}
