//! The keys and values of the tokens a model has read, so that each is computed once.
//!
//! A layer's cache is a preallocated (B, capacity, heads, dim) pair that is written in place. It doubles when it
//! is full; what it holds is not copied otherwise.

use candle_core::{Result, Tensor, bail};

use crate::ops::kv_append::{kv_append, kv_append_at};
#[cfg(feature = "cuda")]
use crate::ops::turn_append::{Place, turn_append};

/// Capacity is a multiple of this many positions.
const CHUNK: usize = 64;

/// The caches of all layers of a model, for one batch.
#[derive(Debug, Default)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    len: usize,
    starts: Vec<usize>,
    /// The ids read, by row: kept for models whose frequencies depend on the length.
    pub(crate) tokens: Vec<Vec<u32>>,
    /// Which of the model's frequencies the keys were rotated with.
    pub(crate) regime: usize,
    /// The pass over the next token.
    #[cfg(feature = "cuda")]
    pub(crate) replay: Option<super::Replay>,
}

/// The cache of one layer.
#[derive(Debug, Default, Clone)]
pub struct LayerCache {
    k: Option<Tensor>,
    v: Option<Tensor>,
}

impl KvCache {
    /// An empty cache of `layers` layers for `starts.len()` rows. Row `i` begins at index `starts[i]`: it is
    /// padded on the left with as many tokens, which are never attended to.
    pub fn new(layers: usize, starts: &[usize]) -> Self {
        let (starts, tokens) = (starts.to_vec(), vec![Vec::new(); starts.len()]);
        KvCache { layers: vec![LayerCache::default(); layers], starts, tokens, ..KvCache::default() }
    }

    /// A cache of one row that holds these keys and values, (1, len, heads, dim) for each layer.
    ///
    /// # Errors
    ///
    /// When there is no layer, or the lengths differ.
    pub fn of_row(layers: Vec<(Tensor, Tensor)>, tokens: Vec<u32>) -> Result<Self> {
        let len = tokens.len();
        for tensor in layers.iter().flat_map(|(k, v)| [k, v]) {
            let (rows, positions, ..) = tensor.dims4()?;
            if (rows, positions) != (1, len) {
                bail!("kv cache: wants 1 row of {len} positions, got {rows} of {positions}")
            }
        }
        let layers = layers.into_iter().map(|(k, v)| LayerCache { k: Some(k), v: Some(v) }).collect();
        Ok(KvCache { layers, len, starts: vec![0], tokens: vec![tokens], ..KvCache::default() })
    }

    /// The keys and values that each layer holds, (B, len, heads, dim), as views; none before the first token.
    ///
    /// # Errors
    ///
    /// None that a caller causes.
    pub fn tensors(&self) -> Result<Vec<(Tensor, Tensor)>> {
        let held = |tensor: &Tensor| tensor.narrow(1, 0, self.len);
        let both = |layer: &LayerCache| Some((layer.k.as_ref()?.clone(), layer.v.as_ref()?.clone()));
        self.layers.iter().filter_map(both).map(|(k, v)| Ok((held(&k)?, held(&v)?))).collect()
    }

    /// How many positions it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where each row begins: the number of padding tokens on its left.
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// Forgets all positions from `len` on. A longer `len` changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.tokens.iter_mut().for_each(|row| row.truncate(len));
    }

    /// Drops the rows whose index is not in `rows`.
    ///
    /// # Errors
    ///
    /// When an index is not a row's.
    pub fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        if let Some(row) = rows.iter().find(|&&row| row >= self.starts.len()) {
            bail!("kv cache: wants rows below {}, got {row}", self.starts.len())
        }
        for layer in &mut self.layers {
            layer.keep_rows(rows)?;
        }
        self.starts = rows.iter().map(|&row| self.starts[row]).collect();
        self.tokens = rows.iter().map(|&row| std::mem::take(&mut self.tokens[row])).collect();
        Ok(())
    }

    /// The caches of the layers, in order.
    pub fn layers_mut(&mut self) -> &mut [LayerCache] {
        &mut self.layers
    }

    /// Makes room for `len` positions in every layer, and tells for how many there is.
    #[cfg(feature = "cuda")]
    pub(crate) fn make_room(&mut self, len: usize) -> Result<usize> {
        let at = self.len;
        let mut capacity = usize::MAX;
        for layer in &mut self.layers {
            for buffer in [&mut layer.k, &mut layer.v] {
                let Some(held) = buffer else { bail!("kv cache: wants keys and values, got none") };
                if held.dim(1)? < len {
                    *held = larger(held, at, len)?;
                }
                capacity = capacity.min(held.dim(1)?);
            }
        }
        Ok(capacity)
    }

    /// The memory of all layers.
    #[cfg(feature = "cuda")]
    pub(crate) fn buffers(&self) -> impl Iterator<Item = &Tensor> {
        self.layers.iter().flat_map(|layer| [&layer.k, &layer.v]).flatten()
    }

    /// Makes the `count` positions that the layers have appended part of the cache.
    pub fn advance(&mut self, count: usize) {
        self.len += count;
    }
}

impl LayerCache {
    /// Writes keys and values (B, T, heads, dim) at position `at`, and returns all `at + T`, as views.
    ///
    /// # Errors
    ///
    /// When a shape or dtype is not that of what the cache holds.
    pub fn append(&mut self, k: &Tensor, v: &Tensor, at: usize) -> Result<(Tensor, Tensor)> {
        let total = at + k.dim(1)?;
        let (keys, values) = (reserve(&mut self.k, k, at)?, reserve(&mut self.v, v, at)?);
        kv_append(&k.detach(), &v.detach(), &keys, &values, at)?;
        Ok((keys.narrow(1, 0, total)?, values.narrow(1, 0, total)?))
    }

    /// As [`LayerCache::append`] for one token a row, after the keys of the ranges (B, 2): all the memory, whose valid
    /// part the ranges tell.
    pub(super) fn append_at(&mut self, k: &Tensor, v: &Tensor, ranges: &Tensor) -> Result<(Tensor, Tensor)> {
        let (Some(keys), Some(values)) = (&self.k, &self.v) else {
            bail!("kv cache: wants room for a token, got none")
        };
        kv_append_at(&k.detach(), &v.detach(), keys, values, ranges)?;
        Ok((keys.clone(), values.clone()))
    }

    /// As [`LayerCache::append`] of one token a row, out of `qkv`, whose queries are turned in place: in one launch. `of` is the
    /// shape of its keys, `next` what is read soon after. None where there is none.
    #[cfg(feature = "cuda")]
    pub(super) fn append_turned(
        &mut self,
        qkv: &Tensor,
        of: &Tensor,
        tables: [&Tensor; 2],
        norms: Option<[(&Tensor, f32); 2]>,
        place: Place<'_>,
        next: &Tensor,
    ) -> Result<Option<(Tensor, Tensor)>> {
        let (keys, values) = match place {
            Place::At(at) => (reserve(&mut self.k, of, at)?, reserve(&mut self.v, of, at)?),
            Place::Ends(_) => match (&self.k, &self.v) {
                (Some(keys), Some(values)) => (keys.clone(), values.clone()),
                _ => bail!("kv cache: wants room for a token, got none"),
            },
        };
        if !turn_append(qkv, tables, norms, [&keys, &values], place, Some(next))? {
            return Ok(None);
        }
        Ok(Some(match place {
            Place::At(at) => (keys.narrow(1, 0, at + 1)?, values.narrow(1, 0, at + 1)?),
            Place::Ends(_) => (keys, values),
        }))
    }

    fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        for buffer in [&mut self.k, &mut self.v].into_iter().flatten() {
            let kept = rows.iter().map(|&row| buffer.narrow(0, row, 1)).collect::<Result<Vec<_>>>()?;
            *buffer = Tensor::cat(&kept, 0)?;
        }
        Ok(())
    }
}

/// The buffer, with room for `x` at position `at`.
fn reserve(buffer: &mut Option<Tensor>, x: &Tensor, at: usize) -> Result<Tensor> {
    let (batch, len, heads, dim) = x.dims4()?;
    let capacity = buffer.as_ref().map_or(Ok(0), |buffer| buffer.dim(1))?;
    match buffer {
        Some(buffer) if at + len <= capacity => Ok(buffer.clone()),
        Some(held) => {
            *held = larger(held, at, at + len)?;
            Ok(held.clone())
        }
        None => {
            let room = (at + len).next_multiple_of(CHUNK);
            Ok(buffer.insert(Tensor::zeros((batch, room, heads, dim), x.dtype(), x.device())?).clone())
        }
    }
}

/// A buffer of twice the room, or of `len` positions if that is more, with the first `at` of `held`.
fn larger(held: &Tensor, at: usize, len: usize) -> Result<Tensor> {
    let (batch, capacity, heads, dim) = held.dims4()?;
    let room = len.max(2 * capacity).next_multiple_of(CHUNK);
    let larger = Tensor::zeros((batch, room, heads, dim), held.dtype(), held.device())?;
    if at > 0 {
        larger.slice_set(&held.narrow(1, 0, at)?.contiguous()?, 1, 0)?;
    }
    Ok(larger)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn positions(from: usize, to: usize) -> Tensor {
        let row = |r: usize| (from..to).flat_map(move |t| [(100 * r + t) as f32; 6]);
        let data: Vec<f32> = row(0).chain(row(1)).chain(row(2)).collect();
        Tensor::from_vec(data, (3, to - from, 2, 3), &Device::Cpu).unwrap()
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn appending_growing_and_rewinding_hold_what_was_written_last() {
        let mut cache = LayerCache::default();
        let mut at = 0;
        for to in [1, 2, 63, 64, 65, 200] {
            let x = positions(at, to);
            let (k, v) = cache.append(&x, &(&x * 2.).unwrap(), at).unwrap();
            assert_eq!(values(&k), values(&positions(0, to)));
            assert_eq!(values(&v), values(&(positions(0, to) * 2.).unwrap()));
            at = to;
        }
        let (k, _) = cache.append(&positions(7, 9), &positions(7, 9), 7).unwrap();
        assert_eq!(values(&k), values(&positions(0, 9)));
    }

    #[test]
    fn dropped_rows_leave_the_others_as_they_were() {
        let mut cache = KvCache::new(1, &[0, 2, 1]);
        cache.layers_mut()[0].append(&positions(0, 5), &positions(0, 5), 0).unwrap();
        cache.advance(5);
        assert!(cache.keep_rows(&[3]).is_err());
        cache.keep_rows(&[0, 2]).unwrap();
        assert_eq!((cache.len(), cache.starts()), (5, &[0, 1][..]));
        let next = positions(5, 6).index_select(&Tensor::new(&[0u32, 2], &Device::Cpu).unwrap(), 0).unwrap();
        let (k, _) = cache.layers_mut()[0].append(&next, &next, 5).unwrap();
        let expected =
            positions(0, 6).index_select(&Tensor::new(&[0u32, 2], &Device::Cpu).unwrap(), 0).unwrap();
        assert_eq!(values(&k), values(&expected));
    }
}
