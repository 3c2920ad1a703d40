//! Learning rates over the steps of a run, with mlx-lm's names and mlx's formulas.
//!
//! Steps are optimiser updates counted from 0. With a warm-up of w steps, step s ≤ w has
//! `warmup_init + s (init - warmup_init) / w`, and the schedule proper starts at step w + 1 with its step 0: so mlx-lm
//! joins them, and `init` is used twice.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A learning rate for each step. In YAML it is mlx-lm's `lr_schedule`:
///
/// ```yaml
/// lr_schedule:
///   name: cosine_decay          # or linear_schedule, exponential_decay, step_decay, constant
///   arguments: [1e-5, 1000, 1e-7]
///   warmup: 100
///   warmup_init: 1e-7
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Named", into = "Named")]
pub struct Schedule {
    decay: Decay,
    warmup: usize,
    warmup_init: f64,
}

/// How the learning rate goes on after the warm-up; s counts from its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decay {
    /// `init`.
    Constant {
        /// The learning rate.
        init: f64,
    },
    /// `init + min(s, steps) (end - init) / steps`.
    Linear {
        /// The learning rate at step 0.
        init: f64,
        /// The learning rate from `steps` on.
        end: f64,
        /// The steps from one to the other.
        steps: usize,
    },
    /// `end + (init - end) (1 + cos(π min(s, steps) / steps)) / 2`.
    Cosine {
        /// The learning rate at step 0.
        init: f64,
        /// The steps from one to the other.
        steps: usize,
        /// The learning rate from `steps` on.
        end: f64,
    },
    /// `init rate^s`.
    Exponential {
        /// The learning rate at step 0.
        init: f64,
        /// The factor of each step.
        rate: f64,
    },
    /// `init rate^⌊s / every⌋`.
    Step {
        /// The learning rate at step 0.
        init: f64,
        /// The factor of each stage.
        rate: f64,
        /// The steps of a stage.
        every: usize,
    },
}

/// The shapes that need no more than a learning rate and the length of the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Stays at the learning rate.
    #[default]
    Constant,
    /// Falls in a straight line.
    Linear,
    /// Falls along half a cosine.
    Cosine,
}

impl Decay {
    fn at(&self, step: usize) -> f64 {
        match *self {
            Decay::Constant { init } => init,
            Decay::Linear { init, end, steps } => {
                init + step.min(steps) as f64 * ((end - init) / steps as f64)
            }
            Decay::Cosine { init, steps, end } => {
                let turn = std::f64::consts::PI / steps as f64 * step.min(steps) as f64;
                end + 0.5 * (1.0 + turn.cos()) * (init - end)
            }
            Decay::Exponential { init, rate } => init * rate.powf(step as f64),
            Decay::Step { init, rate, every } => init * rate.powf((step / every) as f64),
        }
    }
}

/// A constant 1e-5, as `mlx_lm.lora`.
impl Default for Schedule {
    fn default() -> Self {
        Schedule { decay: Decay::Constant { init: 1e-5 }, warmup: 0, warmup_init: 0.0 }
    }
}

impl Schedule {
    /// A schedule with a warm-up of `warmup` steps (0: none) from `warmup_init`.
    ///
    /// # Errors
    ///
    /// A length of 0 steps, a learning rate that is negative or not finite.
    pub fn new(decay: Decay, warmup: usize, warmup_init: f64) -> Result<Self> {
        let schedule = Schedule { decay, warmup, warmup_init };
        let steps = match decay {
            Decay::Linear { steps, .. } | Decay::Cosine { steps, .. } => steps,
            Decay::Step { every, .. } => every,
            Decay::Constant { .. } | Decay::Exponential { .. } => 1,
        };
        if steps == 0 {
            return Err(Error::wants("learning rate schedule", "a length of at least 1 step", "0"));
        }
        let last = match decay {
            Decay::Linear { end, .. } | Decay::Cosine { end, .. } => end,
            Decay::Exponential { rate, .. } | Decay::Step { rate, .. } => rate,
            Decay::Constant { init } => init,
        };
        for rate in [decay.at(0), last, warmup_init] {
            if !rate.is_finite() || rate < 0.0 {
                let wants = "finite numbers that are not negative";
                return Err(Error::wants("learning rate schedule", wants, rate.to_string()));
            }
        }
        Ok(schedule)
    }

    /// The same learning rate at every step.
    ///
    /// # Errors
    ///
    /// A learning rate that is negative or not finite.
    pub fn constant(learning_rate: f64) -> Result<Self> {
        Schedule::new(Decay::Constant { init: learning_rate }, 0, 0.0)
    }

    /// A warm-up from 0 over `warmup` of `total` steps, then `shape` down to `floor` at the last step.
    ///
    /// # Errors
    ///
    /// A warm-up as long as the run, a learning rate that is negative or not finite.
    pub fn over(shape: Shape, learning_rate: f64, floor: f64, warmup: usize, total: usize) -> Result<Self> {
        if warmup > 0 && warmup >= total {
            let wants = format!("fewer than the {total} steps of the run");
            return Err(Error::wants("warm-up", wants, format!("{warmup} steps")));
        }
        // The last step is total - 1; the decay's own step 0 is step warmup + 1 where there is a warm-up.
        let before = if warmup > 0 { warmup + 1 } else { 0 };
        let steps = total.saturating_sub(before + 1).max(1);
        let init = learning_rate;
        let decay = match shape {
            Shape::Constant => Decay::Constant { init },
            Shape::Linear => Decay::Linear { init, end: floor, steps },
            Shape::Cosine => Decay::Cosine { init, steps, end: floor },
        };
        Schedule::new(decay, warmup, 0.0)
    }

    /// The learning rate of update `step`, counted from 0.
    pub fn at(&self, step: usize) -> f64 {
        if self.warmup == 0 {
            return self.decay.at(step);
        }
        if step <= self.warmup {
            let part = step as f64 / self.warmup as f64;
            return self.warmup_init + part * (self.decay.at(0) - self.warmup_init);
        }
        self.decay.at(step - self.warmup - 1)
    }

    /// The schedule without its length, if it has one: what stays the same in a run that is made longer.
    pub fn without_length(mut self) -> Self {
        if let Decay::Linear { steps, .. } | Decay::Cosine { steps, .. } = &mut self.decay {
            *steps = 1;
        }
        self
    }

    /// The learning rate that the warm-up leads to.
    pub fn initial(&self) -> f64 {
        self.decay.at(0)
    }
}

/// A schedule as a configuration file has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    arguments: Vec<f64>,
    #[serde(default)]
    warmup: usize,
    #[serde(default)]
    warmup_init: f64,
}

impl TryFrom<Named> for Schedule {
    type Error = Error;

    fn try_from(Named { name, arguments, warmup, warmup_init }: Named) -> Result<Self> {
        let count = |n: f64| match n {
            n if n.fract() == 0.0 && (1.0..1e15).contains(&n) => Ok(n as usize),
            n => {
                Err(Error::wants("lr_schedule.arguments", "a whole number of at least 1 step", n.to_string()))
            }
        };
        let decay = match (name.as_str(), arguments.as_slice()) {
            ("constant", &[init]) => Decay::Constant { init },
            ("linear_schedule", &[init, end, steps]) => Decay::Linear { init, end, steps: count(steps)? },
            ("cosine_decay", &[init, steps]) => Decay::Cosine { init, steps: count(steps)?, end: 0.0 },
            ("cosine_decay", &[init, steps, end]) => Decay::Cosine { init, steps: count(steps)?, end },
            ("exponential_decay", &[init, rate]) => Decay::Exponential { init, rate },
            ("step_decay", &[init, rate, every]) => Decay::Step { init, rate, every: count(every)? },
            (name, arguments) => {
                let wants = match name {
                    "constant" => "[init]",
                    "linear_schedule" => "[init, end, steps]",
                    "cosine_decay" => "[init, steps] or [init, steps, end]",
                    "exponential_decay" => "[init, rate]",
                    "step_decay" => "[init, rate, steps of a stage]",
                    _ => {
                        let wants =
                            "constant, linear_schedule, cosine_decay, exponential_decay or step_decay";
                        return Err(Error::wants("lr_schedule.name", wants, name));
                    }
                };
                let what = format!("lr_schedule.arguments of {name}");
                return Err(Error::wants(what, wants, format!("{arguments:?}")));
            }
        };
        Schedule::new(decay, warmup, warmup_init)
    }
}

impl From<Schedule> for Named {
    fn from(Schedule { decay, warmup, warmup_init }: Schedule) -> Self {
        let (name, arguments) = match decay {
            Decay::Constant { init } => ("constant", vec![init]),
            Decay::Linear { init, end, steps } => ("linear_schedule", vec![init, end, steps as f64]),
            Decay::Cosine { init, steps, end } => ("cosine_decay", vec![init, steps as f64, end]),
            Decay::Exponential { init, rate } => ("exponential_decay", vec![init, rate]),
            Decay::Step { init, rate, every } => ("step_decay", vec![init, rate, every as f64]),
        };
        Named { name: name.into(), arguments, warmup, warmup_init }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> std::result::Result<Schedule, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    /// The values in mlx's own docstrings, and mlx-lm's join of warm-up and schedule worked out by hand.
    #[test]
    fn values_are_mlx_s() {
        let cases: &[(&str, &[(usize, f64)])] = &[
            (r#"{"name": "exponential_decay", "arguments": [0.1, 0.9]}"#, &[(0, 0.1), (4, 0.06561)]),
            (r#"{"name": "step_decay", "arguments": [0.1, 0.9, 10]}"#, &[(9, 0.1), (10, 0.09), (20, 0.081)]),
            (
                r#"{"name": "cosine_decay", "arguments": [0.1, 1000]}"#,
                &[(0, 0.1), (4, 0.0999961), (500, 0.05), (1000, 0.0), (2000, 0.0)],
            ),
            (r#"{"name": "cosine_decay", "arguments": [0.1, 10, 0.02]}"#, &[(5, 0.06), (99, 0.02)]),
            (
                r#"{"name": "linear_schedule", "arguments": [0, 0.1, 100]}"#,
                &[(0, 0.0), (25, 0.025), (100, 0.1), (101, 0.1)],
            ),
            (
                r#"{"name": "linear_schedule", "arguments": [0.1, 0, 10], "warmup": 4, "warmup_init": 0.02}"#,
                &[(0, 0.02), (1, 0.04), (4, 0.1), (5, 0.1), (6, 0.09), (15, 0.0)],
            ),
        ];
        for (json, values) in cases {
            let schedule = parse(json).unwrap();
            for &(step, want) in *values {
                let got = schedule.at(step);
                assert!((got - want).abs() < 1e-7, "{json} at {step}: {got}, not {want}");
            }
            let again = serde_json::to_string(&schedule).unwrap();
            assert_eq!(parse(&again).unwrap(), schedule, "{again}");
        }
    }

    #[test]
    fn over_a_run_the_last_step_reaches_the_floor() {
        let cosine = Schedule::over(Shape::Cosine, 1e-3, 1e-4, 5, 50).unwrap();
        assert_eq!((cosine.at(0), cosine.at(5), cosine.at(6)), (0.0, 1e-3, 1e-3));
        assert!(cosine.at(48) > 1e-4);
        assert!((cosine.at(49) - 1e-4).abs() < 1e-12);
        let linear = Schedule::over(Shape::Linear, 1e-3, 0.0, 0, 11).unwrap();
        assert!((linear.at(5) - 5e-4).abs() < 1e-12);
        assert_eq!((linear.at(0), linear.at(10)), (1e-3, 0.0));
        assert_eq!(Schedule::over(Shape::Constant, 1e-3, 0.0, 0, 1).unwrap().at(7), 1e-3);
    }

    #[test]
    fn bad_schedules_are_refused() {
        for (json, text) in [
            (
                r#"{"name": "cosine", "arguments": [0.1, 5]}"#,
                "lr_schedule.name: wants constant, linear_schedule",
            ),
            (
                r#"{"name": "cosine_decay", "arguments": [0.1]}"#,
                "wants [init, steps] or [init, steps, end], got [0.1]",
            ),
            (
                r#"{"name": "step_decay", "arguments": [0.1, 0.5, 0]}"#,
                "wants a whole number of at least 1 step, got 0",
            ),
            (
                r#"{"name": "constant", "arguments": [-1]}"#,
                "wants finite numbers that are not negative, got -1",
            ),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
        assert!(Schedule::over(Shape::Cosine, 1e-3, 0.0, 50, 50).is_err());
    }
}
