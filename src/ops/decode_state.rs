//! What changes from token to token in decoding, in a GPU's memory: for each row its id, its range of keys, its position.

use crate::kernels::Held;
use crate::kernels::gpu::{self, Arg, Launch, Unit, unit};
use bytemuck::NoUninit;
use candle_core::{DType, Device, Result, Tensor, bail};

static UNIT: Unit = unit!("decode_state.h");

/// The state of decoding.
#[derive(Debug)]
pub(crate) struct DecodeState {
    /// Ids (B), ranges of keys (B, 2), positions (B).
    words: Tensor,
    rows: usize,
    /// Where the rows start and how many keys were there before this token, as the GPU has them.
    known: Option<(Vec<usize>, usize)>,
}

impl DecodeState {
    /// A state of `rows` rows.
    pub fn new(rows: usize, device: &Device) -> Result<Self> {
        Ok(DecodeState { words: Tensor::zeros(4 * rows, DType::U32, device)?, rows, known: None })
    }

    /// The state before the token that follows `len` others. Rows begin at `starts`.
    pub fn set(&mut self, ids: &Tensor, starts: &[usize], len: usize) -> Result<()> {
        if self.known.as_ref().is_none_or(|(known, at)| known != starts || *at != len) {
            let ranges = starts.iter().flat_map(|start| [*start as u32, len as u32 + 1]);
            let positions = starts.iter().map(|start| len.saturating_sub(*start) as u32);
            let words: Vec<u32> = ranges.chain(positions).collect();
            let words = Tensor::from_vec(words, 3 * self.rows, self.words.device())?;
            self.words.slice_set(&words, 0, self.rows)?;
            self.known = Some((starts.to_vec(), len));
        }
        self.words.slice_set(&ids.flatten_all()?.to_dtype(DType::U32)?.to_device(self.words.device())?, 0, 0)
    }

    /// What the GPU has is not what is to come.
    pub fn forget(&mut self) {
        self.known = None;
    }

    /// The GPU has counted up.
    pub fn advanced(&mut self) {
        if let Some((_, len)) = &mut self.known {
            *len += 1;
        }
    }

    /// Ids, (B, 1).
    pub fn ids(&self) -> Result<Tensor> {
        self.words.narrow(0, 0, self.rows)?.reshape((self.rows, 1))
    }

    /// Each row's first key and the one after the last, (B, 2).
    pub fn ranges(&self) -> Result<Tensor> {
        self.words.narrow(0, self.rows, 2 * self.rows)?.reshape((self.rows, 2))
    }

    /// The rows' positions, (B, 1).
    pub fn positions(&self) -> Result<Tensor> {
        self.words.narrow(0, 3 * self.rows, self.rows)?.reshape((self.rows, 1))
    }
}

/// Counts up.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    rows: u32,
}

/// Counts keys and positions up, on the GPU.
pub(crate) fn advance(state: &DecodeState) -> Result<()> {
    const THREADS: usize = 64;
    let launch = Launch {
        unit: &UNIT,
        entry: "decode_advance",
        types: &[],
        defines: &[],
        groups: [state.rows.div_ceil(THREADS), 1, 1],
        threads: THREADS,
        shared: 0,
    };
    let params = Params { rows: state.rows as u32 };
    let on_gpu = gpu::on(&state.words, |gpu| {
        gpu.launch(&launch, &mut [Arg::Update(Held::new(&state.words).input("decode"))], &params)
    });
    on_gpu.unwrap_or_else(|| bail!("decode: wants a GPU"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On `METAL_CANDLE_TEST_DEVICE`, or by the host's kernels.
    #[test]
    fn keys_and_positions_are_counted_up_and_set_where_they_are_others() -> Result<()> {
        let device =
            crate::device::named(&std::env::var("METAL_CANDLE_TEST_DEVICE").unwrap_or("cpu".into()))?;
        let mut state = DecodeState::new(3, &device)?;
        if gpu::on(&state.words, |_| Ok(())).is_none() {
            return Ok(());
        }
        let ids = |ids: [u32; 3]| Tensor::new(&ids, &device)?.reshape((3, 1));
        let starts = [0, 2, 5];
        state.set(&ids([7, 8, 9])?, &starts, 5)?;
        assert_eq!(state.words.to_vec1::<u32>()?, [7, 8, 9, 0, 6, 2, 6, 5, 6, 5, 3, 0]);
        advance(&state)?;
        state.advanced();
        state.set(&ids([1, 2, 3])?, &starts, 6)?;
        assert_eq!(state.words.to_vec1::<u32>()?, [1, 2, 3, 0, 7, 2, 7, 5, 7, 6, 4, 1]);
        state.set(&ids([1, 2, 3])?, &starts, 5)?;
        assert_eq!(state.ranges()?.to_vec2::<u32>()?, [[0, 6], [2, 6], [5, 6]]);
        assert_eq!(state.positions()?.flatten_all()?.to_vec1::<u32>()?, [5, 3, 0]);
        advance(&state)?;
        state.forget();
        state.set(&ids([4, 5, 6])?, &starts, 5)?;
        assert_eq!(state.ids()?.flatten_all()?.to_vec1::<u32>()?, [4, 5, 6]);
        assert_eq!(state.ranges()?.to_vec2::<u32>()?, [[0, 6], [2, 6], [5, 6]]);
        Ok(())
    }
}
