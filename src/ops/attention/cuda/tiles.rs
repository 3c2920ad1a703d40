//! The tiles of attention on a CUDA GPU: what fits into a group's memory. The sizes are measured: `docs/log.md`.

/// How a kernel over matrix units divides its work: the constants of its header.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    /// Tiles of 16 rows that a warp has.
    mi: usize,
    pub(super) warps: usize,
    /// Rows in a tile that streams by.
    pub(super) bn: usize,
    /// Which own operands are held in registers.
    held: usize,
    /// Blocks in a multiprocessor.
    blocks: usize,
    /// Warps that share their rows.
    pub(super) columns: usize,
}

const fn tiles(mi: usize, warps: usize, bn: usize, held: usize, blocks: usize, columns: usize) -> Tiles {
    Tiles { mi, warps, bn, held, blocks, columns }
}

impl Tiles {
    /// Of forward, for heads of `d` in shared memory.
    pub(super) fn forward(d: usize, limit: usize) -> Self {
        let best = match d {
            0..=64 => tiles(2, 4, 64, 1, 2, 1),
            65..=128 => tiles(2, 4, 64, 0, 2, 1),
            _ => tiles(1, 4, 64, 0, 2, 1),
        };
        best.within(limit, |t| t.forward_shared(d))
    }

    pub(super) fn dkdv(d: usize, limit: usize) -> Self {
        let best = match d {
            0..=64 => tiles(2, 4, 32, 0, 2, 1),
            65..=128 if d.is_multiple_of(32) => tiles(2, 8, 64, 0, 1, 2),
            65..=128 => tiles(1, 8, 64, 0, 1, 1),
            _ if d.is_multiple_of(64) => tiles(2, 8, 64, 0, 1, 4),
            _ => tiles(1, 8, 32, 0, 1, 1),
        };
        let best = best.within(limit, |t| t.dkdv_shared(d));
        match best.dkdv_shared(d) <= limit {
            true => best,
            // Warps that share keys have less room to shrink.
            false => tiles(1, 8, 32, 0, 1, 1).within(limit, |t| t.dkdv_shared(d)),
        }
    }

    pub(super) fn dq(d: usize, limit: usize) -> Self {
        let best = match d {
            0..=64 => tiles(1, 4, 32, 3, 4, 1),
            65..=128 => tiles(2, 4, 32, 0, 2, 1),
            _ => tiles(1, 8, 32, 1, 1, 1),
        };
        best.within(limit, |t| t.backward_shared(d))
    }

    /// Smaller tiles, until a group's memory holds them.
    fn within(mut self, limit: usize, shared: impl Fn(&Self) -> usize) -> Self {
        while shared(&self) > limit {
            if self.bn > 16 * self.columns {
                self.bn /= 2;
            } else if self.warps > self.columns {
                self.warps /= 2;
            } else {
                break;
            }
        }
        self
    }

    /// Rows that a block has of its own.
    pub(super) fn rows(&self) -> usize {
        16 * self.mi * self.warps / self.columns
    }

    pub(super) fn forward_shared(&self, d: usize) -> usize {
        (self.rows() + 2 * self.bn) * (d + 8) * 2
    }

    pub(super) fn backward_shared(&self, d: usize) -> usize {
        let own = if self.held == 3 && self.rows() <= 2 * self.bn { 0 } else { 2 * self.rows() };
        (own + 4 * self.bn) * (d + 8) * 2
    }

    pub(super) fn dkdv_shared(&self, d: usize) -> usize {
        let weights = if self.columns > 1 { 2 * self.rows() * (self.bn + 8) * 2 } else { 0 };
        self.backward_shared(d) + weights + 2 * self.bn * 24
    }

    pub(super) fn defines(&self) -> [(&'static str, i64); 6] {
        [
            ("MI", self.mi as i64),
            ("WARPS", self.warps as i64),
            ("BN", self.bn as i64),
            ("HELD", self.held as i64),
            ("BLOCKS", self.blocks as i64),
            ("COLUMNS", self.columns as i64),
        ]
    }
}
