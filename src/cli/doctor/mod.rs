//! `metal-candle doctor`: what the machine, the build and the cache are, and what is slow and why.

mod findings;
mod measure;
mod model;
mod products;

use super::terminal::{self, Lines, wrapped};
use crate::device::{Choice, CudaGpu, cuda_gpus};
use crate::load::ModelDir;
use findings::Finding;
use measure::Speed;
use model::ModelFacts;
use products::{Example, Products};
use serde::Serialize;
use std::path::Path;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// The version that Cargo.toml pins.
const CANDLE: &str = "0.11.1";

/// See what this machine and this build can do, and what is slow and why
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  metal-candle doctor
  metal-candle doctor --model ./Qwen3-0.6B
  metal-candle doctor --json

Speeds are measured in about a second; other programs that compute at the same time make them lower.")]
pub struct Args {
    /// Also look at this model: what it needs, and how fast it can be here
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Measure nothing
    #[arg(long)]
    no_measure: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// All that is known.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    candle: &'static str,
    release: bool,
    target: String,
    features: Vec<&'static str>,
    devices: Vec<Device>,
    machine: Machine,
    speed: Option<Speed>,
    products: Vec<Products>,
    cache: Cache,
    model: Option<ModelFacts>,
    findings: Vec<Finding>,
}

/// A device, and whether this build computes on it.
#[derive(Serialize)]
struct Device {
    name: String,
    used: bool,
    /// What it is, or why it is not used.
    note: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<CudaGpu>,
}

/// The CPU and the memory.
#[derive(Clone, Debug, Default, Serialize)]
struct Machine {
    os: String,
    cpu: String,
    cores: usize,
    threads: usize,
    simd: &'static str,
    bf16: bool,
    /// Those this process may use: a container or a CPU set leaves it fewer.
    allowed_cores: usize,
    /// Processes that wanted to run in the last minute; none where the system does not say.
    load: Option<f64>,
    memory_bytes: u64,
    available_bytes: u64,
    swap_used_bytes: u64,
}

/// The Hugging Face cache.
#[derive(Serialize)]
struct Cache {
    path: Option<String>,
    models: usize,
    bytes: u64,
    /// Free bytes on its disk.
    free_bytes: Option<u64>,
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let machine = machine();
    // A model that cannot be read is an error before a second is spent on measuring.
    let device = Choice::Auto.open()?;
    let model = match &args.model {
        Some(given) => Some(ModelFacts::read(&ModelDir::resolve(given)?, &device)?),
        None => None,
    };
    let speed = (!args.no_measure).then(measure::speed).transpose()?;
    let model = model.map(|facts| match device.is_cpu() {
        true => facts.at(speed.as_ref(), Some(machine.available_bytes)),
        // What is measured is the CPU.
        false => facts.at(None, crate::device::available(&device)),
    });
    let cache = cache();
    let devices = devices(&machine);
    let idle = idle_gpu(&devices).filter(|_| devices.iter().filter(|device| device.used).count() == 1);
    let findings = findings::all(&machine, cache.free_bytes, idle);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        candle: CANDLE,
        release: !cfg!(debug_assertions),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        features: features(),
        devices,
        machine,
        speed,
        products: products(&device),
        cache,
        model,
        findings,
    };
    if args.json {
        return terminal::json(&report);
    }
    print(&report);
    Ok(())
}

/// What is seen of the machine.
fn machine() -> Machine {
    let system = System::new_with_specifics(
        RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::everything()),
    );
    let limits = system.cgroup_limits();
    let within = |all: u64, limit: Option<u64>| limit.map_or(all, |limit| all.min(limit));
    Machine {
        os: System::long_os_version().unwrap_or_else(|| std::env::consts::OS.to_string()),
        cpu: system.cpus().first().map_or("unknown CPU", |cpu| cpu.brand()).trim().to_string(),
        cores: system.cpus().len().max(1),
        allowed_cores: std::thread::available_parallelism().map_or(1, usize::from),
        threads: rayon::current_num_threads(),
        simd: crate::ops::simd_name(),
        bf16: crate::ops::fast_bf16(),
        load: cfg!(unix).then(|| System::load_average().one),
        memory_bytes: within(system.total_memory(), limits.as_ref().map(|limits| limits.total_memory)),
        available_bytes: within(system.available_memory(), limits.map(|limits| limits.free_memory)),
        swap_used_bytes: system.used_swap(),
    }
}

/// Of the CPU, and of the GPU if one is used.
fn products(device: &candle_core::Device) -> Vec<Products> {
    let gpu = (!device.is_cpu()).then(|| Products::of(device));
    std::iter::once(Products::of(&candle_core::Device::Cpu)).chain(gpu).collect()
}

/// What the build was made with.
fn features() -> Vec<&'static str> {
    let known = [
        ("cli", true),
        ("hub", cfg!(feature = "hub")),
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
    ];
    known.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
}

/// A GPU of this machine, which is idle if no device but the CPU is used.
fn idle_gpu(devices: &[Device]) -> Option<&'static str> {
    match () {
        _ if cfg!(target_os = "macos") => Some("an Apple GPU"),
        _ if devices.iter().any(|device| device.gpu.is_some()) => Some("an NVIDIA GPU"),
        // A build without `cuda` asks no driver.
        _ if Path::new("/proc/driver/nvidia/version").exists() => Some("an NVIDIA GPU"),
        _ => None,
    }
}

fn devices(machine: &Machine) -> Vec<Device> {
    let bf16 = if machine.bf16 { " with bf16 products" } else { "" };
    let threads = if machine.threads == 1 { "thread" } else { "threads" };
    let note = format!(
        "{}, {} cores, {} {threads}, {}{bf16}",
        machine.cpu, machine.cores, machine.threads, machine.simd
    );
    let device = |name: &str, used, note| Device { name: name.to_string(), used, note, gpu: None };
    let absent = "this build has no kernels for it";
    let mut all = vec![device("CPU", true, note)];
    all.push(match Choice::Metal.open() {
        Ok(metal) => device("Metal", true, crate::device::name(&metal)),
        Err(why) if cfg!(feature = "metal") => device("Metal", false, why.to_string()),
        Err(_) => device("Metal", false, absent.to_string()),
    });
    match cuda_gpus() {
        Ok(gpus) => all.extend(gpus.into_iter().map(|gpu| Device { gpu: Some(gpu.clone()), ..cuda(&gpu) })),
        Err(why) if cfg!(feature = "cuda") => all.push(device("CUDA", false, why.to_string())),
        Err(_) => all.push(device("CUDA", false, absent.to_string())),
    }
    all
}

/// An NVIDIA GPU, and whether it can be computed on.
fn cuda(gpu: &CudaGpu) -> Device {
    let CudaGpu { index, name, memory_bytes, compute_capability: (major, minor), driver } = gpu;
    let what = format!(
        "{name}, {}, compute capability {major}.{minor}, driver for CUDA {}.{}",
        gb(*memory_bytes),
        driver.0,
        driver.1
    );
    let opened = Choice::Cuda(*index).open();
    let note = match &opened {
        Ok(_) => what,
        Err(why) => format!("{why} ({what})"),
    };
    Device { name: format!("CUDA {index}"), used: opened.is_ok(), note, gpu: None }
}

fn cache() -> Cache {
    let path = crate::load::hub::Hub::from_env().ok().map(|hub| hub.cache);
    let (models, bytes) = path.as_deref().map_or((0, 0), measure::cached);
    let disks = sysinfo::Disks::new_with_refreshed_list();
    // The disk of the longest mount point above the path that exists.
    let free = path.as_deref().and_then(|path| {
        let existing = path.ancestors().find_map(|part| part.canonicalize().ok())?;
        let above = disks.list().iter().filter(|disk| existing.starts_with(disk.mount_point()));
        above.max_by_key(|disk| disk.mount_point().as_os_str().len()).map(|disk| disk.available_space())
    });
    Cache { path: path.map(|path| path.display().to_string()), models, bytes, free_bytes: free }
}

fn gb(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

fn print(report: &Report) {
    let lines = Lines::new(false);
    let head = |name: &str| lines.say(format!("\n{}", lines.bold(name)));
    let row = |name: &str, text: &str| lines.say(format!("  {name:<14}{}", wrapped(text, 16)));

    let build = if report.release { "release build" } else { "debug build" };
    lines.say(lines.bold(format!("metal-candle {}", report.version)));
    row("build", &format!("{build}, {}, features: {}", report.target, report.features.join(", ")));
    row("candle", report.candle);

    head("Devices");
    for device in &report.devices {
        row(&device.name, &format!("{}{}", if device.used { "" } else { "not used: " }, device.note));
    }

    head("Machine");
    let machine = &report.machine;
    row("system", &machine.os);
    row("memory", &format!("{}, {} available", gb(machine.memory_bytes), gb(machine.available_bytes)));
    if let Some(load) = machine.load {
        row("load", &format!("{load:.1} of {} cores in the last minute", machine.cores));
    }

    if let Some(speed) = &report.speed {
        head("Speed, measured now");
        row(
            "one row",
            &format!("{:.1} GB/s of weights read: what decoding is bound by", speed.read_gb_per_s),
        );
        row("f32 product", &format!("{:.0} GFLOP/s", speed.f32_gflops));
        row("bf16 product", &format!("{:.0} GFLOP/s: what training is bound by", speed.bf16_gflops));
    }

    head("Matrix products");
    for products in &report.products {
        row(products.device, &products.choice.join("\n"));
        products.table().iter().for_each(|line| lines.say(format!("    {line}")));
        for Example { product, dtype, backend, why, layer } in &products.examples {
            let layer = layer.as_ref().map_or(String::new(), |layer| format!("; in a layer {layer}"));
            lines.say(format!("    {product:<24}{dtype:<5}{backend:<9}{why}{layer}"));
        }
    }

    head("Model cache");
    match &report.cache.path {
        Some(path) => {
            let free = report.cache.free_bytes.map_or(String::new(), |free| format!(", {} free", gb(free)));
            row("directory", path);
            let models = if report.cache.models == 1 { "model" } else { "models" };
            row("holds", &format!("{} {models}, {}{free}", report.cache.models, gb(report.cache.bytes)));
        }
        None => row("directory", "none: neither HF_HOME nor HOME is set"),
    }

    if let Some(model) = &report.model {
        head("Model");
        model.lines().iter().for_each(|(name, text)| row(name, text));
    }

    head("What is slow, and why");
    if report.findings.is_empty() {
        lines.say("  nothing found");
    }
    for finding in &report.findings {
        lines.say(format!("  - {}", wrapped(&format!("{}. {}", finding.what, finding.advice), 4)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candle_version_is_the_one_that_is_built() {
        assert!(include_str!("../../../Cargo.toml").contains(&format!("candle-core = \"={CANDLE}\"")));
    }
}
