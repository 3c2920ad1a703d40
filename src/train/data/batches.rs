//! Batches: rows of similar length together, or several in one sequence, padded on the right, in an order that
//! (seed, epoch) fixes.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use std::sync::Arc;

use super::pack::first_fit;
use super::{Dataset, Row};
use crate::ops::Keys;
use crate::{Error, Result};

/// The target of a position that is not trained.
pub const IGNORED: i64 = -100;

/// The length of a batch is a multiple of this, where the longest row allowed leaves room.
const PAD_TO: usize = 8;

/// A batch of B sequences of T positions, padded on the right. A sequence is one row, or several packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// (B, T) row-major; 0 where padded.
    pub input_ids: Vec<u32>,
    /// (B, T) row-major: the token after each input, or [`IGNORED`].
    pub targets: Vec<i64>,
    /// (B): the positions of each sequence that are not padding.
    pub lengths: Vec<usize>,
    /// B.
    pub batch: usize,
    /// T.
    pub seq_len: usize,
    /// The index of each row in its dataset; B of them, or more if they are packed.
    pub rows: Vec<usize>,
    /// The positions that are not padding.
    pub tokens: usize,
    /// The positions that are trained; at least one for each row.
    pub target_tokens: usize,
    /// (B, T) row-major where rows are packed: the first position of the row that a position is of, in its
    /// sequence. A padded position is its own.
    pub documents: Option<Arc<[u32]>>,
}

impl Batch {
    /// Sequences of `len` tokens without padding, one after the other: the last position of each has no target.
    pub fn full(input_ids: Vec<u32>, len: usize) -> Batch {
        let rows = input_ids.len() / len.max(1);
        let target = |i: usize| match (i + 1).is_multiple_of(len) {
            true => IGNORED,
            false => i64::from(input_ids[i + 1]),
        };
        Batch {
            targets: (0..rows * len).map(target).collect(),
            lengths: vec![len; rows],
            batch: rows,
            seq_len: len,
            rows: (0..rows).collect(),
            tokens: rows * len,
            target_tokens: rows * len.saturating_sub(1),
            documents: None,
            input_ids,
        }
    }

    fn new(dataset: &Dataset, sequences: &[Vec<usize>], packed: bool) -> Batch {
        let lengths: Vec<usize> = sequences.iter().map(|rows| positions(dataset, rows)).collect();
        let seq_len = seq_len(dataset, &lengths);
        let mut input_ids = vec![0; sequences.len() * seq_len];
        let mut targets = vec![IGNORED; sequences.len() * seq_len];
        let mut documents: Vec<u32> =
            if packed { (0..sequences.len()).flat_map(|_| 0..seq_len as u32).collect() } else { Vec::new() };
        let mut target_tokens = 0;
        for (b, rows) in sequences.iter().enumerate() {
            let mut at = b * seq_len;
            for &i in rows {
                let row @ Row { tokens, trained, .. } = &dataset.rows[i];
                let len = row.positions();
                input_ids[at..at + len].copy_from_slice(&tokens[..len]);
                for token in trained.iter().cloned().flatten() {
                    // Token t is predicted at position t - 1.
                    targets[at + token - 1] = i64::from(tokens[token]);
                    target_tokens += 1;
                }
                if packed {
                    documents[at..at + len].fill((at - b * seq_len) as u32);
                }
                at += len;
            }
        }
        let tokens = lengths.iter().sum();
        Batch {
            input_ids,
            targets,
            lengths,
            batch: sequences.len(),
            seq_len,
            rows: sequences.concat(),
            tokens,
            target_tokens,
            documents: packed.then(|| documents.into()),
        }
    }

    /// What its positions may attend to, beside causality: those of their own row.
    pub fn keys(&self) -> Keys {
        match &self.documents {
            Some(documents) => Keys::Documents(documents.clone()),
            // Padding is on the right, where causality hides it.
            None => Keys::All,
        }
    }
}

/// The positions of a sequence of rows.
fn positions(dataset: &Dataset, rows: &[usize]) -> usize {
    rows.iter().map(|&i| dataset.rows[i].positions()).sum()
}

/// T of a batch of sequences of these lengths.
fn seq_len(dataset: &Dataset, lengths: &[usize]) -> usize {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    longest.next_multiple_of(PAD_TO).min(dataset.summary.max_seq_length.max(longest))
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
///
/// Packed, the shuffled rows are first put into sequences of at most `max_seq_length` positions, each into the first
/// that has room, and the sequences are then batched as rows are.
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    dataset: &'a Dataset,
    batch_size: usize,
    packed: bool,
    seed: u64,
    cursor: Cursor,
    /// The sequences of rows of each batch of the cursor's epoch.
    epoch: Vec<Vec<Vec<usize>>>,
}

impl<'a> Batches<'a> {
    /// Starts at epoch 0.
    ///
    /// # Errors
    ///
    /// A batch size of 0, or fewer rows than one batch.
    pub fn new(dataset: &'a Dataset, batch_size: usize, seed: u64) -> Result<Self> {
        if batch_size == 0 || dataset.len() < batch_size {
            let wants = format!("from 1 to {}, the number of rows to train on", dataset.len());
            return Err(Error::wants("batch size", wants, batch_size.to_string()));
        }
        Ok(Self::start(dataset, batch_size, seed, false))
    }

    /// Batches of `batch_size` sequences that hold several rows each, or of all if there are fewer. Starts at
    /// epoch 0.
    ///
    /// # Errors
    ///
    /// A batch size of 0, or no rows.
    pub fn packed(dataset: &'a Dataset, batch_size: usize, seed: u64) -> Result<Self> {
        if batch_size == 0 || dataset.is_empty() {
            let got = format!("{batch_size} of {} rows", dataset.len());
            return Err(Error::wants("batch size", "at least 1 sequence of at least 1 row", got));
        }
        Ok(Self::start(dataset, batch_size, seed, true))
    }

    fn start(dataset: &'a Dataset, batch_size: usize, seed: u64, packed: bool) -> Self {
        let cursor = Cursor::default();
        let mut batches = Batches { dataset, batch_size, packed, seed, cursor, epoch: Vec::new() };
        batches.epoch = batches.plan(0);
        batches
    }

    /// How many batches the epoch has; packed, another may have more or fewer.
    pub fn per_epoch(&self) -> usize {
        self.epoch.len()
    }

    /// How many sequences the epoch has: its rows, or fewer where they are packed.
    pub fn sequences(&self) -> usize {
        self.epoch.iter().map(Vec::len).sum()
    }

    /// The positions that the epoch's batches compute: all of them, and those that are padding.
    pub fn positions(&self) -> (usize, usize) {
        self.epoch.iter().fold((0, 0), |(all, padding), batch| {
            let lengths: Vec<usize> = batch.iter().map(|rows| positions(self.dataset, rows)).collect();
            let computed = batch.len() * seq_len(self.dataset, &lengths);
            (all + computed, padding + computed - lengths.iter().sum::<usize>())
        })
    }

    /// The largest batch of the epoch, as (sequences, positions of each).
    pub fn largest(&self) -> (usize, usize) {
        let lengths = |batch: &Vec<Vec<usize>>| -> Vec<usize> {
            batch.iter().map(|rows| positions(self.dataset, rows)).collect()
        };
        let shapes = self.epoch.iter().map(|batch| (batch.len(), seq_len(self.dataset, &lengths(batch))));
        shapes.max_by_key(|(rows, len)| rows * len).unwrap_or((0, 0))
    }

    /// The place of the batch that comes next.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Goes on at a saved place.
    ///
    /// # Errors
    ///
    /// A batch that the epoch does not have, so that the place was saved with other rows or another batch size.
    pub fn seek(&mut self, cursor: Cursor) -> Result<()> {
        let epoch = self.plan(cursor.epoch);
        if cursor.index > epoch.len() {
            let wants = format!("a batch of the {} in an epoch", epoch.len());
            return Err(Error::wants("saved place in the data", wants, cursor.index.to_string()));
        }
        self.epoch = epoch;
        self.cursor = cursor;
        Ok(())
    }

    fn plan(&self, epoch: u64) -> Vec<Vec<Vec<usize>>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(epoch);
        let mut order: Vec<usize> = (0..self.dataset.len()).collect();
        order.shuffle(&mut rng);
        let mut sequences: Vec<Vec<usize>> = match self.packed {
            true => {
                // A row is cut to this many tokens, of which it takes one position less.
                let positions = |i: usize| self.dataset.rows[i].positions();
                let longest = order.iter().map(|&i| positions(i)).max().unwrap_or(0);
                first_fit(&order, positions, self.dataset.summary.max_seq_length.max(longest))
            }
            false => order.into_iter().map(|i| vec![i]).collect(),
        };
        sequences.sort_by_key(|rows| positions(self.dataset, rows).div_ceil(PAD_TO));
        let mut batches: Vec<Vec<Vec<usize>>> =
            sequences.chunks(self.batch_size).map(<[Vec<usize>]>::to_vec).collect();
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
        let batch = Batch::new(self.dataset, &self.epoch[self.cursor.index], self.packed);
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
        let rows: Vec<Vec<usize>> =
            (self.next..self.dataset.len()).take(self.batch_size).map(|i| vec![i]).collect();
        self.next += rows.len();
        (!rows.is_empty()).then(|| Batch::new(self.dataset, &rows, false))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.dataset.len() - self.next).div_ceil(self.batch_size);
        (left, Some(left))
    }
}

impl ExactSizeIterator for InOrder<'_> {}
