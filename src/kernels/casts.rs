//! Copies of f32 variables in half precision, which products on a GPU want: one launch makes all of them at the beginning
//! of a step, and ops of that step find them.

use super::gpu::{self, Buffer, Gpu, Launch, Unit, unit};
use super::{Held, Input, Memory};
use bytemuck::NoUninit;
use candle_core::{DType, Layout, Result, Shape, Tensor};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

static UNIT: Unit = unit!("casts.h");

const NAME: &str = "casts";

thread_local! {
    static CASTS: RefCell<Option<Casts>> = const { RefCell::new(None) };
}

/// What ops of this thread find.
struct Casts {
    all: Arc<Buffer>,
    /// Where in `all` a variable's copy begins, by the variable's memory.
    places: HashMap<(usize, usize), usize>,
}

/// A copy, or several that lie one after the other.
#[derive(Clone)]
pub(crate) struct Copied {
    all: Arc<Buffer>,
    layout: Layout,
}

impl Copied {
    pub fn input(&self, op: &'static str) -> Input<'_> {
        Input { op, memory: Memory::of(&self.all.storage), layout: &self.layout }
    }
}

/// Variables to be copied, and where the copies go.
pub(crate) struct Table {
    /// Where each piece comes from, where it goes, and how long it is: on the GPU.
    pieces: Tensor,
    places: HashMap<(usize, usize), usize>,
    dtype: DType,
    len: usize,
}

impl Table {
    /// Of the `f32` ones among these, which must live as long. None without a GPU that can follow addresses, or where
    /// nothing is to be cast.
    pub fn new(vars: &[&Tensor], dtype: DType) -> Result<Option<Self>> {
        let vars: Vec<&Tensor> = vars.iter().copied().filter(|var| var.dtype() == DType::F32).collect();
        match vars.first() {
            Some(var) if dtype != DType::F32 => {
                Ok(gpu::on(var, |gpu| Self::on(gpu, &vars, dtype)).transpose()?.flatten())
            }
            _ => Ok(None),
        }
    }

    fn on(gpu: Gpu<'_>, vars: &[&Tensor], dtype: DType) -> Result<Option<Self>> {
        const PIECE: usize = 8192;
        let (mut pieces, mut places, mut at) = (Vec::new(), HashMap::new(), 0);
        for var in vars {
            let held = Held::new(var);
            let input = held.input(NAME);
            let Some(address) = gpu.address(&input)? else { return Ok(None) };
            input.contiguous()?;
            places.insert(place(&input), at);
            let len = var.elem_count();
            for start in (0..len).step_by(PIECE) {
                let piece = [address as usize + 4 * start, at + start, PIECE.min(len - start)];
                pieces.extend(piece.map(|n| n as i64));
            }
            at += len;
        }
        let pieces = Tensor::from_slice(&pieces, pieces.len(), vars[0].device())?;
        Ok(Some(Table { pieces, places, dtype, len: at }))
    }

    fn copies(&self) -> Result<Option<Casts>> {
        let made = gpu::on(&self.pieces, |gpu| {
            let mut all = Buffer::new(gpu, self.len, self.dtype)?;
            let launch = Launch {
                unit: &UNIT,
                entry: "cast_all",
                types: &[("T", self.dtype)],
                defines: &[],
                groups: [self.pieces.elem_count() / 3, 1, 1],
                threads: 256,
                shared: 0,
            };
            let held = Held::new(&self.pieces);
            gpu.launch(&launch, &mut [held.input(NAME).into(), (&mut all).into()], &Params { unused: 0 })?;
            Ok(Casts { all: Arc::new(all), places: self.places.clone() })
        });
        made.transpose()
    }
}

/// Runs `f` with copies of a table's variables, which must not change meanwhile.
pub(crate) fn during<R>(table: Option<&Table>, f: impl FnOnce() -> Result<R>) -> Result<R> {
    let made = table.map(Table::copies).transpose()?.flatten();
    /// Puts what was there before back, also when the code fails.
    struct Restore(Option<Casts>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CASTS.set(self.0.take());
        }
    }
    let _restore = Restore(CASTS.replace(made));
    f()
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    unused: u32,
}

/// What tells a tensor from others while both live.
fn place(x: &Input<'_>) -> (usize, usize) {
    let memory = match x.memory {
        Memory::Cpu(storage) => std::ptr::from_ref(storage) as usize,
        Memory::Cuda(storage) => std::ptr::from_ref(storage) as usize,
        Memory::Metal(storage) => std::ptr::from_ref(storage) as usize,
    };
    (memory, x.start_offset())
}

/// The copies in `dtype` of tensors that have one, if they lie one after the other: in `shape`.
pub(crate) fn find(tensors: &[Input<'_>], dtype: DType, shape: impl Into<Shape>) -> Option<Copied> {
    CASTS.with_borrow(|casts| {
        let casts = casts.as_ref().filter(|casts| casts.all.dtype() == dtype)?;
        let (mut first, mut end) = (None, 0);
        for x in tensors {
            let at = *casts.places.get(&place(x)).filter(|_| x.dtype() == DType::F32)?;
            if at != *first.get_or_insert(at) && at != end {
                return None;
            }
            end = at + x.shape().elem_count();
        }
        let layout = Layout::contiguous_with_offset(shape, first?);
        Some(Copied { all: casts.all.clone(), layout })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;

    /// On `METAL_CANDLE_TEST_DEVICE`, or by the host's kernels; without either there are no copies.
    #[test]
    fn copies_are_found_while_they_are_there() -> Result<()> {
        let device =
            crate::device::named(&std::env::var("METAL_CANDLE_TEST_DEVICE").unwrap_or("cpu".into()))?;
        let var = |n: usize, from: f32| -> Result<Var> {
            Var::from_tensor(&(Tensor::arange(0f32, n as f32, &device)? + f64::from(from))?)
        };
        let (a, b, c) = (var(5, 0.3)?, var(9000, 7.1)?, var(3, -2.0)?);
        let look = |vars: &[&Var], dtype, len: usize| -> Result<Option<Vec<f32>>> {
            let held: Vec<Held<'_>> = vars.iter().map(|var| Held::new(var)).collect();
            let inputs: Vec<Input<'_>> = held.iter().map(|held| held.input(NAME)).collect();
            let Some(found) = find(&inputs, dtype, len) else { return Ok(None) };
            let input = found.input(NAME);
            assert_eq!((input.dtype(), input.dims()), (dtype, &[len][..]));
            match input.memory {
                Memory::Cpu(_) => Ok(Some(input.slice::<half::bf16>()?.iter().map(|v| v.to_f32()).collect())),
                _ => Ok(Some(Vec::new())),
            }
        };
        let vars = [a.as_tensor(), b.as_tensor(), c.as_tensor()];
        let made =
            gpu::on(vars[0], |gpu| gpu.address(&Held::new(vars[0]).input(NAME))).transpose()?.flatten();
        let table = Table::new(&vars, DType::BF16)?;
        during(table.as_ref(), || {
            for (vars, len) in [(&[&a, &b][..], 9005), (&[&b, &c], 9003), (&[&c], 3)] {
                let found = look(vars, DType::BF16, len)?;
                assert_eq!(found.is_some(), made.is_some());
                if let Some(found) = found.filter(|found| !found.is_empty()) {
                    let wanted: Vec<f32> = vars
                        .iter()
                        .map(|var| var.to_dtype(DType::BF16)?.to_dtype(DType::F32)?.to_vec1::<f32>())
                        .collect::<Result<Vec<_>>>()?
                        .concat();
                    assert_eq!(found, wanted);
                }
            }
            assert!(look(&[&a, &c], DType::BF16, 8)?.is_none(), "they do not lie one after the other");
            assert!(look(&[&a], DType::F16, 5)?.is_none(), "of another type");
            Ok(())
        })?;
        assert!(look(&[&a], DType::BF16, 5)?.is_none(), "they are gone");
        Ok(())
    }
}
