//! What a run is made of, by name: a run goes on only as what it was.

use super::checkpoint::Checkpoint;
use super::data::Dataset;
use super::trainer::TrainOptions;
use crate::error::{Error, Result};
use crate::models::Model;
use std::collections::BTreeMap;
use std::path::Path;

/// What decides every loss of a run, by name. Not among them: the number of steps, what is reported and saved when,
/// gradient checkpointing, the policy for losses that are not finite.
///
/// # Errors
///
/// When the model's weights cannot be read.
pub fn fingerprint(
    model: &Model,
    train: &Dataset,
    valid: &Dataset,
    checkpoint: &Checkpoint,
    options: &TrainOptions,
) -> Result<BTreeMap<String, String>> {
    let mut made_of = BTreeMap::new();
    let mut put = |name: &str, value: String| made_of.insert(name.to_string(), value);
    put("model", format!("{} #{}", model.config.model_type, model.fingerprint()?));
    put("dtype", format!("{:?}", model.dtype()));
    put("training data", rows(train));
    put("validation data", rows(valid));
    put("batch_size", options.batch_size.to_string());
    put("grad_accumulation_steps", options.grad_accumulation_steps.max(1).to_string());
    put("pack", options.pack.to_string());
    if options.pack {
        // Else the rows, which are cut to it, tell all of it.
        put("max_seq_length", train.summary.max_seq_length.to_string());
    }
    put("seed", options.seed.to_string());
    put("optimizer", text(&options.optimizer));
    put("max_grad_norm", options.max_grad_norm.map_or("none".into(), |norm| norm.to_string()));
    put("lr_schedule", text(&options.schedule.clone().without_length()));
    put(LENGTH, text(&options.schedule));
    put("steps_per_eval", options.steps_per_eval.to_string());
    put("val_batches", options.val_batches.map_or("all".into(), |batches| batches.to_string()));
    match checkpoint {
        Checkpoint::Full { .. } => drop(put("fine_tune_type", "full".into())),
        Checkpoint::Lora(lora) => {
            put("fine_tune_type", "lora".into());
            let fields: BTreeMap<String, serde_json::Value> =
                serde_json::from_str(&lora.to_json()).unwrap_or_default();
            for (name, value) in fields {
                // Where the model lies decides nothing.
                if name != "base_model_name_or_path" {
                    put(&name, value.to_string());
                }
            }
        }
    }
    Ok(made_of)
}

/// The schedule with its length, which is that of the run unless it is made longer.
const LENGTH: &str = "length of lr_schedule";

/// Compares what a saved run was made of with what is asked for now; `same_length` if it is to make as many steps.
///
/// # Errors
///
/// The names of all that differ, with both values.
pub fn compare(
    dir: &Path,
    saved: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
    same_length: bool,
) -> Result<()> {
    let names: std::collections::BTreeSet<&String> = saved.keys().chain(now.keys()).collect();
    let absent = "none".to_string();
    let (mut wants, mut got) = (Vec::new(), Vec::new());
    for name in names {
        let (before, after) = (saved.get(name).unwrap_or(&absent), now.get(name).unwrap_or(&absent));
        if before != after && (name != LENGTH || same_length) {
            wants.push(format!("{name} {before}"));
            got.push(format!("{name} {after}"));
        }
    }
    match wants.is_empty() {
        true => Ok(()),
        false => {
            let wants = format!("the run that it is of: {}", wants.join(", "));
            Err(Error::wants(dir.display().to_string(), wants, got.join(", ")))
        }
    }
}

fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn rows(dataset: &Dataset) -> String {
    let mut hasher = crc32fast::Hasher::new();
    for row in &dataset.rows {
        hasher.update(&(row.tokens.len() as u64).to_le_bytes());
        row.tokens.iter().for_each(|token| hasher.update(&token.to_le_bytes()));
        for span in &row.trained {
            hasher.update(&(span.start as u64).to_le_bytes());
            hasher.update(&(span.end as u64).to_le_bytes());
        }
    }
    format!("{} rows #{:08x}", dataset.len(), hasher.finalize())
}
