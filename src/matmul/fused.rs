//! The kernels of this crate's layers on a GPU, as products: a few rows by weights, and on CUDA the wide factor of a low-rank
//! update.

use super::backend::Compute;
use super::{Backend, Product, Shape, Site, View, candle};
use crate::kernels::gpu::Buffer;
use crate::ops::{FEW_ROWS, Few};
use candle_core::{DType, Layout, Result};

/// Whether a product is the wide factor of an update.
fn is_wide(site: Site<'_>, dtype: DType, n: usize, k: usize) -> bool {
    match site {
        #[cfg(feature = "cuda")]
        Site::Cuda(_) => crate::ops::Wide::on_matrix_units_of(dtype, k, n),
        _ => {
            let _ = (dtype, n, k);
            false
        }
    }
}

/// What is stored, if it lies in one piece.
fn whole(x: &View<'_>) -> Option<Layout> {
    let (rows, cols) = if x.transposed { (x.cols, x.rows) } else { (x.rows, x.cols) };
    (x.stride == cols).then(|| Layout::contiguous_with_offset((rows, cols), x.input.start_offset()))
}

/// [`Backend::Fused`].
pub(super) struct Fused;

impl Compute for Fused {
    fn key(&self) -> Backend {
        Backend::Fused
    }

    fn on(&self, site: Site<'_>) -> bool {
        site.gpu().is_some()
    }

    /// Whether a product of contiguous matrices is one of theirs.
    fn computes(&self, site: Site<'_>, dtype: DType, shape: &Shape) -> bool {
        let Shape { batch, m, n, k, a_transposed, b_transposed } = *shape;
        let few = b_transposed && m <= FEW_ROWS;
        batch == 1 && !a_transposed && (few || is_wide(site, dtype, n, k))
    }

    fn product(&self, site: Site<'_>, product: &Product<'_>) -> Result<Buffer> {
        let (Some(gpu), Some(a), Some(b)) = (site.gpu(), whole(&product.a), whole(&product.b)) else {
            return candle::product(product);
        };
        let fits = product.c.is_none() && !product.a.transposed;
        let ([_, m, n, _], b_transposed) = (product.sizes(), product.b.transposed);
        let (x, w) = (product.a.input.laid_out(&a), product.b.input.laid_out(&b));
        let y = match fits && self.computes(site, product.dtype(), &Shape::of(product)) {
            true if b_transposed && m <= FEW_ROWS && product.alpha == 1.0 => Few::of(x, w).run(gpu)?,
            #[cfg(feature = "cuda")]
            true if is_wide(site, product.dtype(), n, product.a.cols) => {
                let (rank, rank_first, scale) = (product.a.cols, !b_transposed, product.alpha);
                let wide = crate::ops::Wide { t: x, factor: w, rank_first, bias: None, rank, cols: n, scale };
                let mut y = Buffer::new(gpu, (m, n), product.dtype())?;
                wide.on_matrix_units(gpu, m, &mut y)?;
                y
            }
            _ => return candle::product(product),
        };
        Ok(y.reshape((1, m, n)))
    }
}
