//! How far a run is: what its lines, its report and its checkpoints are made of.

use super::metrics::{TrainLine, peak_memory_gb};
use candle_core::Device;
use serde::{Deserialize, Serialize};

/// How far a run is, after a step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// Targets trained on.
    pub tokens: u64,
    /// The validation loss before step 1.
    #[serde(with = "exact::option")]
    pub valid_before: Option<f64>,
    /// The last validation loss.
    #[serde(with = "exact::option")]
    pub valid_after: Option<f64>,
    /// The lowest validation loss.
    #[serde(with = "exact::option")]
    pub best: Option<f64>,
    /// The step it was measured after.
    pub best_step: usize,
    /// Steps passed over because their loss was not finite.
    pub skipped: usize,
    /// How many of them come last.
    pub skipped_in_a_row: usize,
    /// How long it has taken.
    #[serde(with = "exact")]
    pub seconds: f64,
    /// What happened since the last line on training.
    pub window: Window,
}

/// What happened since the last line on training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    #[serde(with = "exact")]
    losses: f64,
    steps: usize,
    targets: usize,
    #[serde(with = "exact")]
    seconds: f64,
    /// The learning rate of the last step.
    #[serde(with = "exact")]
    pub lr: f64,
    /// The gradient's norm of the last step.
    #[serde(with = "exact")]
    pub norm: f64,
}

impl Window {
    /// Adds a step of `targets` targets.
    pub fn add(&mut self, loss: f64, targets: usize, seconds: f64) {
        self.losses += loss;
        self.steps += 1;
        self.targets += targets;
        self.seconds += seconds;
    }

    /// Whether no step was made.
    pub fn is_empty(&self) -> bool {
        self.steps == 0
    }

    /// The line on training on `device` after `step`.
    pub fn line(&self, step: usize, trained_tokens: u64, device: &Device) -> TrainLine {
        let seconds = self.seconds.max(1e-9);
        TrainLine {
            step,
            loss: self.losses / self.steps.max(1) as f64,
            lr: self.lr,
            it_per_s: self.steps as f64 / seconds,
            tokens_per_s: self.targets as f64 / seconds,
            trained_tokens,
            peak_mem_gb: peak_memory_gb(device),
        }
    }
}

/// Numbers as text: JSON readers may round a number's last bit, and a resumed run is to have the same.
mod exact {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.to_string().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }

    pub mod option {
        use super::*;

        pub fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
            value.map(|value| value.to_string()).serialize(serializer)
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
            let text = Option::<String>::deserialize(deserializer)?;
            text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
        }
    }
}
