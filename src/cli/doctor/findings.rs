//! What makes this machine or this setting slower than it need be.

use super::Machine;
use serde::Serialize;

/// Something that costs time, and what to do about it.
#[derive(Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What was found.
    pub what: String,
    /// What it costs, and what helps.
    pub advice: String,
}

/// Free bytes on the cache's disk below which a download is likely to fail.
const LITTLE_DISK: u64 = 5_000_000_000;

/// Everything that is found; the GPU is one this build leaves idle.
pub fn all(machine: &Machine, cache_free: Option<u64>, gpu: Option<&str>) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |what: String, advice: &str| found.push(Finding { what, advice: advice.to_string() });
    if cfg!(debug_assertions) {
        add("This is a debug build".into(), "Build with --release: it is several times faster");
    }
    if let Some(gpu) = gpu {
        add(format!("There is {gpu}, which this build does not use"), "It computes on the CPU alone");
    }
    if let Ok(level) = std::env::var("METAL_CANDLE_SIMD") {
        add(
            format!("METAL_CANDLE_SIMD={level} is set"),
            "Unset it: it keeps the loops below what the CPU can do",
        );
    }
    match machine.simd {
        "AVX-512" if !machine.bf16 => add(
            "The CPU has no bf16 products".into(),
            "bf16 checkpoints are computed in f32: decoding reads twice the bytes",
        ),
        "AVX-512" | "NEON" => {}
        "AVX2" => add(
            "The CPU has no AVX-512".into(),
            "Products run without packed tiles, and bf16 checkpoints are computed in f32",
        ),
        simd => add(format!("The loops run at {simd}"), "A CPU with AVX2 is several times faster"),
    }
    if machine.allowed_cores < machine.cores {
        let what = format!("This process may use {} of {} cores", machine.allowed_cores, machine.cores);
        add(what, "A container's limit or a CPU set leaves it no more");
    }
    if machine.threads < machine.allowed_cores {
        let what = format!("{} threads compute on {} cores", machine.threads, machine.allowed_cores);
        add(what, "Leave out --threads and unset RAYON_NUM_THREADS to use them all");
    }
    if machine.threads > machine.allowed_cores {
        let what = format!("{} threads compute on {} cores", machine.threads, machine.allowed_cores);
        add(what, "They wait for one another: leave out --threads");
    }
    // Processes that wait are others' work: this one has just begun.
    if let Some(load) = machine.load.filter(|load| *load > 0.5 * machine.cores as f64) {
        let what =
            format!("Other programs kept {load:.1} of {} cores busy in the last minute", machine.cores);
        add(what, "They slow this one down, and make what is measured now too low");
    }
    if machine.swap_used_bytes > machine.memory_bytes / 10 {
        let what = format!("{} of swap are in use", super::gb(machine.swap_used_bytes));
        add(what, "Memory is short: weights that are swapped out are read from disk again for each token");
    }
    if let Some(free) = cache_free.filter(|free| *free < LITTLE_DISK) {
        let what = format!("The disk of the model cache has {} left", super::gb(free));
        add(what, "Remove models that are no longer used, or set HF_HOME to a larger disk");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fast() -> Machine {
        Machine {
            cores: 8,
            allowed_cores: 8,
            threads: 8,
            simd: "AVX-512",
            bf16: true,
            load: Some(0.3),
            memory_bytes: 32_000_000_000,
            ..Machine::default()
        }
    }

    fn found(machine: &Machine) -> String {
        let advice = |f: Finding| format!("{}. {}\n", f.what, f.advice);
        all(machine, Some(1 << 40), None).into_iter().map(advice).collect()
    }

    #[test]
    fn a_fast_machine_has_no_findings_and_each_cause_is_named() {
        let base = found(&fast());
        assert!(!base.contains("core"), "{base}");
        let cases: [(Machine, &str); 7] = [
            (Machine { bf16: false, ..fast() }, "no bf16 products"),
            (Machine { simd: "AVX2", ..fast() }, "no AVX-512"),
            (Machine { threads: 2, ..fast() }, "2 threads compute on 8 cores. Leave out"),
            (Machine { threads: 16, ..fast() }, "16 threads compute on 8 cores. They wait"),
            (Machine { allowed_cores: 2, threads: 2, ..fast() }, "may use 2 of 8 cores"),
            (Machine { load: Some(6.0), ..fast() }, "kept 6.0 of 8 cores busy"),
            (Machine { swap_used_bytes: 9_000_000_000, ..fast() }, "9.0 GB of swap"),
        ];
        for (machine, wants) in cases {
            let text = found(&machine);
            assert!(text.contains(wants) && text.len() > base.len(), "{wants}: {text}");
        }
        let gpu = all(&fast(), Some(1), Some("an NVIDIA GPU"));
        assert!(gpu.iter().any(|f| f.what.contains("an NVIDIA GPU")));
        assert!(gpu.iter().any(|f| f.what.contains("0.0 GB left")));
    }
}
