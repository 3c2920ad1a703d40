//! What stands between fused ops in a layer: sums, views, casts. With a tape they are recorded; without one they
//! are Candle's own.

use crate::kernels::add::Add;
use crate::kernels::tape::{apply2, follow, in_order, plain};
use candle_core::{DType, Result, Shape, Tensor};

/// `a + b`, of one shape and dtype: a residual connection.
///
/// # Errors
///
/// When shapes or dtypes differ.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    apply2(Add, a, b)
}

/// `x` in another shape of as many elements.
pub(crate) fn reshape(x: &Tensor, shape: impl Into<Shape>) -> Result<Tensor> {
    let from = x.shape().clone();
    follow(&[x], || in_order(x)?.reshape(shape.into()), move |g| Ok(vec![Some(in_order(g)?.reshape(from)?)]))
}

/// A part of `x` along one dimension, as a view.
pub(crate) fn narrow(x: &Tensor, dim: usize, start: usize, len: usize) -> Result<Tensor> {
    let after = x.dim(dim)? - start - len;
    let backward = move |g: &Tensor| {
        plain(g)?;
        Ok(vec![Some(g.pad_with_zeros(dim, start, after)?)])
    };
    follow(&[x], || x.narrow(dim, start, len), backward)
}

/// `x` in another dtype.
pub(crate) fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    plain(x)?;
    let from = x.dtype();
    let backward = move |g: &Tensor| {
        plain(g)?;
        Ok(vec![Some(g.to_dtype(from)?)])
    };
    follow(&[x], || x.to_dtype(dtype), backward)
}

/// `x * mul + add`.
pub(crate) fn affine(x: &Tensor, mul: f64, add: f64) -> Result<Tensor> {
    plain(x)?;
    follow(
        &[x],
        || x.affine(mul, add),
        move |g| {
            plain(g)?;
            Ok(vec![Some(if mul == 1.0 { g.clone() } else { (g * mul)? })])
        },
    )
}
