//! Products of blocks on the caller's thread, of factors that are prepared once and used many times.

use super::cpu;
use super::element::Element;
use super::gemm::{Mat, gemm_f32};
#[cfg(target_arch = "x86_64")]
use super::tiles::{self, Kind, Operand, Panels};
use std::borrow::Cow;
use std::ops::Range;

/// The first row of a block of a left factor is a multiple of this.
pub(crate) const ROWS: usize = 14;
/// The first column of a block of a right factor is a multiple of this; the first row of one, and the first column of one
/// of a left factor, are even.
pub(crate) const COLUMNS: usize = 32;
#[cfg(target_arch = "x86_64")]
const _: () = assert!(ROWS == tiles::ROWS && COLUMNS == tiles::COLUMNS);

/// How products of elements of one type are computed on this CPU: in packed tiles, or by `gemm` in `f32`.
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    #[cfg(target_arch = "x86_64")]
    kind: Option<Kind>,
}

/// A factor of products.
pub(crate) enum Factor<'a> {
    Plain {
        data: Cow<'a, [f32]>,
        rs: usize,
        cs: usize,
    },
    #[cfg(target_arch = "x86_64")]
    Packed(Panels),
}

impl Blocks {
    /// For elements `T`; sums are `f32`.
    pub fn of<T: Element>() -> Self {
        Blocks {
            #[cfg(target_arch = "x86_64")]
            kind: Kind::of(T::DTYPE).filter(|kind| *kind == Kind::Bf16),
        }
    }

    /// A left factor, `rows x k`. One of `f32` beside `bf16` is rounded.
    pub fn left<'a, T: Element>(self, x: Mat<'a, T>, rows: usize, k: usize) -> Factor<'a> {
        #[cfg(target_arch = "x86_64")]
        if let Some(kind) = self.kind {
            return packed(x, (rows, k), |x| Panels::left(kind, x, rows, k));
        }
        plain(x, (rows, k))
    }

    /// A right factor, `k x columns`.
    pub fn right<'a, T: Element>(self, x: Mat<'a, T>, k: usize, columns: usize) -> Factor<'a> {
        #[cfg(target_arch = "x86_64")]
        if let Some(kind) = self.kind {
            return packed(x, (k, columns), |x| Panels::right(kind, x, k, columns));
        }
        plain(x, (k, columns))
    }
}

/// A matrix packed in `bf16`.
#[cfg(target_arch = "x86_64")]
fn packed<'a, T: Element>(
    x: Mat<'_, T>,
    dims: (usize, usize),
    pack: impl FnOnce(Operand<'_>) -> Panels,
) -> Factor<'a> {
    use candle_core::DType;
    Factor::Packed(match T::DTYPE {
        DType::BF16 => pack(Operand::new(x)),
        DType::F32 => {
            let (data, rs, cs) = converted(super::gemm::cast(x), dims, cpu::narrow::<half::bf16>);
            pack(Operand::Bf16(Mat { data: &data, rs, cs }))
        }
        dtype => unreachable!("{dtype:?} beside bf16"),
    })
}

fn plain<T: Element>(x: Mat<'_, T>, dims: (usize, usize)) -> Factor<'_> {
    if T::DTYPE == candle_core::DType::F32 {
        let Mat { data, rs, cs } = super::gemm::cast(x);
        return Factor::Plain { data: Cow::Borrowed(data), rs, cs };
    }
    let (data, rs, cs) = converted(x, dims, cpu::widen);
    Factor::Plain { data: Cow::Owned(data), rs, cs }
}

/// The elements of a matrix whose rows or columns lie in one piece, one after the other, and their strides.
fn converted<T: Element, U: Element>(
    x: Mat<'_, T>,
    (rows, columns): (usize, usize),
    convert: impl Fn(&[T], &mut [U]),
) -> (Vec<U>, usize, usize) {
    let by_row = x.cs == 1;
    assert!(by_row || x.rs == 1, "blocks: neither rows nor columns in one piece");
    let (runs, len, stride) = if by_row { (rows, columns, x.rs) } else { (columns, rows, x.cs) };
    let mut out = cpu::uninit(runs * len);
    for (i, run) in out.chunks_exact_mut(len.max(1)).enumerate() {
        convert(&x.data[i * stride..][..len], run);
    }
    if by_row { (out, len, 1) } else { (out, 1, len) }
}

/// `out = alpha a b`, or `out += alpha a b`: rows of `a` by columns of `b`, over `k` of what they share from `a_k` and
/// `b_k` on; `out` has rows of `out_rs`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn product(
    (a, rows, a_k): (&Factor<'_>, Range<usize>, usize),
    (b, columns, b_k): (&Factor<'_>, Range<usize>, usize),
    k: usize,
    alpha: f32,
    accumulate: bool,
    out: &mut [f32],
    out_rs: usize,
) {
    match (a, b) {
        (Factor::Plain { data: a, rs, cs }, Factor::Plain { data: b, rs: b_rs, cs: b_cs }) => {
            let a = Mat { data: &a[rows.start * rs + a_k * cs..], rs: *rs, cs: *cs };
            let b = Mat { data: &b[b_k * b_rs + columns.start * b_cs..], rs: *b_rs, cs: *b_cs };
            gemm_f32((rows.len(), columns.len(), k), alpha, a, b, accumulate, out, out_rs, 1)
        }
        #[cfg(target_arch = "x86_64")]
        (Factor::Packed(a), Factor::Packed(b)) => {
            tiles::product((a, rows, a_k), (b, columns, b_k), k, alpha, accumulate, out, out_rs)
        }
        #[cfg(target_arch = "x86_64")]
        _ => unreachable!("one `Blocks` makes both factors of a product"),
    }
}
