//! Batches: rows of similar length together, padded on the right, in an order that (seed, epoch) fixes.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Dataset, Row};
use crate::{Error, Result};

/// The target of a position that is not trained.
pub const IGNORED: i64 = -100;

/// The length of a batch is a multiple of this, where the longest row allowed leaves room.
const PAD_TO: usize = 8;

/// A batch of B rows of T positions, padded on the right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// (B, T) row-major; 0 where padded.
    pub input_ids: Vec<u32>,
    /// (B, T) row-major: the token after each input, or [`IGNORED`].
    pub targets: Vec<i64>,
    /// (B): the positions of each row that are not padding.
    pub lengths: Vec<usize>,
    /// B.
    pub batch: usize,
    /// T.
    pub seq_len: usize,
    /// (B): the index of each row in its dataset.
    pub rows: Vec<usize>,
    /// The positions that are not padding.
    pub tokens: usize,
    /// The positions that are trained; at least B.
    pub target_tokens: usize,
}

impl Batch {
    fn new(dataset: &Dataset, rows: &[usize]) -> Batch {
        let lengths: Vec<usize> = rows.iter().map(|&i| dataset.rows[i].positions()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let seq_len = longest.next_multiple_of(PAD_TO).min(dataset.summary.max_seq_length.max(longest));
        let mut input_ids = vec![0; rows.len() * seq_len];
        let mut targets = vec![IGNORED; rows.len() * seq_len];
        let mut target_tokens = 0;
        for (b, &i) in rows.iter().enumerate() {
            let Row { tokens, trained, .. } = &dataset.rows[i];
            let at = b * seq_len;
            input_ids[at..at + lengths[b]].copy_from_slice(&tokens[..lengths[b]]);
            for token in trained.iter().cloned().flatten() {
                // Token t is predicted at position t - 1.
                targets[at + token - 1] = i64::from(tokens[token]);
                target_tokens += 1;
            }
        }
        let tokens = lengths.iter().sum();
        Batch {
            input_ids,
            targets,
            lengths,
            batch: rows.len(),
            seq_len,
            rows: rows.to_vec(),
            tokens,
            target_tokens,
        }
    }
}

/// A place between two training batches, to be saved with a checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// How often all rows have been seen.
    pub epoch: u64,
    /// The batch of that epoch that comes next.
    pub index: usize,
}

/// Endless training batches. Each epoch shows every row once: rows are shuffled, ordered by padded length, cut
/// into batches, and the batches shuffled. The last batch cut may be smaller (mlx-lm drops it, and with it the same
/// longest rows in every epoch). Only (dataset, batch size, seed, cursor) decide what comes.
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    dataset: &'a Dataset,
    batch_size: usize,
    seed: u64,
    cursor: Cursor,
    /// The rows of each batch of the cursor's epoch.
    epoch: Vec<Vec<usize>>,
}

impl<'a> Batches<'a> {
    /// Starts at epoch 0. Errors: a batch size of 0, or fewer rows than one batch.
    pub fn new(dataset: &'a Dataset, batch_size: usize, seed: u64) -> Result<Self> {
        if batch_size == 0 || dataset.len() < batch_size {
            let wants = format!("from 1 to {}, the number of rows to train on", dataset.len());
            return Err(Error::wants("batch size", wants, batch_size.to_string()));
        }
        let mut batches = Batches { dataset, batch_size, seed, cursor: Cursor::default(), epoch: Vec::new() };
        batches.epoch = batches.plan(0);
        Ok(batches)
    }

    /// How many batches an epoch has.
    pub fn per_epoch(&self) -> usize {
        self.epoch.len()
    }

    /// The place of the batch that comes next.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Goes on at a saved place. Error: a batch that the epoch does not have, so that the place was saved with
    /// other rows or another batch size.
    pub fn seek(&mut self, cursor: Cursor) -> Result<()> {
        if cursor.index > self.epoch.len() {
            let wants = format!("a batch of the {} in an epoch", self.epoch.len());
            return Err(Error::wants("saved place in the data", wants, cursor.index.to_string()));
        }
        self.epoch = self.plan(cursor.epoch);
        self.cursor = cursor;
        Ok(())
    }

    fn plan(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(epoch);
        let mut order: Vec<usize> = (0..self.dataset.len()).collect();
        order.shuffle(&mut rng);
        order.sort_by_key(|&i| self.dataset.rows[i].positions().div_ceil(PAD_TO));
        let mut batches: Vec<Vec<usize>> = order.chunks(self.batch_size).map(<[usize]>::to_vec).collect();
        batches.shuffle(&mut rng);
        batches
    }
}

impl Iterator for Batches<'_> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if self.cursor.index == self.epoch.len() {
            self.cursor = Cursor { epoch: self.cursor.epoch + 1, index: 0 };
            self.epoch = self.plan(self.cursor.epoch);
        }
        let batch = Batch::new(self.dataset, &self.epoch[self.cursor.index]);
        self.cursor.index += 1;
        Some(batch)
    }
}

/// Every row once, in file order.
#[derive(Debug, Clone)]
pub struct InOrder<'a> {
    dataset: &'a Dataset,
    batch_size: usize,
    next: usize,
}

impl<'a> InOrder<'a> {
    /// Batches of `batch_size` rows (at least one), the last perhaps smaller.
    pub fn new(dataset: &'a Dataset, batch_size: usize) -> Self {
        InOrder { dataset, batch_size: batch_size.max(1), next: 0 }
    }
}

impl Iterator for InOrder<'_> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let rows: Vec<usize> = (self.next..self.dataset.len()).take(self.batch_size).collect();
        self.next += rows.len();
        (!rows.is_empty()).then(|| Batch::new(self.dataset, &rows))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.dataset.len() - self.next).div_ceil(self.batch_size);
        (left, Some(left))
    }
}

impl ExactSizeIterator for InOrder<'_> {}
