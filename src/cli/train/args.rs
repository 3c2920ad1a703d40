//! The options of `train`: flags over the YAML file of `--config` over defaults, named as in `mlx_lm.lora`.

mod meaning;

pub use meaning::batches;

use super::super::compute::Precision;
use crate::device::Choice;
use crate::train::optim::AdamWConfig;
use crate::train::schedule::Schedule;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FineTuneType {
    /// Low-rank adapters beside frozen weights
    #[default]
    Lora,
    /// Low-rank adapters with a magnitude for each output
    Dora,
    /// Every weight
    Full,
}

impl FineTuneType {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            FineTuneType::Lora => "lora",
            FineTuneType::Dora => "dora",
            FineTuneType::Full => "full",
        }
    }
}

/// When layers keep their input only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(from = "WrittenCheckpoints", rename_all = "snake_case")]
pub enum Checkpoints {
    /// Never
    #[default]
    Off,
    /// All layers
    On,
    /// As few layers as fit
    Auto,
}

/// [`Checkpoints`] in a file: mlx-lm has true and false.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "true, false or auto")]
enum WrittenCheckpoints {
    Flag(bool),
    Name(CheckpointsName),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CheckpointsName {
    Off,
    On,
    Auto,
}

impl From<WrittenCheckpoints> for Checkpoints {
    fn from(written: WrittenCheckpoints) -> Self {
        match written {
            WrittenCheckpoints::Flag(false) | WrittenCheckpoints::Name(CheckpointsName::Off) => {
                Checkpoints::Off
            }
            WrittenCheckpoints::Flag(true) | WrittenCheckpoints::Name(CheckpointsName::On) => Checkpoints::On,
            WrittenCheckpoints::Name(CheckpointsName::Auto) => Checkpoints::Auto,
        }
    }
}

/// The optimiser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Adam with decoupled weight decay
    #[default]
    Adamw,
    /// AdamW without weight decay
    Adam,
}

/// Which tokens are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trained {
    /// All tokens
    All,
    /// The last assistant turn, as --mask-prompt
    Last,
    /// Every assistant turn
    Assistant,
}

/// What happens when a loss is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NanPolicy {
    /// The run ends with an error that names the rows
    #[default]
    Stop,
    /// The step is passed over and counted; ten in a row end the run
    Skip,
}

/// How the learning rate goes after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    /// Stays
    Constant,
    /// Falls in a straight line to 0
    Linear,
    /// Falls along half a cosine to 0
    Cosine,
}

/// Fine-tune a model on your own data.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(after_help = "Examples:
  metal-candle train --model ./Qwen3-0.6B --data ./data --iters 600
  metal-candle train --model Qwen/Qwen3-0.6B --data chats.jsonl --mask-prompt --rank 16 --iters 200
  metal-candle train --model ./Qwen3-0.6B --data ./data --fine-tune-type dora --rank 16
  metal-candle train --config lora.yaml --iters 100

Stopped, killed or out of disk: the same command goes on where the last checkpoint was.
  metal-candle train --model ./Qwen3-0.6B --data ./data --iters 600 --resume

The data are JSONL rows in one of four forms:
  {\"text\": ...}
  {\"prompt\": ..., \"completion\": ...}
  {\"messages\": [...]}
  {\"messages\": [...], \"tools\": [...]}")]
pub struct Args {
    /// The model: a Hugging Face directory, or org/name of the hub
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// The branch, tag or commit of a model of the hub [default: main]
    #[arg(long, value_name = "REV")]
    pub revision: Option<String>,
    /// A directory with train.jsonl, valid.jsonl, test.jsonl, or one JSONL file that is split
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Options from a YAML file; flags win
    #[arg(short, long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Accepted as in mlx_lm.lora; training is the default
    #[arg(long, hide = true)]
    pub train: bool,
    /// Measure the loss and perplexity of the test set at the end
    #[arg(long)]
    pub test: bool,
    /// What is trained [default: lora]
    #[arg(long, value_enum)]
    pub fine_tune_type: Option<FineTuneType>,
    /// Start full fine-tuning from random weights: pre-training
    #[arg(long)]
    pub from_scratch: bool,
    /// The optimiser [default: adamw]
    #[arg(long, value_enum)]
    pub optimizer: Option<Optimizer>,
    /// Train on the last assistant turn or completion only
    #[arg(long)]
    pub mask_prompt: bool,
    /// Which tokens are trained [default: all]
    #[arg(long, value_enum)]
    pub train_on: Option<Trained>,
    /// Adapt the last N layers; -1 for all [default: 16]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub num_layers: Option<i64>,
    /// Modules to adapt: all-linear, names separated by commas, or a regular expression for the whole path
    #[arg(long, value_name = "WHICH")]
    pub target_modules: Option<String>,
    /// Modules to train whole beside the adapters, and save with them: names, such as lm_head embed_tokens
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub modules_to_save: Vec<String>,
    /// Rank of the LoRA [default: 8]
    #[arg(long, value_name = "R")]
    pub rank: Option<usize>,
    /// Factor of the update, as mlx-lm's `scale` [default: 20]
    #[arg(long, value_name = "S")]
    pub scale: Option<f64>,
    /// PEFT's lora_alpha: the scale times the rank
    #[arg(long, value_name = "A", conflicts_with = "scale")]
    pub alpha: Option<f64>,
    /// Dropout on what the LoRA sees [default: 0]
    #[arg(long, value_name = "P")]
    pub dropout: Option<f64>,
    /// Rows of a batch [default: 4]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Steps [default: 1000]
    #[arg(long, value_name = "N")]
    pub iters: Option<usize>,
    /// Batches of a validation; -1 for all [default: 25]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub val_batches: Option<i64>,
    /// Batches of the test; -1 for all [default: 500]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub test_batches: Option<i64>,
    /// Peak learning rate [default: 1e-5]
    #[arg(long, value_name = "LR")]
    pub learning_rate: Option<f64>,
    /// How the learning rate goes [default: constant]
    #[arg(long, value_enum)]
    pub schedule: Option<ScheduleName>,
    /// Steps of warm-up from 0 [default: 0]
    #[arg(long, value_name = "N")]
    pub warmup: Option<usize>,
    /// Decoupled weight decay [default: 0.01]
    #[arg(long, value_name = "W")]
    pub weight_decay: Option<f64>,
    /// Clip gradients to this global norm; 0 for not at all [default: 1]
    #[arg(long, value_name = "NORM")]
    pub max_grad_norm: Option<f64>,
    /// Steps between two lines on training [default: 10]
    #[arg(long, value_name = "N")]
    pub steps_per_report: Option<usize>,
    /// Steps between two validations [default: 200]
    #[arg(long, value_name = "N")]
    pub steps_per_eval: Option<usize>,
    /// Batches of a step [default: 1]
    #[arg(long, value_name = "N")]
    pub grad_accumulation_steps: Option<usize>,
    /// Go on exactly where the run was: after the newest checkpoint of --adapter-path, or of DIR, or the one DIR is
    #[arg(long, value_name = "DIR", num_args = 0..=1, conflicts_with = "overwrite")]
    #[serde(skip)]
    pub resume: Option<Option<PathBuf>>,
    /// Begin again in a directory with a run that is not at its end
    #[arg(long)]
    #[serde(skip)]
    pub overwrite: bool,
    /// Start a new run from this adapter's weights: a directory of PEFT or mlx-lm, or a file of tensors in one
    #[arg(long, value_name = "PATH")]
    pub resume_adapter_file: Option<PathBuf>,
    /// Where the adapter, its checkpoints and the report go [default: adapters]
    #[arg(long, value_name = "DIR")]
    pub adapter_path: Option<PathBuf>,
    /// Steps between two checkpoints; 0 for none [default: 100]
    #[arg(long, value_name = "N")]
    pub save_every: Option<usize>,
    /// Keep the newest K checkpoints [default: all adapters; of the newest two, what --resume needs]
    #[arg(long, value_name = "K", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub save_total_limit: Option<usize>,
    /// Pack rows into sequences of --max-seq-length; they do not see each other
    #[arg(long)]
    pub pack: bool,
    /// What happens when a loss is not finite; weights never see one [default: stop]
    #[arg(long, value_enum)]
    pub on_nan: Option<NanPolicy>,
    /// Start though the memory plan is larger than what is available
    #[arg(long)]
    pub ignore_memory_plan: bool,
    /// Rows are cut to this many tokens [default: 2048]
    #[arg(long, value_name = "N")]
    pub max_seq_length: Option<usize>,
    /// The part of a single data file held out for validation [default: 0.1]
    #[arg(long, value_name = "PART")]
    pub valid_fraction: Option<f64>,
    /// Keep layer inputs only and run layers again in backward: less memory, more time; auto does so with as few layers as the memory plan lets fit
    #[arg(long, value_enum, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    pub grad_checkpoint: Option<Checkpoints>,
    /// What computes: auto (a GPU if there is one), cpu, cuda, cuda:N or metal [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<Choice>,
    /// What is computed in [default: auto]
    #[arg(long, value_enum)]
    pub dtype: Option<Precision>,
    /// What LoRA's start, the data's order and dropout are drawn from [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// A prompt to answer before and after, for the report; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub sample_prompt: Vec<String>,
    /// End with one JSON object on stdout, and nothing else there
    #[arg(long)]
    pub json: bool,

    /// As in mlx_lm.lora, where it names a service; none is written to
    #[arg(long, hide = true)]
    report_to: Option<String>,
    /// As in mlx_lm.lora: of --report-to
    #[arg(long, hide = true)]
    project_name: Option<String>,
    /// As in mlx_lm.lora: of the GPU's buffers
    #[arg(long, hide = true)]
    clear_cache_threshold: Option<u64>,

    #[arg(skip)]
    lora_parameters: Option<LoraParameters>,
    #[arg(skip)]
    lr_schedule: Option<Schedule>,
    #[arg(skip)]
    optimizer_config: Option<OptimizerConfig>,
    #[arg(skip)]
    prompt_feature: Option<String>,
    #[arg(skip)]
    completion_feature: Option<String>,
    #[arg(skip)]
    chat_feature: Option<String>,
    #[arg(skip)]
    text_feature: Option<String>,
}

/// mlx-lm's `lora_parameters`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LoraParameters {
    keys: Option<Vec<String>>,
    rank: Option<usize>,
    scale: Option<f64>,
    dropout: Option<f64>,
    modules_to_save: Option<Vec<String>>,
}

/// mlx-lm's `optimizer_config`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OptimizerConfig {
    adam: Option<AdamWConfig>,
    adamw: Option<AdamWConfig>,
}
