//! What the options of a run come to: flags over the file of `--config` over defaults.

use super::{Args, FineTuneType, LoraParameters, Optimizer, ScheduleName, Trained};
use crate::cli::terminal::note;
use crate::load::{Adapter, PeftConfig, TargetModules};
use crate::models::Model;
use crate::train::data::{Features, Mask};
use crate::train::optim::AdamWConfig;
use crate::train::run_dir::Start;
use crate::train::schedule::{Schedule, Shape};
use anyhow::{Context, bail, ensure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

macro_rules! take {
    ($into:ident, $from:ident: $($field:ident),*) => {
        $($into.$field = $into.$field.take().or($from.$field);)*
    };
}

impl Args {
    /// What a YAML file alone asks for, checked as far as it can be without a model.
    pub fn of_file(path: &Path) -> anyhow::Result<Self> {
        let args = Args { config: Some(path.to_path_buf()), ..Args::default() }.merged()?;
        args.lora(1)?;
        args.schedule(args.iters.unwrap_or(1))?.at(0);
        Ok(args)
    }

    /// The flags over what the YAML file says.
    pub fn merged(mut self) -> anyhow::Result<Self> {
        let Some(path) = &self.config else { return Ok(self) };
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let file: Args = serde_saphyr::from_str(&text).map_err(|error| {
            // The lines after the first quote the file.
            let text = error.to_string();
            let message = text.lines().next().unwrap_or_default();
            anyhow::anyhow!("{}: {}", path.display(), message.trim_start_matches("error: "))
        })?;
        take!(self, file: model, revision, data, fine_tune_type, optimizer, train_on, num_layers, target_modules, rank, dropout,
            batch_size, iters, val_batches, test_batches, learning_rate, schedule, warmup, weight_decay, max_grad_norm,
            steps_per_report, steps_per_eval, grad_accumulation_steps, resume_adapter_file, adapter_path, save_every,
            save_total_limit, on_nan, report_to, project_name, clear_cache_threshold, max_seq_length, valid_fraction, grad_checkpoint, device, dtype, seed, lora_parameters, lr_schedule, optimizer_config,
            prompt_feature, completion_feature, chat_feature, text_feature);
        if self.scale.is_none() && self.alpha.is_none() {
            (self.scale, self.alpha) = (file.scale, file.alpha);
        }
        self.test |= file.test;
        self.from_scratch |= file.from_scratch;
        self.mask_prompt |= file.mask_prompt;
        self.pack |= file.pack;
        self.ignore_memory_plan |= file.ignore_memory_plan;
        if self.sample_prompt.is_empty() {
            self.sample_prompt = file.sample_prompt;
        }
        if self.modules_to_save.is_empty() {
            self.modules_to_save = file.modules_to_save;
        }
        Ok(self)
    }

    /// The model, which must be given.
    pub fn model(&self) -> anyhow::Result<&str> {
        self.model.as_deref().context("--model: wants a model directory or org/name, got none")
    }

    /// The data, which must be given.
    pub fn data(&self) -> anyhow::Result<&Path> {
        self.data.as_deref().context("--data: wants a directory or a JSONL file, got none")
    }

    /// What mlx_lm.lora's options mean here that have no meaning here.
    pub fn note_unused(&self) -> anyhow::Result<()> {
        if let Some(service) = self.report_to.as_deref().filter(|to| !["", "none"].contains(to)) {
            bail!(
                "report_to: wants none, got {service}: a run writes to no service; metrics.jsonl and report.html in \
                 --adapter-path hold its curves"
            );
        }
        if self.project_name.as_deref().is_some_and(|name| !name.is_empty()) {
            note("project_name belongs to report_to, and is not used");
        }
        if self.clear_cache_threshold.is_some_and(|bytes| bytes > 0) {
            note("clear_cache_threshold is for a GPU's buffers, and is not used");
        }
        Ok(())
    }

    /// Where the run writes, and how it begins there.
    pub fn start(&self, usual: PathBuf) -> anyhow::Result<(PathBuf, Start)> {
        let output = self.adapter_path.clone().unwrap_or(usual);
        let Some(dir) = &self.resume else {
            return Ok((output, if self.overwrite { Start::Overwrite } else { Start::New }));
        };
        let Some(dir) = dir else { return Ok((output, Start::Resume)) };
        let got = if dir.exists() { "a file" } else { "no such directory" };
        ensure!(
            dir.is_dir(),
            "--resume: wants a run's directory or a checkpoint in one, got {}: {got}",
            dir.display()
        );
        let is_checkpoint =
            dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("checkpoint-"));
        let (of, start) = match (is_checkpoint, dir.parent()) {
            (true, Some(parent)) => (parent.to_path_buf(), Start::ResumeFrom(dir.clone())),
            _ => (dir.clone(), Start::ResumeNewest),
        };
        let of = if of.as_os_str().is_empty() { PathBuf::from(".") } else { of };
        let same = |a: &Path, b: &Path| a.canonicalize().ok() == b.canonicalize().ok();
        ensure!(
            self.adapter_path.is_none() || same(&output, &of),
            "--resume: wants a checkpoint of --adapter-path {}, got {}",
            output.display(),
            dir.display()
        );
        Ok((of, start))
    }

    /// The LoRA, for a model of `layers` layers whose modules are `modules`.
    pub fn lora(&self, layers: usize) -> anyhow::Result<PeftConfig> {
        let given = self.lora_parameters.clone().unwrap_or_default();
        let rank = self.rank.or(given.rank).unwrap_or(8);
        ensure!(rank > 0, "--rank: wants at least 1, got 0");
        let scale = match self.alpha {
            Some(alpha) => alpha / rank as f64,
            None => self.scale.or(given.scale).unwrap_or(20.0),
        };
        let dropout = self.dropout.or(given.dropout).unwrap_or(0.0);
        ensure!((0.0..1.0).contains(&dropout), "--dropout: wants at least 0 and below 1, got {dropout}");
        let target_modules = match (self.target_modules.as_deref(), given.keys) {
            (None, None) | (Some("all-linear"), _) => TargetModules::AllLinear,
            (None, Some(keys)) => TargetModules::Names(keys),
            (Some(names), _) if names.chars().all(|c| c.is_alphanumeric() || "_.,".contains(c)) => {
                TargetModules::Names(names.split(',').map(str::to_string).collect())
            }
            (Some(regex), _) => TargetModules::Regex(regex.to_string()),
        };
        let last = match self.num_layers.unwrap_or(16) {
            -1 => layers,
            n if n > 0 => (n as usize).min(layers),
            n => bail!("--num-layers: wants -1 or at least 1, got {n}"),
        };
        Ok(PeftConfig {
            base_model_name_or_path: self.model.clone(),
            r: rank,
            lora_alpha: scale * rank as f64,
            lora_dropout: dropout,
            target_modules,
            layers_to_transform: (last < layers).then(|| (layers - last..layers).collect()),
            use_dora: self.fine_tune_type == Some(FineTuneType::Dora),
            modules_to_save: self.modules_to_save(),
            ..PeftConfig::default()
        })
    }

    /// The modules that are trained whole beside the adapters.
    pub fn modules_to_save(&self) -> Vec<String> {
        match &self.lora_parameters {
            Some(LoraParameters { modules_to_save: Some(names), .. }) if self.modules_to_save.is_empty() => {
                names.clone()
            }
            _ => self.modules_to_save.clone(),
        }
    }

    /// Checks that an adapter that is trained on, on this model, is what is asked for.
    pub fn check_resumed(&self, adapter: &Adapter, model: &Model) -> anyhow::Result<()> {
        let Adapter { config, tensors, .. } = adapter;
        let kind = if config.use_dora { FineTuneType::Dora } else { FineTuneType::Lora };
        if let Some(wanted) = self.fine_tune_type.filter(|wanted| *wanted != kind) {
            bail!("--resume-adapter-file: wants a {} adapter, got {}", wanted.name(), kind.name());
        }
        let given = self.lora_parameters.clone().unwrap_or_default();
        let mut differ = Vec::new();
        // Over all modules: a pattern may give some of them another.
        let mut number = |flag: &str, wanted: Option<f64>, of: &dyn Fn(&str) -> crate::Result<f64>| {
            let Some(wanted) = wanted else { return Ok(()) };
            for module in tensors.keys() {
                let got = of(module)?;
                if (got - wanted).abs() > 1e-6 * wanted.abs() {
                    differ.push((format!("{flag} {wanted}"), format!("{flag} {got}")));
                    break;
                }
            }
            Ok::<_, crate::Error>(())
        };
        let scale = if self.alpha.is_some() { None } else { self.scale.or(given.scale) };
        number("--rank", self.rank.or(given.rank).map(|r| r as f64), &|m| Ok(config.rank(m)? as f64))?;
        number("--scale", scale, &|m| config.scale(m))?;
        let alpha = |m: &str| {
            let rank = config.rank(m)? as f64;
            Ok(config.scale(m)? * if config.use_rslora { rank.sqrt() } else { rank })
        };
        number("--alpha", self.alpha, &alpha)?;
        number("--dropout", self.dropout.or(given.dropout), &|_| Ok(config.lora_dropout))?;

        let layer = |path: &str| path.split('.').find_map(|part| part.parse::<usize>().ok());
        let layers: BTreeSet<_> = tensors.keys().map(|path| layer(path)).collect();
        let (count, asked) = (model.layers().len(), self.lora(model.layers().len())?);
        if let Some(wanted) = self.num_layers {
            let last = asked.layers_to_transform.clone().unwrap_or_else(|| (0..count).collect());
            if layers != last.into_iter().map(Some).collect() {
                differ
                    .push((format!("--num-layers {wanted}"), format!("{} of {count} layers", layers.len())));
            }
        }
        if let Some(wanted) = self.target_modules.clone().or(given.keys.map(|keys| keys.join(","))) {
            let everywhere = PeftConfig { layers_to_transform: None, ..asked };
            let mut chosen = BTreeSet::new();
            for (path, _) in model.linears() {
                if layers.contains(&layer(&path)) && everywhere.targets(&path)? {
                    chosen.insert(path);
                }
            }
            if !chosen.iter().eq(tensors.keys()) {
                let names: BTreeSet<&str> =
                    tensors.keys().filter_map(|path| path.rsplit('.').next()).collect();
                let names: Vec<&str> = names.into_iter().collect();
                differ.push((
                    format!("--target-modules {wanted}"),
                    format!("{} modules named {}", tensors.len(), names.join(",")),
                ));
            }
        }
        let (wanted, got): (Vec<String>, Vec<String>) = differ.into_iter().unzip();
        ensure!(
            wanted.is_empty(),
            "--resume-adapter-file: wants an adapter of {}, got {}: leave them out to train it as it is",
            wanted.join(", "),
            got.join(", ")
        );
        let (mut wanted, mut saved) = (self.modules_to_save(), config.modules_to_save.clone());
        wanted.sort();
        saved.sort();
        ensure!(
            wanted.is_empty() || wanted == saved,
            "--resume-adapter-file: wants an adapter that saves {}, got {}",
            wanted.join(", "),
            if saved.is_empty() { "none that saves a module".to_string() } else { saved.join(", ") }
        );
        Ok(())
    }

    /// The learning rate by step.
    pub fn schedule(&self, iters: usize) -> anyhow::Result<Schedule> {
        if let Some(schedule) = &self.lr_schedule {
            let flags = self.learning_rate.is_some() || self.schedule.is_some() || self.warmup.is_some();
            ensure!(!flags, "lr_schedule: wants no learning rate, schedule or warm-up beside it, got one");
            return Ok(schedule.clone());
        }
        let shape = match self.schedule.unwrap_or(ScheduleName::Constant) {
            ScheduleName::Constant => Shape::Constant,
            ScheduleName::Linear => Shape::Linear,
            ScheduleName::Cosine => Shape::Cosine,
        };
        let lr = self.learning_rate.unwrap_or(1e-5);
        Ok(Schedule::over(shape, lr, 0.0, self.warmup.unwrap_or(0), iters)?)
    }

    /// The optimiser's constants.
    pub fn adamw(&self) -> AdamWConfig {
        let given = self.optimizer_config.clone().unwrap_or_default();
        let (mut config, decay) = match self.optimizer.unwrap_or_default() {
            Optimizer::Adamw => (given.adamw.unwrap_or_default(), None),
            Optimizer::Adam => (given.adam.unwrap_or_default(), Some(0.0)),
        };
        if let Some(decay) = self.weight_decay.or(decay) {
            config.weight_decay = decay;
        }
        config
    }

    /// Which tokens are trained.
    pub fn mask(&self) -> Mask {
        match self.train_on {
            Some(Trained::All) => Mask::None,
            Some(Trained::Last) => Mask::LastAssistant,
            Some(Trained::Assistant) => Mask::AllAssistant,
            None if self.mask_prompt => Mask::LastAssistant,
            None => Mask::None,
        }
    }

    /// The names of the data's fields.
    pub fn features(&self) -> Features {
        let names = Features::default();
        Features {
            prompt: self.prompt_feature.clone().unwrap_or(names.prompt),
            completion: self.completion_feature.clone().unwrap_or(names.completion),
            chat: self.chat_feature.clone().unwrap_or(names.chat),
            text: self.text_feature.clone().unwrap_or(names.text),
        }
    }
}

/// A count of batches, where -1 is all of them.
pub fn batches(given: Option<i64>, default: Option<usize>, flag: &str) -> anyhow::Result<Option<usize>> {
    match given {
        None => Ok(default),
        Some(-1) => Ok(None),
        Some(n) if n >= 0 => Ok(Some(n as usize)),
        Some(n) => bail!("{flag}: wants -1 or at least 0, got {n}"),
    }
}
