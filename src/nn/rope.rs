//! Rotary position embeddings: the angles `position / theta^(2i/dim)` and the ways they are stretched for
//! longer contexts.
//!
//! Su et al., [RoFormer](https://arxiv.org/abs/2104.09864). Frequencies and angles are computed in f32, as
//! transformers does: at large positions the rounding of the angle is part of the model.

use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Result, Tensor, bail};

/// How frequencies are stretched.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All divided by `factor`.
    Linear {
        /// The stretch.
        factor: f32,
    },
    /// A larger base for sequences longer than `max_positions` (NTK-aware).
    Dynamic {
        /// The stretch per `max_positions`.
        factor: f32,
        /// The length up to which nothing changes.
        max_positions: usize,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a smooth step between.
    Llama3 {
        /// The stretch of low frequencies.
        factor: f32,
        /// Wavelengths above `original / low_freq_factor` are low.
        low_freq_factor: f32,
        /// Wavelengths below `original / high_freq_factor` are high.
        high_freq_factor: f32,
        /// The context length of pre-training.
        original: usize,
    },
    /// [YaRN](https://arxiv.org/abs/2309.00071): a ramp over the dimensions between stretched and kept.
    Yarn {
        /// The stretch.
        factor: f32,
        /// Rotations over `original` above which a dimension is kept.
        beta_fast: f32,
        /// Rotations over `original` below which a dimension is stretched.
        beta_slow: f32,
        /// The context length of pre-training.
        original: usize,
        /// Whether the ends of the ramp are rounded to whole dimensions.
        truncate: bool,
        /// What cosines and sines are multiplied by.
        attention_factor: f32,
    },
    /// [LongRoPE](https://arxiv.org/abs/2402.13753): a stretch for each frequency, one set for sequences up to
    /// `original` and another for longer ones.
    LongRope {
        /// The stretches up to `original`.
        short: Vec<f32>,
        /// The stretches beyond.
        long: Vec<f32>,
        /// The context length of pre-training.
        original: usize,
        /// What cosines and sines are multiplied by.
        attention_factor: f32,
    },
}

/// What determines a rotation.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// How many of a head's first dimensions are rotated; even.
    pub dim: usize,
    /// The base of the frequencies.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: RopeScaling,
}

impl RopeConfig {
    /// Which set of frequencies a sequence of `len` tokens uses: keys rotated under one are wrong under another.
    pub fn regime(&self, len: usize) -> usize {
        match self.scaling {
            RopeScaling::LongRope { original, .. } => usize::from(len > original),
            _ => 0,
        }
    }

    /// Whether [`RopeConfig::regime`] depends on the length.
    pub fn has_regimes(&self) -> bool {
        matches!(self.scaling, RopeScaling::LongRope { .. })
    }

    fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                attention_factor
            }
            _ => 1.,
        }
    }

    /// The angles per position, `dim / 2` of them, for a sequence of `len` tokens.
    pub fn frequencies(&self, len: usize) -> Vec<f32> {
        let (dim, theta) = (self.dim as f32, self.theta as f32);
        let exponents = (0..self.dim / 2).map(|i| 2. * i as f32 / dim);
        let plain = || exponents.clone().map(|e| 1. / theta.powf(e));
        match &self.scaling {
            RopeScaling::Default => plain().collect(),
            RopeScaling::Linear { factor } => plain().map(|f| f / factor).collect(),
            RopeScaling::Dynamic { factor, max_positions } => {
                let (factor, max) = (f64::from(*factor), *max_positions as f64);
                let stretch = factor * (len as f64).max(max) / max - (factor - 1.);
                let dim = self.dim as f64;
                let theta = (self.theta * stretch.powf(dim / (dim - 2.))) as f32;
                exponents.map(|e| 1. / theta.powf(e)).collect()
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                let original = *original as f32;
                let stretch = |f: f32| {
                    let wavelength = 2. * std::f32::consts::PI / f;
                    if wavelength < original / high_freq_factor {
                        f
                    } else if wavelength > original / low_freq_factor {
                        f / factor
                    } else {
                        let kept =
                            (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1. - kept) * f / factor + kept * f
                    }
                };
                plain().map(stretch).collect()
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original, truncate, .. } => {
                let dimension = |rotations: f32| {
                    let turns = *original as f64 / (f64::from(rotations) * 2. * std::f64::consts::PI);
                    self.dim as f64 * turns.ln() / (2. * self.theta.ln())
                };
                let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.), high.min(self.dim as f64 - 1.));
                if low == high {
                    high += 0.001;
                }
                let ramp = |i: usize| ((i as f32 - low as f32) / (high - low) as f32).clamp(0., 1.);
                (plain().enumerate()).map(|(i, f)| f / factor * ramp(i) + f * (1. - ramp(i))).collect()
            }
            RopeScaling::LongRope { short, long, .. } => {
                let factors = if self.regime(len) == 0 { short } else { long };
                exponents.zip(factors).map(|(e, factor)| 1. / (factor * theta.powf(e))).collect()
            }
        }
    }
}

/// Cosines and sines for the positions of a batch: (T, dim / 2), or (B, T, dim / 2) where rows differ.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

/// A source of [`Rotation`]s, with a table that grows as it is needed.
#[derive(Debug)]
pub struct Rope {
    config: RopeConfig,
    device: Device,
    /// For each regime, the rotation of the positions from zero on.
    tables: Mutex<[Option<Rotation>; 2]>,
}

impl Rope {
    /// An empty table on `device`.
    pub fn new(config: RopeConfig, device: &Device) -> Self {
        Rope { config, device: device.clone(), tables: Mutex::new([None, None]) }
    }

    /// What determines the rotation.
    pub fn config(&self) -> &RopeConfig {
        &self.config
    }

    /// The rotation of positions `first .. first + len`, with the frequencies of a sequence of `total` tokens.
    ///
    /// # Errors
    ///
    /// When the device has no room for the table.
    pub fn range(&self, first: usize, len: usize, total: usize) -> Result<Rotation> {
        let table = self.table(first + len, total)?;
        Ok(Rotation { cos: table.cos.narrow(0, first, len)?, sin: table.sin.narrow(0, first, len)? })
    }

    /// The rotation of `positions`, which are those of (`rows`, T) tokens, with the frequencies of a sequence of
    /// `total` tokens.
    ///
    /// # Errors
    ///
    /// When `positions` is not a multiple of `rows`, or the device has no room for the table.
    pub fn at(&self, positions: &[u32], rows: usize, total: usize) -> Result<Rotation> {
        let Some(&last) = positions.iter().max() else { bail!("rope: wants positions, got none") };
        let table = self.table(last as usize + 1, total)?;
        let len = positions.len() / rows.max(1);
        let positions = Tensor::new(positions, &self.device)?;
        let pick = |table: &Tensor| table.index_select(&positions, 0)?.reshape((rows, len, ()));
        Ok(Rotation { cos: pick(&table.cos)?, sin: pick(&table.sin)? })
    }

    /// A table of at least the first `len` positions.
    fn table(&self, len: usize, total: usize) -> Result<Rotation> {
        if let RopeScaling::Dynamic { max_positions, .. } = self.config.scaling
            && total > max_positions
        {
            return self.compute(len, total);
        }
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let table = &mut tables[self.config.regime(total)];
        if let Some(table) = table.as_ref()
            && table.cos.dim(0)? >= len
        {
            return Ok(table.clone());
        }
        let grown = self.compute(len.next_power_of_two().max(256), total)?;
        *table = Some(grown.clone());
        Ok(grown)
    }

    /// The first `rows` positions, with the frequencies of a sequence of `total` tokens.
    fn compute(&self, rows: usize, total: usize) -> Result<Rotation> {
        let (frequencies, factor) = (self.config.frequencies(total), self.config.attention_factor());
        let table = |f: fn(f32) -> f32| {
            let row = |t: usize| frequencies.iter().map(move |&frequency| f(t as f32 * frequency) * factor);
            let data: Vec<f32> = (0..rows).flat_map(row).collect();
            Tensor::from_vec(data, (rows, frequencies.len()), &self.device)
        };
        Ok(Rotation { cos: table(f32::cos)?, sin: table(f32::sin)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> RopeConfig {
        RopeConfig { dim: 16, theta: 10_000., scaling }
    }

    fn close(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 2e-6 * b.abs(), "{a} {b}");
        }
    }

    // The expected values are transformers' `ROPE_INIT_FUNCTIONS` for the same parameters.

    #[test]
    fn yarn_is_transformers() {
        let yarn = |beta_fast, beta_slow, truncate| RopeScaling::Yarn {
            factor: 4.,
            beta_fast,
            beta_slow,
            original: 512,
            truncate,
            attention_factor: 1.,
        };
        let low = [0.0025, 7.905_695e-4, 2.5e-4, 7.905_695e-5];
        let rounded = [1., 0.256_935_06, 0.0625, 0.013_834_965];
        close(&rope(yarn(32., 1., true)).frequencies(0), &[rounded, low].concat());
        let exact = [1., 0.316_227_8, 0.075_664_4, 0.010_796_109];
        close(&rope(yarn(16., 2., false)).frequencies(0), &[exact, low].concat());
    }

    #[test]
    fn dynamic_is_transformers() {
        let dynamic = rope(RopeScaling::Dynamic { factor: 2., max_positions: 256 });
        close(&dynamic.frequencies(256), &rope(RopeScaling::Default).frequencies(0));
        let long = [1., 0.240_412_04, 0.057_797_946, 0.013_895_324];
        let rest = [0.003_340_602_9, 8.031_211e-4, 1.930_8e-4, 4.641_875_4e-5];
        close(&dynamic.frequencies(1000), &[long, rest].concat());
    }

    #[test]
    fn llama3_is_transformers() {
        let llama3 = rope(RopeScaling::Llama3 {
            factor: 8.,
            low_freq_factor: 1.,
            high_freq_factor: 4.,
            original: 128,
        });
        let high = [1., 0.316_227_8, 0.042_751_18, 0.003_952_847];
        let low = [0.00125, 3.952_847e-4, 1.25e-4, 3.952_847e-5];
        close(&llama3.frequencies(0), &[high, low].concat());
    }

    #[test]
    fn ranges_and_picked_positions_agree_in_each_regime() {
        let config = RopeConfig {
            dim: 4,
            theta: 100.,
            scaling: RopeScaling::LongRope {
                short: vec![1., 1.],
                long: vec![1., 4.],
                original: 8,
                attention_factor: 1.5,
            },
        };
        let rope = Rope::new(config, &Device::Cpu);
        for (first, len, stretch) in [(0, 8, 1.), (3, 2, 1.), (8, 1, 4.), (2, 300, 4.)] {
            let range = rope.range(first, len, first + len).unwrap();
            let positions: Vec<u32> = (first as u32..(first + len) as u32).collect();
            let picked = rope.at(&positions, 1, first + len).unwrap();
            let (cos, picked) = (range.cos.to_vec2::<f32>().unwrap(), picked.cos.to_vec3::<f32>().unwrap());
            assert_eq!(cos, picked[0]);
            close(
                &cos[len - 1],
                &[0, 1].map(|i| {
                    let angle = (first + len - 1) as f32 * [1., 0.1 / stretch][i];
                    1.5 * angle.cos()
                }),
            );
        }
    }
}
