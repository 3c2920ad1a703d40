//! cuBLASLt: the algorithm that its heuristic ranks first for a product and a workspace, found once for each kind. Where it
//! has none, as for some odd strides, Candle's product computes.

use super::backend::Compute;
use super::{Backend, Product, Site, View};
use crate::kernels::cuda::{read, write};
use crate::kernels::gpu::{Buffer, Gpu};
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::cublaslt::{result, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DevicePtrMut};
use candle_core::{DType, Error, Result, Storage, bail};
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::from_ref;
use std::sync::{Arc, LazyLock, Mutex};

/// What an algorithm may use beside the matrices: what NVIDIA recommends for Hopper, and more than older GPUs gain from.
const WORKSPACE: usize = 32 << 20;

/// Plans that are kept; a program that multiplies more kinds of matrices begins anew.
const PLANS: usize = 1024;

/// What a plan depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    gpu: usize,
    dtype: DType,
    /// `batch`, `m`, `n`, `k`.
    sizes: [usize; 4],
    /// Of `a` and `b`: transposed, rows apart, matrices apart.
    operands: [(bool, usize, usize); 2],
    /// Bytes that the addresses are multiples of, at most 256.
    alignment: u32,
}

/// Descriptors of a product and its algorithm.
struct Plan {
    handle: sys::cublasLtHandle_t,
    desc: sys::cublasLtMatmulDesc_t,
    /// Of `b`, `a` and the result, as cuBLAS keeps columns together where we keep rows: the product is the transposed one.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace: usize,
}

// SAFETY: descriptors and handles are read by `cublasLtMatmul` only, which may be called from any thread.
unsafe impl Send for Plan {}
// SAFETY: as above.
unsafe impl Sync for Plan {}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: they were made with the plan and are destroyed once.
        unsafe {
            for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
                result::destroy_matrix_layout(layout).ok();
            }
            result::destroy_matmul_desc(self.desc).ok();
        }
    }
}

/// A library handle for each GPU, and the context that it is of: both live as long as the process.
struct Handle {
    handle: sys::cublasLtHandle_t,
    _context: Arc<CudaContext>,
}

// SAFETY: a handle may be used from any thread.
unsafe impl Send for Handle {}

static HANDLES: LazyLock<Mutex<HashMap<usize, Handle>>> = LazyLock::new(Default::default);
/// None where cuBLASLt has no algorithm.
static KINDS: LazyLock<Mutex<HashMap<Kind, Option<Arc<Plan>>>>> = LazyLock::new(Default::default);

fn failed(what: &str) -> impl FnOnce(result::CublasError) -> Error + use<'_> {
    move |e| Error::Msg(format!("matmul: cublaslt: {what}: {e:?}"))
}

fn type_of(dtype: DType) -> Result<sys::cudaDataType> {
    Ok(match dtype {
        DType::F32 => sys::cudaDataType::CUDA_R_32F,
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
        _ => bail!("matmul: wants f32, f16 or bf16, got {dtype:?}"),
    })
}

/// `batch` matrices that are stored in rows of `cols`, `stride` apart: columns to cuBLAS.
fn layout(
    dtype: DType,
    (rows, cols): (usize, usize),
    stride: usize,
    (batch, apart): (usize, usize),
) -> Result<sys::cublasLtMatrixLayout_t> {
    let layout = result::create_matrix_layout(type_of(dtype)?, cols as u64, rows as u64, stride as i64)
        .map_err(failed("a layout"))?;
    let (batch, apart) = (batch as i32, apart as i64);
    type Attribute = sys::cublasLtMatrixLayoutAttribute_t;
    let attributes = [
        (Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, from_ref(&batch).cast(), size_of::<i32>()),
        (Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, from_ref(&apart).cast(), size_of::<i64>()),
    ];
    for (attribute, value, size) in attributes {
        // SAFETY: the layout is alive, and the value has the attribute's size.
        unsafe { result::set_matrix_layout_attribute(layout, attribute, value, size) }
            .map_err(failed("a batch"))?;
    }
    Ok(layout)
}

fn plan(kind: &Kind, context: &Arc<CudaContext>) -> Result<Option<Plan>> {
    let handle = {
        let mut handles = HANDLES.lock().unwrap_or_else(|e| e.into_inner());
        match handles.get(&kind.gpu) {
            Some(known) => known.handle,
            None => {
                let handle = result::create_handle().map_err(failed("a handle"))?;
                handles.insert(kind.gpu, Handle { handle, _context: context.clone() });
                handle
            }
        }
    };
    let [batch, m, n, k] = kind.sizes;
    let [(a_flip, a_stride, a_apart), (b_flip, b_stride, b_apart)] = kind.operands;
    let stored = |rows, cols, flip| if flip { (cols, rows) } else { (rows, cols) };
    // The sum is f32 whatever the operands are, and f32 operands are not rounded.
    let desc = result::create_matmul_desc(
        sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        sys::cudaDataType::CUDA_R_32F,
    )
    .map_err(failed("a description"))?;
    let mut plan = Plan {
        handle,
        desc,
        layouts: [std::ptr::null_mut(); 3],
        algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        workspace: 0,
    };
    // One by one, so that those before one that fails are destroyed.
    plan.layouts[0] = layout(kind.dtype, stored(k, n, b_flip), b_stride, (batch, b_apart))?;
    plan.layouts[1] = layout(kind.dtype, stored(m, k, a_flip), a_stride, (batch, a_apart))?;
    plan.layouts[2] = layout(kind.dtype, (m, n), n, (batch, m * n))?;
    type Attribute = sys::cublasLtMatmulDescAttributes_t;
    for (attribute, flip) in
        [(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, b_flip), (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, a_flip)]
    {
        // CUBLAS_OP_T and CUBLAS_OP_N.
        let flag = i32::from(flip);
        // SAFETY: the description is alive, and the value has the attribute's size.
        unsafe {
            result::set_matmul_desc_attribute(desc, attribute, from_ref(&flag).cast(), size_of_val(&flag))
        }
        .map_err(failed("a transpose"))?;
    }
    let preference = result::create_matmul_pref().map_err(failed("a preference"))?;
    let alignment = kind.alignment;
    type Wish = sys::cublasLtMatmulPreferenceAttributes_t;
    let wishes = [
        (
            Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            from_ref(&WORKSPACE).cast::<c_void>(),
            size_of::<usize>(),
        ),
        (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, from_ref(&alignment).cast(), size_of::<u32>()),
        (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, from_ref(&alignment).cast(), size_of::<u32>()),
        (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, from_ref(&alignment).cast(), size_of::<u32>()),
    ];
    let [b, a, c] = plan.layouts;
    // SAFETY: all of them are alive, and each value has its attribute's size.
    let found = unsafe {
        let set = wishes.into_iter().try_for_each(|(wish, value, size)| {
            result::set_matmul_pref_attribute(preference, wish, value, size)
        });
        let found =
            set.and_then(|()| result::get_matmul_algo_heuristic(handle, desc, b, a, c, c, preference));
        result::destroy_matmul_pref(preference).ok();
        found
    };
    let found = match found {
        Err(result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => return Ok(None),
        found => found.map_err(failed("an algorithm"))?,
    };
    (plan.algorithm, plan.workspace) = (found.algo, found.workspaceSize);
    Ok(Some(plan))
}

/// [`Backend::CublasLt`].
pub(super) struct CublasLt;

impl Compute for CublasLt {
    fn key(&self) -> Backend {
        Backend::CublasLt
    }

    fn on(&self, site: Site<'_>) -> bool {
        matches!(site, Site::Cuda(_))
    }

    fn product(&self, site: Site<'_>, product: &Product<'_>) -> Result<Buffer> {
        match site {
            Site::Cuda(device) => self::product(device, product),
            _ => bail!("matmul: cublaslt: wants a CUDA device, got another"),
        }
    }
}

fn product(device: &CudaDevice, product: &Product<'_>) -> Result<Buffer> {
    let stream = device.cuda_stream();
    let ([batch, m, n, _], dtype) = (product.sizes(), product.dtype());
    let mut y = Buffer::new(Gpu::Cuda(device), (batch, m, n), dtype)?;
    let c = product.c.map(|(_, c)| read(&c, &stream)).transpose()?;
    let (a, b) = (read(&product.a.input, &stream)?, read(&product.b.input, &stream)?);
    let operand = |x: &View<'_>| (x.transposed, x.stride, x.batch_stride);
    let pointers = [a.0, b.0, c.as_ref().map_or(0, |c| c.0)];
    let kind = Kind {
        gpu: stream.context().ordinal(),
        dtype,
        sizes: product.sizes(),
        operands: [operand(&product.a), operand(&product.b)],
        // What the pool gives begins at a multiple of 256; a view need not.
        alignment: 1 << pointers.iter().fold(256, |all, p| all | p).trailing_zeros(),
    };
    stream.context().bind_to_thread().map_err(Error::wrap)?;
    let known = KINDS.lock().unwrap_or_else(|e| e.into_inner()).get(&kind).cloned();
    let plan = match known {
        Some(plan) => plan,
        None => {
            let plan = plan(&kind, stream.context())?.map(Arc::new);
            let mut kinds = KINDS.lock().unwrap_or_else(|e| e.into_inner());
            if kinds.len() >= PLANS {
                kinds.clear();
            }
            kinds.insert(kind, plan.clone());
            plan
        }
    };
    let Some(plan) = plan else { return super::candle::product(product) };
    // SAFETY: nothing reads it but the product, which writes what it reads of it.
    let mut workspace = unsafe { stream.alloc::<u8>(plan.workspace.max(1)) }.map_err(Error::wrap)?;
    let (workspace_pointer, _workspace) = workspace.device_ptr_mut(&stream);
    let Storage::Cuda(storage) = y.storage_mut() else { bail!("matmul: wants memory of the CUDA device") };
    let (y_pointer, _y) = write(storage, &stream)?;
    let (alpha, beta) = (product.alpha, product.c.map_or(0.0, |(beta, _)| beta));
    // With no `c` there is nothing to read: a beta of 0 reads nothing, but wants an address.
    let c_pointer = if c.is_some() { pointers[2] } else { y_pointer };
    let [b_layout, a_layout, y_layout] = plan.layouts;
    // SAFETY: the layouts describe memory that the views and the buffer hold; `beta` is 0 where `c` is none.
    unsafe {
        result::matmul(
            plan.handle,
            plan.desc,
            from_ref(&alpha).cast(),
            from_ref(&beta).cast(),
            b.0 as *const c_void,
            b_layout,
            a.0 as *const c_void,
            a_layout,
            c_pointer as *const c_void,
            y_layout,
            y_pointer as *mut c_void,
            y_layout,
            &plan.algorithm,
            workspace_pointer as *mut c_void,
            plan.workspace,
            stream.cu_stream().cast(),
        )
    }
    .map_err(failed("the product"))?;
    drop(_y);
    Ok(y)
}
