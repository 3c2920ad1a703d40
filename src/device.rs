//! Devices: the CPU, an NVIDIA GPU, an Apple GPU.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{Device, Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A device by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Choice {
    /// A GPU if this build and machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
    /// The Apple GPU.
    Metal,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match (name, name.strip_prefix("cuda:")) {
            ("auto", _) => Ok(Choice::Auto),
            ("cpu", _) => Ok(Choice::Cpu),
            ("cuda", _) => Ok(Choice::Cuda(0)),
            ("metal", _) => Ok(Choice::Metal),
            (_, Some(index)) => match index.parse() {
                Ok(index) => Ok(Choice::Cuda(index)),
                Err(_) => Err(format!("device: wants a number after `cuda:`, got {name:?}")),
            },
            _ => Err(format!("device: wants auto, cpu, cuda, cuda:N or metal, got {name:?}")),
        }
    }
}

impl TryFrom<String> for Choice {
    type Error = String;

    fn try_from(name: String) -> std::result::Result<Self, String> {
        name.parse()
    }
}

impl From<Choice> for String {
    fn from(choice: Choice) -> String {
        choice.to_string()
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Auto => f.write_str("auto"),
            Choice::Cpu => f.write_str("cpu"),
            Choice::Cuda(index) => write!(f, "cuda:{index}"),
            Choice::Metal => f.write_str("metal"),
        }
    }
}

impl Choice {
    /// The device.
    ///
    /// # Errors
    ///
    /// When this build lacks the device's feature, or the machine lacks the device; never for `Auto`.
    pub fn open(self) -> Result<Device> {
        match self {
            Choice::Cpu => Ok(Device::Cpu),
            Choice::Cuda(index) => cuda(index),
            Choice::Metal => metal(0),
            Choice::Auto if cfg!(feature = "cuda") => Ok(cuda(0).unwrap_or(Device::Cpu)),
            Choice::Auto if cfg!(feature = "metal") => Ok(metal(0).unwrap_or(Device::Cpu)),
            Choice::Auto => Ok(Device::Cpu),
        }
    }
}

/// A device by its name: `cpu`, `cuda`, `cuda:1`, `metal`, or `auto` for a GPU if this build and machine have one.
///
/// # Errors
///
/// When the name is none of these, and as [`Choice::open`].
pub fn named(name: &str) -> Result<Device> {
    match name.parse::<Choice>() {
        Ok(choice) => choice.open(),
        Err(wrong) => Err(Error::Msg(wrong)),
    }
}

/// The NVIDIA GPU number `index`, made ready for training.
///
/// Beside what `Device::new_cuda` does:
///
/// - All work goes through one stream. Candle's default is a stream for each CPU thread, which makes it record two
///   events for every tensor; with one stream, work is in order by itself, and the events are turned off.
/// - Freed memory stays in the process's pool. By default the driver takes it back at every synchronisation, and maps
///   it again at the next use.
///
/// The device of a number is opened once; later calls give it again.
///
/// # Errors
///
/// When there is no driver or no such GPU, when either is too old (CUDA 13.0, compute capability 8.0), when NVRTC, cuBLAS
/// or cuRAND of CUDA 13 is missing, or when this build has no `cuda` feature.
pub fn cuda(index: usize) -> Result<Device> {
    #[cfg(feature = "cuda")]
    return cuda::open(index);
    #[cfg(not(feature = "cuda"))]
    Err(Error::Msg(format!("cuda:{index}: wants a build with `--features cuda`, got one without")))
}

/// Why the first NVIDIA GPU cannot be computed on; none if it can, or if there is no driver or no GPU.
#[cfg(feature = "cli")]
pub(crate) fn cuda_is_unfit() -> Option<Error> {
    #[cfg(feature = "cuda")]
    return cuda(0).err().filter(|why| !cuda::is_absence(why));
    #[cfg(not(feature = "cuda"))]
    None
}

/// The Apple GPU number `index`.
///
/// # Errors
///
/// When there is none, or this build has no `metal` feature.
pub fn metal(index: usize) -> Result<Device> {
    match cfg!(feature = "metal") {
        true => Device::new_metal(index),
        false => {
            Err(Error::Msg("metal: wants a build with `--features metal` on a Mac, got one without".into()))
        }
    }
}

/// What is known of an NVIDIA GPU.
#[derive(Clone, Debug, Serialize)]
pub struct CudaGpu {
    /// Its number.
    pub index: usize,
    /// What its maker calls it.
    pub name: String,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// The version of what it can do: 9.0 is Hopper.
    pub compute_capability: (i32, i32),
    /// The newest CUDA that its driver knows.
    pub driver: (i32, i32),
}

/// The NVIDIA GPUs of this machine.
///
/// # Errors
///
/// When there is no driver, or this build has no `cuda` feature.
pub fn cuda_gpus() -> Result<Vec<CudaGpu>> {
    #[cfg(feature = "cuda")]
    return cuda::gpus();
    #[cfg(not(feature = "cuda"))]
    Err(Error::Msg("cuda: wants a build with `--features cuda`, got one without".into()))
}

/// What a device is called: `CPU`, or the name of a GPU with its number.
pub fn name(device: &Device) -> String {
    #[cfg(feature = "metal")]
    use objc2_metal::MTLDevice as _;
    match device {
        Device::Cpu => "CPU".to_string(),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::name(device),
        #[cfg(feature = "metal")]
        Device::Metal(device) => device.metal_device().as_ref().name().to_string(),
        #[allow(unreachable_patterns, reason = "a build without a GPU has no other")]
        _ => "GPU".to_string(),
    }
}

/// The bytes of a GPU's own memory that can still be taken; none on the CPU and where the system does not say.
pub fn available(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::available(device),
        _ => None,
    }
}

/// Gives memory that is kept for later, and not used, back to a CUDA GPU.
#[cfg(feature = "cuda")]
pub(crate) fn release_kept(device: &Device) -> Result<()> {
    match device {
        Device::Cuda(device) => cuda::release_kept(device),
        _ => Ok(()),
    }
}

/// The most bytes of a GPU's own memory that this process has held; none on the CPU.
pub fn peak(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::peak(device),
        _ => None,
    }
}

/// Starts a new peak of a GPU's memory at what is held now. False on the CPU.
#[cfg(feature = "cli")]
pub(crate) fn reset_peak(device: &Device) -> bool {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::reset_peak(device),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(named("cpu").unwrap().is_cpu());
        assert!(named("auto").is_ok());
        for (name, wants) in [
            ("gpu", "wants auto, cpu"),
            ("cuda:x", "a number"),
            ("cuda:", "a number"),
            ("metal:1", "wants auto"),
            ("", "wants auto, cpu"),
        ] {
            assert!(super::named(name).unwrap_err().to_string().contains(wants), "{name}");
        }
        for name in ["auto", "cpu", "cuda:1", "metal"] {
            assert_eq!(name.parse::<Choice>().unwrap().to_string(), name);
        }
        #[cfg(not(feature = "cuda"))]
        assert!(named("cuda").unwrap_err().to_string().contains("--features cuda"));
    }
    /// On `METAL_CANDLE_TEST_DEVICE`; two devices of one GPU would not wait for each other.
    #[test]
    fn a_gpu_is_opened_once() {
        let name = std::env::var("METAL_CANDLE_TEST_DEVICE").unwrap_or("cpu".into());
        assert!(named(&name).unwrap().same_device(&named(&name).unwrap()) || name == "metal");
    }
}
