//! What a run measures of itself: `metrics.jsonl`, mlx-lm's log lines, and the memory of this process.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use candle_core::Device;

use crate::{Error, Result, device};

/// One line of `metrics.jsonl`; what was not measured at that step is left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metric {
    /// The iteration, counted from 1.
    pub step: usize,
    /// The training loss, in nats a target token, averaged since the line before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The validation loss before this iteration's update, in nats a target token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_loss: Option<f64>,
    /// The learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// The global norm of the gradient before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Trained tokens a second since the line before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<f64>,
    /// Tokens trained since the start of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// The most memory held so far, in 10^9 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_mem_gb: Option<f64>,
    /// Seconds since the start of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Steps passed over so far because their loss was not finite; left out while there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<usize>,
}

/// Appends to `metrics.jsonl`. A line is with the operating system when `write` returns.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
}

impl Writer {
    /// A new, empty file in place of any other.
    ///
    /// # Errors
    ///
    /// When the file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(Error::io(path))?;
        Ok(Writer { path: path.to_path_buf(), file })
    }

    /// Goes on after the first `bytes` bytes: what a run wrote after it saved its state, which it measures again
    /// when it is resumed, is dropped. A file that is shorter loses only a line that was cut off.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or written.
    pub fn resume(path: &Path, bytes: u64) -> Result<Self> {
        let file =
            OpenOptions::new().create(true).append(true).read(true).open(path).map_err(Error::io(path))?;
        let text = std::fs::read(path).map_err(Error::io(path))?;
        let kept = &text[..text.len().min(bytes as usize)];
        let whole = kept.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64).map_err(Error::io(path))?;
        Ok(Writer { path: path.to_path_buf(), file })
    }

    /// Makes what was written durable, and tells how many bytes that is.
    ///
    /// # Errors
    ///
    /// When the file's length cannot be read.
    pub fn sync(&self) -> Result<u64> {
        // What is no file, such as a pipe, cannot be synced and need not be.
        self.file.sync_data().ok();
        Ok(self.file.metadata().map_err(Error::io(&self.path))?.len())
    }

    /// Appends one line.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&mut self, metric: &Metric) -> Result<()> {
        self.file.write_all(line(metric).as_bytes()).map_err(Error::io(&self.path))
    }
}

fn line(metric: &Metric) -> String {
    // A struct of numbers always serialises; NaN and infinity become null.
    serde_json::to_string(metric).unwrap_or_default() + "\n"
}

/// Reads `metrics.jsonl`. A last line that a crash cut off is left out.
///
/// # Errors
///
/// When the file cannot be read, or any other line is no metric (its number is told).
pub fn read(path: &Path) -> Result<Vec<Metric>> {
    let mut reader = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let (mut metrics, mut text, mut number) = (Vec::new(), String::new(), 0);
    while reader.read_line(&mut text).map_err(Error::io(path))? > 0 {
        number += 1;
        match serde_json::from_str(&text) {
            Ok(metric) => metrics.push(metric),
            Err(_) if text.trim().is_empty() || !text.ends_with('\n') => {}
            Err(error) => {
                return Err(Error::Row {
                    path: path.to_path_buf(),
                    line: number,
                    wants: "an object with `step` and numbers".into(),
                    got: error.to_string(),
                });
            }
        }
        text.clear();
    }
    Ok(metrics)
}

/// mlx-lm's line about training, as its `Display`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainLine {
    /// The iteration, counted from 1.
    pub step: usize,
    /// The mean loss since the line before.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// Iterations a second.
    pub it_per_s: f64,
    /// Trained tokens a second.
    pub tokens_per_s: f64,
    /// Tokens trained so far.
    pub trained_tokens: u64,
    /// The most memory held so far, in 10^9 bytes.
    pub peak_mem_gb: f64,
}

impl fmt::Display for TrainLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TrainLine { step, loss, lr, it_per_s, tokens_per_s, trained_tokens, peak_mem_gb } = self;
        write!(f, "Iter {step}: Train loss {loss:.3}, Learning Rate {}, ", scientific(*lr))?;
        write!(f, "It/sec {it_per_s:.3}, Tokens/sec {tokens_per_s:.3}, ")?;
        write!(f, "Trained Tokens {trained_tokens}, Peak mem {peak_mem_gb:.3} GB")
    }
}

/// mlx-lm's line about a validation.
pub fn valid_line(step: usize, loss: f64, seconds: f64) -> String {
    format!("Iter {step}: Val loss {loss:.3}, Val took {seconds:.3}s")
}

/// mlx-lm's line about a test.
pub fn test_line(loss: f64) -> String {
    format!("Test loss {loss:.3}, Test ppl {:.3}.", loss.exp())
}

/// Python's `{:.3e}`: at least two digits of exponent, with its sign.
pub fn scientific(value: f64) -> String {
    let text = format!("{value:.3e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exponent),
            };
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}

/// The most memory this process has held in 10^9 bytes: a GPU's own, or resident; 0 where the system does not say.
pub fn peak_memory_gb(device: &Device) -> f64 {
    device::peak(device).unwrap_or_else(peak_memory_bytes) as f64 / 1e9
}

#[cfg(target_os = "linux")]
fn peak_memory_bytes() -> u64 {
    // Not getrusage: its ru_maxrss cannot be reset, and starts with the peak of the process that spawned this one.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(all(unix, not(target_os = "linux")))]
fn peak_memory_bytes() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage writes a whole rusage through the pointer, which is valid for it; all zeros is one too.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    // Bytes on macOS, KiB elsewhere.
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    u64::try_from(usage.ru_maxrss).unwrap_or(0) * unit
}

#[cfg(not(unix))]
fn peak_memory_bytes() -> u64 {
    0
}

/// Starts a new peak at what is held now, so that [`peak_memory_gb`] measures what comes. False where the system
/// cannot (anywhere but Linux, and in some sandboxes): then the peak stays that of the whole process.
pub fn reset_peak() -> bool {
    cfg!(target_os = "linux") && std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_are_mlx_lm_s() {
        let line = TrainLine {
            step: 10,
            loss: 2.5857,
            lr: 1e-5,
            it_per_s: 1.4261,
            tokens_per_s: 251.6221,
            trained_tokens: 1764,
            peak_mem_gb: 31.7534,
        };
        assert_eq!(
            line.to_string(),
            "Iter 10: Train loss 2.586, Learning Rate 1.000e-05, It/sec 1.426, Tokens/sec 251.622, \
             Trained Tokens 1764, Peak mem 31.753 GB"
        );
        assert_eq!(valid_line(1, 3.4951, 2.5089), "Iter 1: Val loss 3.495, Val took 2.509s");
        assert_eq!(test_line(2.0), "Test loss 2.000, Test ppl 7.389.");
        let lrs = [0.0, 1.0, 3.14159e-4, 9.9999e-11, 2.5e120].map(scientific);
        assert_eq!(lrs, ["0.000e+00", "1.000e+00", "3.142e-04", "1.000e-10", "2.500e+120"]);
    }

    #[test]
    fn metrics_come_back_and_a_resumed_run_drops_what_it_measures_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let train =
            |step| Metric { step, loss: Some(2.0), lr: Some(1e-5), tokens: Some(3), ..Metric::default() };
        let valid = Metric { step: 1, valid_loss: Some(3.5), ..Metric::default() };
        let mut writer = Writer::create(&path).unwrap();
        for metric in [valid, train(10), train(20), train(30)] {
            writer.write(&metric).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("{\"step\":1,\"valid_loss\":3.5}\n{\"step\":10,\"loss\":2.0,\"lr\":0.00001,"),
            "{text}"
        );
        assert_eq!(read(&path).unwrap(), [valid, train(10), train(20), train(30)]);

        writer.file.write_all(b"{\"step\":40,\"lo").unwrap();
        assert_eq!(read(&path).unwrap().len(), 4);
        let upto_20 = text.lines().take(3).map(|line| line.len() + 1).sum::<usize>();
        Writer::resume(&path, upto_20 as u64).unwrap().write(&train(25)).unwrap();
        assert_eq!(read(&path).unwrap(), [valid, train(10), train(20), train(25)]);
        writer.file.write_all(b"{\"step\":40,\"lo").unwrap();
        Writer::resume(&path, u64::MAX).unwrap().write(&train(30)).unwrap();
        assert_eq!(read(&path).unwrap(), [valid, train(10), train(20), train(25), train(30)]);

        std::fs::write(&path, "{\"step\":1}\nnonsense\n").unwrap();
        assert!(
            read(&path).unwrap_err().to_string().contains("metrics.jsonl:2: wants an object with `step`")
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_is_of_this_process_and_rises() {
        let before = peak_memory_gb(&Device::Cpu);
        assert!(before > 1e-3, "{before}");
        // As much again as all of it, so that other tests' memory cannot hide it.
        let held = vec![1u8; (before * 1e9) as usize + (64 << 20)];
        let after = peak_memory_gb(&Device::Cpu);
        assert!(after > before + 0.05, "{before} {after} {}", held.len());
    }
}
