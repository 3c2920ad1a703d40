//! Matrix products, `C = alpha op(A) op(B) + beta C`: the [backends](Backend) that compute one, what each takes on this
//! machine, and which of them does.
//!
//! [`matmul`] and [`addmm`] have gradients on every backend, and take matrices as they lie where the backend can:
//! `op` is a view, such as `b.t()?`; [`transposed`] is one on a [tape](crate::ops::Tape), too. Without measurements Candle
//! computes every product, but bf16 on a CPU, which it has not. `metal-candle bench matmul` measures them ([`measure`]) and keeps
//! the [table](Table); from then on the fastest does. `METAL_CANDLE_MATMUL` names one for all: `candle`, `packed`,
//! `cublaslt`, `mps`, `mps-vector`, `fused`, or `auto` for the choice.

mod backend;
mod candle;
mod choose;
#[cfg(feature = "cuda")]
mod cublaslt;
mod fused;
pub mod measure;
#[cfg(feature = "metal")]
pub mod mps;
mod packed;
mod site;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod view;

pub use backend::Backend;
pub(crate) use choose::by_own_kernel;
#[cfg(feature = "cli")]
pub(crate) use choose::choice_of_layer;
pub use choose::{Chosen, Why, choice, environment, with_backend};
pub use site::Key;
pub(crate) use site::Site;
#[cfg(feature = "cli")]
pub(crate) use table::User;
pub use table::{Class, Entry, Rule, Shape, Table, Timing};
pub(crate) use view::{Product, View};

#[cfg(feature = "metal")]
use crate::kernels::gpu::Operand;
use crate::kernels::gpu::{Buffer, Gpu};
use crate::kernels::tape::{apply2_strided, apply3_strided, contiguous, follow};
use crate::kernels::{FusedOp, Input};
#[cfg(feature = "metal")]
use candle_core::DType;
use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};

/// `a b`: `a` `(.., m, k)`, `b` `(.., k, n)` with the same leading dimensions, or `(k, n)` for all of them; the result is
/// `(.., m, n)`. f32, f16 or bf16. Sums are f32, but for Candle's of f16 on a CPU; of MPS's of f16 Apple does not say.
///
/// # Errors
///
/// When the shapes or dtypes do not fit, or `METAL_CANDLE_MATMUL` names no backend.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    shaped(a, b, |a, b| apply2_strided(MatMul { alpha: 1.0, forced: choose::forced() }, a, b))
}

/// `beta c + alpha a b`, as PyTorch's function of this name: shapes as in [`matmul`], `c` as the result. With a `beta` of 0, `c`
/// is not read.
///
/// # Errors
///
/// As [`matmul`].
pub fn addmm(c: &Tensor, a: &Tensor, b: &Tensor, beta: f32, alpha: f32) -> Result<Tensor> {
    if let (Some((_, outer)), Some(n)) = (a.dims().split_last(), b.dims().last())
        && c.dims() != [outer, &[*n]].concat()
    {
        bail!("addmm: wants c of the shape of a b, {:?}, got {:?}", [outer, &[*n]].concat(), c.dims())
    }
    shaped(a, b, |a, b| {
        let mut dims = a.dims().to_vec();
        dims[a.rank() - 1] = b.dim(b.rank() - 1)?;
        let c = reshaped(&contiguous(c)?, &dims)?;
        apply3_strided(AddMm { of: MatMul { alpha, forced: choose::forced() }, beta }, a, b, &c)
    })
}

/// `x` with its last two dimensions exchanged, as a view; on a [tape](crate::ops::Tape) too, where Candle's `t` ends gradients.
///
/// # Errors
///
/// When `x` has less than two dimensions.
pub fn transposed(x: &Tensor) -> Result<Tensor> {
    if x.rank() < 2 {
        bail!("transposed: wants (.., m, n), got {:?}", x.dims())
    }
    let flip = |x: &Tensor| x.transpose(x.rank() - 2, x.rank() - 1);
    follow(&[x], || flip(x), move |g| Ok(vec![Some(flip(g)?)]))
}

/// `x` in another shape, also on the tape.
fn reshaped(x: &Tensor, dims: &[usize]) -> Result<Tensor> {
    if x.dims() == dims {
        return Ok(x.clone());
    }
    let shape = x.dims().to_vec();
    follow(&[x], || x.reshape(dims), move |g| Ok(vec![Some(g.reshape(shape)?)]))
}

/// Calls `f` with operands of as many matrices: one `b` for all makes one matrix of the rows of `a`.
fn shaped(a: &Tensor, b: &Tensor, f: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let (rank, [k, n]) = match b.dims().split_last_chunk::<2>() {
        Some((_, last)) if a.rank() >= 2 => (b.rank(), *last),
        _ => bail!("matmul: wants (.., m, k) by (.., k, n), got {:?} by {:?}", a.dims(), b.dims()),
    };
    let outer = &a.dims()[..a.rank() - 1];
    let fits = a.dims()[a.rank() - 1] == k && (rank == 2 || a.dims()[..a.rank() - 2] == b.dims()[..rank - 2]);
    if !fits || a.dtype() != b.dtype() {
        bail!(
            "matmul: wants (.., m, k) by (.., k, n) of one dtype, got {:?} by {:?}, {:?} by {:?}",
            a.dims(),
            b.dims(),
            a.dtype(),
            b.dtype()
        )
    }
    if rank > 2 || a.rank() == 2 {
        return f(a, b);
    }
    let y = f(&reshaped(&contiguous(a)?, &[outer.iter().product(), k])?, b)?;
    reshaped(&y, &[outer, &[n]].concat())
}

/// The dims of `a b`.
fn dims_of(a: Input<'_>, b: Input<'_>) -> Vec<usize> {
    let mut dims = a.dims().to_vec();
    if let (Some(last), Some(n)) = (dims.last_mut(), b.dims().last()) {
        *last = *n;
    }
    dims
}

/// `alpha a b + beta c` by the backend that the site's table chooses.
fn run(site: Site<'_>, of: MatMul, [a, b]: [Input<'_>; 2], c: Option<(f32, Input<'_>)>) -> Result<Buffer> {
    let copies = [copied(a)?, copied(b)?];
    let [a_view, b_view] = [view(a, &copies[0])?, view(b, &copies[1])?];
    let product = Product::new(of.alpha, a_view, b_view, c)?;
    let chosen = choose::choose(site, of.forced, &product)?;
    let y = chosen.backend.product(site, &product)?;
    Ok(y.reshape(dims_of(a, b)))
}

/// A copy in rows of what no backend can take as it lies.
fn copied(x: Input<'_>) -> Result<Option<(Storage, Layout)>> {
    match View::of(x) {
        Some(_) => Ok(None),
        None => Ok(Some((candle::copy(x)?, Layout::contiguous(x.shape())))),
    }
}

fn view<'a>(x: Input<'a>, copy: &'a Option<(Storage, Layout)>) -> Result<View<'a>> {
    let input = copy.as_ref().map_or(x, |(storage, layout)| Input::new("matmul", storage, layout));
    match View::of(input) {
        Some(view) => Ok(view),
        None => bail!("matmul: wants matrices, got {:?}", x.dims()),
    }
}

/// The product of a layer, `(m, k)` by `(k, n)` into the whole of `c`, by Metal Performance Shaders: whether they are chosen.
#[cfg(feature = "metal")]
pub(crate) fn by_mps(
    device: &candle_core::MetalDevice,
    (m, n, k): (usize, usize, usize),
    [a, b]: [&Operand<'_>; 2],
    c: &mut Buffer,
) -> Result<bool> {
    // bf16 would be widened, weights and all, for each product.
    if a.dtype() == DType::BF16 || a.dtype() != c.dtype() || c.dims().iter().product::<usize>() != m * n {
        return Ok(false);
    }
    fn view<'a>(x: &Operand<'a>, rows: usize, cols: usize) -> View<'a> {
        let (stride, transposed) = (x.stride(), x.transposed());
        View { input: x.input(), batch: 1, rows, cols, stride, batch_stride: 0, transposed }
    }
    let product = Product::new(1.0, view(a, m, k), view(b, k, n), None)?;
    let chosen = choose::choose(Site::Metal(device), choose::forced(), &product)?;
    if !matches!(chosen.backend, Backend::Mps | Backend::MpsVector) {
        return Ok(false);
    }
    let dims = c.dims().to_vec();
    // The result is in memory of its own: what was made for it goes first.
    *c = Buffer::new(Gpu::Metal(device), 1, c.dtype())?;
    *c = chosen.backend.product(Site::Metal(device), &product)?.reshape(dims);
    Ok(true)
}

/// The CPU's memory of a product.
fn on_cpu(y: Buffer) -> Result<(CpuStorage, candle_core::Shape)> {
    match y.into_parts() {
        (Storage::Cpu(storage), shape) => Ok((storage, shape)),
        _ => bail!("matmul: wants memory of the CPU"),
    }
}

/// `alpha a b`.
#[derive(Clone, Copy)]
struct MatMul {
    alpha: f32,
    /// By [`with_backend`]: the product may run on another thread.
    forced: Option<Backend>,
}

impl FusedOp<2> for MatMul {
    const NAME: &'static str = "matmul";
    const IN_POOL: bool = true;

    fn cpu(&self, inputs: [Input<'_>; 2]) -> Result<(CpuStorage, candle_core::Shape)> {
        on_cpu(run(Site::Cpu, *self, inputs, None)?)
    }

    fn gpu(&self, gpu: Gpu<'_>, inputs: [Input<'_>; 2]) -> Result<Buffer> {
        run(Site::of(gpu), *self, inputs, None)
    }

    fn grad(
        &self,
        [a, b]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        grads(*self, a, b, g, needs)
    }
}

/// `alpha a b + beta c`.
struct AddMm {
    of: MatMul,
    beta: f32,
}

impl FusedOp<3> for AddMm {
    const NAME: &'static str = "addmm";
    const IN_POOL: bool = true;

    fn cpu(&self, [a, b, c]: [Input<'_>; 3]) -> Result<(CpuStorage, candle_core::Shape)> {
        on_cpu(run(Site::Cpu, self.of, [a, b], Some((self.beta, c)))?)
    }

    fn gpu(&self, gpu: Gpu<'_>, [a, b, c]: [Input<'_>; 3]) -> Result<Buffer> {
        run(Site::of(gpu), self.of, [a, b], Some((self.beta, c)))
    }

    fn grad(
        &self,
        [a, b, _]: [&Tensor; 3],
        _: &Tensor,
        g: &Tensor,
        needs: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        let [da, db] = grads(self.of, a, b, g, [needs[0], needs[1]])?;
        let dc = needs[2].then(|| g.affine(self.beta as f64, 0.0)).transpose()?;
        Ok([da, db, dc])
    }
}

/// `da = alpha g bᵀ`, `db = alpha aᵀ g`.
fn grads(of: MatMul, a: &Tensor, b: &Tensor, g: &Tensor, needs: [bool; 2]) -> Result<[Option<Tensor>; 2]> {
    let times = |x: &Tensor, y: &Tensor| apply2_strided(of, &x.detach(), &y.detach());
    let da = needs[0].then(|| times(g, &transposed(b)?)).transpose()?;
    let db = needs[1].then(|| times(&transposed(a)?, g)).transpose()?;
    Ok([da, db])
}
