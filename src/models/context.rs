//! What the layers share in one pass over a batch: where tokens are, what they may see, how the pass runs.

use candle_core::{Result, bail};

use crate::nn::{Pass, Rope, Rotation};
use crate::ops::Keys;

/// What every layer needs to know of a batch.
#[derive(Debug, Clone)]
pub struct Context {
    pub(super) rotations: Vec<Rotation>,
    /// Which keys the queries may see, beside causality and windows.
    pub keys: Keys,
    /// How the pass runs.
    pub pass: Pass,
}

/// The positions of a batch of (rows, len) tokens that follow `at` cached ones.
pub(super) struct Positions {
    rows: usize,
    first: usize,
    len: usize,
    /// Where rows differ: the position of each token.
    each: Option<Vec<u32>>,
    /// The length of the longest sequence.
    pub total: usize,
}

impl Positions {
    /// A token's position is its distance from the first key of its row or document.
    pub fn new(rows: usize, at: usize, len: usize, keys: &Keys) -> Result<Self> {
        let end = at + len;
        let plain = |total| Positions { rows, first: at, len, each: None, total };
        let from = |row_start: usize, t: usize| t.saturating_sub(row_start) as u32;
        match keys {
            Keys::All => Ok(plain(end)),
            Keys::Rows(ranges) => {
                if ranges.len() != rows {
                    bail!("keys: wants a range for each of {rows} rows, got {}", ranges.len())
                }
                let longest = ranges.iter().map(|&(start, stop)| stop.saturating_sub(start)).max();
                let total = longest.map_or(end, |longest| (longest as usize).min(end));
                if ranges.iter().all(|&(start, _)| start == 0) {
                    return Ok(plain(total));
                }
                let row = |&(start, _): &(u32, u32)| (at..end).map(move |t| from(start as usize, t));
                let each = ranges.iter().flat_map(row).collect();
                Ok(Positions { each: Some(each), ..plain(total) })
            }
            Keys::OnDevice(_) => bail!("keys: wants them on the host, got them on the device"),
            Keys::Documents(firsts) => {
                if firsts.len() != rows * end {
                    bail!(
                        "keys: wants a first key for each of {rows} x {end} positions, got {}",
                        firsts.len()
                    )
                }
                let row = |row: &[u32]| (at..end).map(|t| from(row[t] as usize, t)).collect::<Vec<_>>();
                let each: Vec<u32> = firsts.chunks(end.max(1)).flat_map(row).collect();
                let total = each.iter().max().map_or(0, |&last| last as usize + 1);
                Ok(Positions { each: Some(each), ..plain(total) })
            }
        }
    }

    /// The rotation of these positions.
    pub fn rotation(&self, rope: &Rope) -> Result<Rotation> {
        match &self.each {
            Some(each) => rope.at(each, self.rows, self.total),
            None => rope.range(self.first, self.len, self.total),
        }
    }
}
