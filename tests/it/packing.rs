//! Rows packed into sequences are trained on as they are apart.

use crate::fixture;
use crate::models::chosen;
use candle_core::DType;
use metal_candle::Result;
use metal_candle::load::adapter;
use metal_candle::models::Model;
use metal_candle::train::data::{Batch, Dataset, Row, Summary};
use metal_candle::train::step::{self, Gradients, StepOptions};
use rand::{Rng, SeedableRng};

/// Where LongRoPE's frequencies change in the fixture.
const ORIGINAL: usize = 16;

/// Rows of 2 to `longest` tokens, of which the second half is trained.
fn ragged(vocab: u32, rows: usize, longest: usize) -> Dataset {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let row = |line: usize| {
        let len = rng.random_range(2..=longest);
        let trained = std::iter::once((len / 2).max(1)..len).collect();
        Row { tokens: (0..len).map(|_| rng.random_range(0..vocab)).collect(), trained, line }
    };
    let rows = (1..=rows).map(row).collect();
    Dataset { rows, summary: Summary { max_seq_length: 64, ..Summary::default() }, path: "rows".into() }
}

#[test]
fn packed_rows_have_the_losses_and_gradients_of_separate_ones() -> Result<()> {
    for name in chosen() {
        let dir = fixture(&format!("models/{name}"));
        let mut model = Model::from_dir(&dir, DType::F32, &crate::device())?;
        model.load_lora(&adapter::read(&dir.join("adapter"))?)?;
        let vars = model.trainable();
        // LongRoPE's frequencies follow from the longest row of a batch, packed or not: here all are short.
        let longest = if name == "phi3_longrope" { ORIGINAL } else { 40 };
        let data = ragged(model.config.vocab_size as u32, 11, longest);
        let all = data.rows.iter().map(Row::target_tokens).sum::<usize>() as f64;
        // The mean over all targets, of batches that are weighted by theirs.
        let of = |batches: Vec<Batch>| -> Result<(f64, Gradients)> {
            let (mut sum, mut gradients) = (0.0, Gradients::default());
            for batch in batches {
                let weight = batch.target_tokens as f64 / all;
                let options = StepOptions::default();
                sum += weight
                    * step::loss_and_gradients(&model, &vars, &batch, weight, options, &mut gradients)?
                        as f64;
            }
            Ok((sum, gradients))
        };
        let packed = data.packed(2, 3)?;
        let packed: Vec<_> = packed.clone().take(packed.per_epoch()).collect();
        assert!(packed.iter().map(|b| b.batch).sum::<usize>() < 8, "{name}: nothing was packed");
        let (separate_loss, separate) = of(data.in_order(1).collect())?;
        let (packed_loss, together) = of(packed.clone())?;
        assert!(
            (separate_loss - packed_loss).abs() < 2e-6 * separate_loss,
            "{name}: {separate_loss} {packed_loss}"
        );
        for (path, var) in &vars {
            let (apart, together) = (separate.get(var).unwrap(), together.get(var).unwrap());
            let largest = apart.abs()?.max_all()?.to_scalar::<f32>()?;
            let differs = (apart - together)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(differs <= 2e-5 * largest, "{name}: {path}: {differs} of {largest}");
        }
        // Were rows to see each other, it would show.
        let crossing = packed.into_iter().map(|batch| Batch { documents: None, ..batch });
        assert!((of(crossing.collect())?.0 - separate_loss).abs() > 1e-3, "{name}");
    }
    Ok(())
}
