//! The rotation that `config.json` asks for.

use serde_json::{Map, Value};

use super::raw::Raw;
use crate::Result;
use crate::nn::{RopeConfig, RopeScaling};

/// Where rotations of one architecture depart from Llama's.
pub(super) struct RopeRules {
    /// The base if none is given.
    pub theta: f64,
    /// Phi-3's: a part of each head may stay unrotated, and its first checkpoints call LongRoPE `su` or `yarn`.
    pub phi3: bool,
    /// What `original_max_position_embeddings` is if it is nowhere given; `max_position_embeddings` if none.
    pub original: Option<usize>,
}

impl RopeRules {
    pub const LLAMA: RopeRules = RopeRules { theta: 10_000., phi3: false, original: None };
}

/// One rotation for all layers: `rope_parameters`, or `rope_scaling` and `rope_theta`.
pub(super) fn rope(
    raw: &Raw,
    head_dim: usize,
    max_positions: usize,
    rules: &RopeRules,
) -> Result<RopeConfig> {
    let field = if raw.get("rope_scaling").is_some() { "rope_scaling" } else { "rope_parameters" };
    let theta = raw.positive("rope_theta")?.unwrap_or(rules.theta);
    scaled(raw, field, raw.object(field)?, theta, head_dim, max_positions, rules)
}

/// The rotation that `parameters`, found in `field`, describe.
pub(super) fn scaled(
    raw: &Raw,
    field: &str,
    parameters: Option<&Map<String, Value>>,
    theta: f64,
    head_dim: usize,
    max_positions: usize,
    rules: &RopeRules,
) -> Result<RopeConfig> {
    let none = Map::new();
    let what = format!("{}: {field}", raw.what);
    let rope = Raw { what: &what, fields: parameters.unwrap_or(&none) };
    let theta = rope.positive("rope_theta")?.unwrap_or(theta);
    let dim = match (rope.positive("partial_rotary_factor")?, raw.positive("partial_rotary_factor")?) {
        (Some(factor), _) | (None, Some(factor)) if rules.phi3 && factor <= 1. => {
            (head_dim as f64 * factor) as usize
        }
        (Some(factor), _) if factor != 1. => return Err(rope.wants("partial_rotary_factor", "1")),
        (None, Some(factor)) if factor != 1. => return Err(raw.wants("partial_rotary_factor", "1")),
        _ => head_dim,
    };
    if dim == 0 || dim % 2 != 0 {
        return Err(
            raw.wants("head_dim", format!("an even number of rotated dimensions, at least 2 ({dim} here)"))
        );
    }
    let kind = match rope.text("rope_type")? {
        Some(kind) => kind,
        None => rope.text("type")?.unwrap_or("default"),
    };
    let factor = || Ok::<_, crate::Error>(rope.positive("factor")?.map(|factor| factor as f32));
    let required = |field: &str| match rope.positive(field)? {
        Some(value) => Ok(value as f32),
        None => Err(rope.wants(field, format!("a number above 0 for {kind}"))),
    };
    // transformers lets the field beside the rope's parameters win over the one inside.
    let original = || {
        let beside = raw.size("original_max_position_embeddings")?.or(rules.original);
        let inside = rope.size("original_max_position_embeddings")?;
        Ok::<_, crate::Error>(beside.or(inside).unwrap_or(max_positions))
    };
    let scaling = match kind {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: required("factor")? },
        "dynamic" => RopeScaling::Dynamic { factor: required("factor")?, max_positions },
        "llama3" => RopeScaling::Llama3 {
            factor: required("factor")?,
            low_freq_factor: required("low_freq_factor")?,
            high_freq_factor: required("high_freq_factor")?,
            original: original()?,
        },
        "longrope" | "su" | "yarn" if kind == "longrope" || rules.phi3 => {
            let original = original()?;
            let stretch = factor()?.unwrap_or(max_positions as f32 / original as f32);
            let default = match stretch > 1. {
                true => (1. + stretch.ln() / (original as f32).ln()).sqrt(),
                false => 1.,
            };
            RopeScaling::LongRope {
                short: rope.positives("short_factor", dim / 2)?,
                long: rope.positives("long_factor", dim / 2)?,
                original,
                attention_factor: rope.positive("attention_factor")?.map_or(default, |factor| factor as f32),
            }
        }
        "yarn" => {
            let original = original()?;
            let factor = factor()?.unwrap_or(max_positions as f32 / original as f32);
            let scale = |mscale: f32| if factor <= 1. { 1. } else { 0.1 * mscale * factor.ln() + 1. };
            let default = match (rope.positive("mscale")?, rope.positive("mscale_all_dim")?) {
                (Some(mscale), Some(all)) => scale(mscale as f32) / scale(all as f32),
                _ => scale(1.),
            };
            RopeScaling::Yarn {
                factor,
                beta_fast: rope.positive("beta_fast")?.unwrap_or(32.) as f32,
                beta_slow: rope.positive("beta_slow")?.unwrap_or(1.) as f32,
                original,
                truncate: rope.bool("truncate")?.unwrap_or(true),
                attention_factor: rope.positive("attention_factor")?.map_or(default, |factor| factor as f32),
            }
        }
        _ => {
            let kind = if rope.get("rope_type").is_some() { "rope_type" } else { "type" };
            return Err(rope.wants(kind, "default, linear, dynamic, llama3, longrope or yarn"));
        }
    };
    Ok(RopeConfig { dim, theta, scaling })
}
