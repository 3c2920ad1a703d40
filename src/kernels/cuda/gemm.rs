//! Matrix products through cuBLAS, into memory that may hold a sum to add to.

use super::super::gpu::{Buffer, Operand};
use super::{ahead, graph, profile, read, write};
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::{DType, Error, Result, Storage, bail};
use std::ffi::c_void;

fn kind(dtype: DType) -> Result<sys::cudaDataType> {
    Ok(match dtype {
        DType::F32 => sys::cudaDataType::CUDA_R_32F,
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
        _ => bail!("matmul: wants f32, f16 or bf16, got {dtype:?}"),
    })
}

/// `c = alpha a b + beta c`: see `Gpu::product`.
#[allow(clippy::too_many_arguments, reason = "BLAS has them")]
pub(in super::super) fn product(
    device: &CudaDevice,
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: &Operand<'_>,
    b: &Operand<'_>,
    beta: f32,
    c: &mut Buffer,
    (at, stride): (usize, usize),
) -> Result<()> {
    if ahead::is_on() {
        return Ok(());
    }
    let (stream, blas) = (graph::stream(device), graph::blas(device));
    let (c_kind, size) = (kind(c.dtype)?, c.dtype.size_in_bytes());
    let Storage::Cuda(storage) = &mut c.storage else { bail!("matmul: wants memory of the CUDA device") };
    let (a_pointer, _a) = read(&a.x, &stream)?;
    let (b_pointer, _b) = read(&b.x, &stream)?;
    let (c_pointer, _c) = write(storage, &stream)?;
    let op = |transposed| match transposed {
        true => sys::cublasOperation_t::CUBLAS_OP_T,
        false => sys::cublasOperation_t::CUBLAS_OP_N,
    };
    let c_pointer = c_pointer + (at * size) as u64;
    let first = |x: &Operand<'_>| (x.start * x.x.dtype().size_in_bytes()) as u64;
    let (a_pointer, b_pointer) = (a_pointer + first(a), b_pointer + first(b));
    let multiply = || {
        // cuBLAS keeps columns together where we keep rows, so it is asked for the transposed product: b first.
        // SAFETY: the operands hold m x k and k x n elements and c m x n from `at` on, which `Gpu::product` has checked.
        unsafe {
            result::gemm_ex(
                *blas.handle(),
                op(b.transposed),
                op(a.transposed),
                n as i32,
                m as i32,
                k as i32,
                std::ptr::from_ref(&alpha).cast::<c_void>(),
                b_pointer as *const c_void,
                kind(b.x.dtype())?,
                b.stride as i32,
                a_pointer as *const c_void,
                kind(a.x.dtype())?,
                a.stride as i32,
                std::ptr::from_ref(&beta).cast::<c_void>(),
                c_pointer as *mut c_void,
                c_kind,
                stride as i32,
                // The sum is f32 whatever the operands are, and f32 operands are not rounded.
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(|e| Error::Msg(format!("matmul: {m}x{k} by {k}x{n}: {e:?}")))
    };
    let name = || format!("{m}x{k} by {k}x{n}{}", if beta == 0.0 { "" } else { " + c" });
    profile::span(&stream, name, multiply)
}
