//! Where a product is computed, and what its measurements hold for.

use crate::kernels::gpu::Gpu;
use candle_core::{Device, Result};
use serde::{Deserialize, Serialize};

/// A device, as far as products are concerned.
#[derive(Clone, Copy)]
pub(crate) enum Site<'a> {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(&'a candle_core::CudaDevice),
    #[cfg(feature = "metal")]
    Metal(&'a candle_core::MetalDevice),
    #[allow(dead_code, reason = "keeps the lifetime in a build without a GPU")]
    None(std::convert::Infallible, std::marker::PhantomData<&'a ()>),
}

/// A site in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(dead_code, reason = "a build without a GPU has the first only")]
pub(crate) enum SiteId {
    Cpu,
    Cuda(usize),
    Metal(u64),
}

/// What measurements hold for: another device, system or version has others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// `cpu`, `cuda` or `metal`.
    pub kind: String,
    /// The processor, and of a CPU the threads that compute.
    pub device: String,
    /// The operating system and its version; of a GPU its driver's too, where it has one of its own.
    pub system: String,
    /// This crate's version and candle's.
    pub versions: String,
}

impl<'a> Site<'a> {
    pub fn of(gpu: Gpu<'a>) -> Self {
        match gpu {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(device) => Site::Cuda(device),
            #[cfg(feature = "metal")]
            Gpu::Metal(device) => Site::Metal(device),
            #[cfg(feature = "host")]
            Gpu::Host => Site::Cpu,
            Gpu::None(never, _) => match never {},
        }
    }

    /// What runs kernels here.
    pub fn gpu(self) -> Option<Gpu<'a>> {
        match self {
            #[cfg(feature = "host")]
            Site::Cpu => crate::kernels::host::on().then_some(Gpu::Host),
            #[cfg(not(feature = "host"))]
            Site::Cpu => None,
            #[cfg(feature = "cuda")]
            Site::Cuda(device) => Some(Gpu::Cuda(device)),
            #[cfg(feature = "metal")]
            Site::Metal(device) => Some(Gpu::Metal(device)),
            Site::None(never, _) => match never {},
        }
    }

    pub fn on(device: &'a Device) -> Result<Self> {
        match device {
            Device::Cpu => Ok(Site::Cpu),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => Ok(Site::Cuda(device)),
            #[cfg(feature = "metal")]
            Device::Metal(device) => Ok(Site::Metal(device)),
            #[cfg(not(all(feature = "cuda", feature = "metal")))]
            _ => candle_core::bail!("matmul: wants a device of this build, got {:?}", device.location()),
        }
    }

    pub fn id(self) -> SiteId {
        match self {
            Site::Cpu => SiteId::Cpu,
            #[cfg(feature = "cuda")]
            Site::Cuda(device) => SiteId::Cuda(device.cuda_stream().context().ordinal()),
            #[cfg(feature = "metal")]
            Site::Metal(device) => SiteId::Metal(device.metal_device().registry_id()),
            Site::None(never, _) => match never {},
        }
    }

    pub fn key(self) -> Key {
        let (kind, device) = match self {
            Site::Cpu => ("cpu", format!("{}, {} threads", cpu(), rayon::current_num_threads())),
            #[cfg(feature = "cuda")]
            Site::Cuda(device) => ("cuda", crate::kernels::cuda::described(device)),
            #[cfg(feature = "metal")]
            Site::Metal(device) => {
                let name = crate::device::name(&Device::Metal(device.clone()));
                ("metal", format!("{name}, {}", device.metal_device().architecture_name()))
            }
            Site::None(never, _) => match never {},
        };
        let build = if cfg!(debug_assertions) { ", debug build" } else { "" };
        let versions = format!("metal-candle {}, candle 0.11.1{build}", env!("CARGO_PKG_VERSION"));
        Key { kind: kind.into(), device, system: system(), versions }
    }
}

/// What the maker calls the processor.
fn cpu() -> String {
    #[cfg(target_os = "macos")]
    let name = sysctl(c"machdep.cpu.brand_string");
    #[cfg(not(target_os = "macos"))]
    let name = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let of = |field: &str| {
            let line = text.lines().find(|line| line.starts_with(field))?;
            Some(line.split_once(':')?.1.trim().to_string())
        };
        // Arm's CPUs have numbers instead of a name.
        of("model name").or_else(|| Some(format!("{} {}", of("CPU implementer")?, of("CPU part")?)))
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.into())
}

fn system() -> String {
    #[cfg(target_os = "macos")]
    let version = sysctl(c"kern.osproductversion");
    #[cfg(not(target_os = "macos"))]
    let version = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    format!("{} {}", std::env::consts::OS, version.as_deref().unwrap_or("").trim())
}

#[cfg(target_os = "macos")]
fn sysctl(name: &std::ffi::CStr) -> Option<String> {
    let mut value = [0u8; 128];
    let mut size = value.len();
    // SAFETY: the name ends with a zero, and `value` has the size it is said to have.
    let got = unsafe {
        libc::sysctlbyname(name.as_ptr(), value.as_mut_ptr().cast(), &mut size, std::ptr::null_mut(), 0)
    };
    let text = value.get(..size)?.split(|b| *b == 0).next()?;
    (got == 0).then(|| String::from_utf8_lossy(text).into_owned())
}
