//! Attention on Apple's GPUs: `attention.metal.h`.

use super::{Attention, Dims, Keys};
use crate::kernels::Input;
use crate::kernels::gpu::{Arg, Buffer, Gpu, Launch, Unit};
use bytemuck::NoUninit;
use candle_core::{DType, Result, Tensor, bail};

static UNIT: Unit = Unit {
    name: "attention.metal.h",
    text: concat!(include_str!("../../kernels/matrix.metal.h"), include_str!("../attention.metal.h")),
    fast_math: false,
};

const OP: &str = "attention";
/// Threads of a group over tiles: four warps, each of which owns 8 rows.
const THREADS: usize = 128;
const ROWS: usize = THREADS / 32 * 8;
/// Threads of a group for one query, and how many queries are taken one by one.
const FEW_THREADS: usize = 256;
const FEW: usize = 4;
/// Bytes for two tiles, of the 32 KiB that a group has.
const TILES: usize = 30 << 10;

/// `Heads` of the header: strides.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Heads {
    batch: u64,
    head: u64,
    row: u64,
}

impl Heads {
    fn new(stride: &[usize], thd: bool) -> Self {
        let (head, row) = if thd { (stride[2], stride[1]) } else { (stride[1], stride[2]) };
        Heads { batch: stride[0] as u64, head: head as u64, row: row as u64 }
    }

    fn contiguous(dims: &[usize], thd: bool) -> Self {
        Heads::new(&[dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3]], thd)
    }

    fn multiple_of(&self, n: usize) -> bool {
        [self.batch, self.head, self.row].iter().all(|s| s.is_multiple_of(n as u64))
    }
}

/// `Attention` of the header.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Params {
    q: Heads,
    k: Heads,
    v: Heads,
    y: Heads,
    dk: Heads,
    heads: u32,
    group: u32,
    tq: u32,
    tk: u32,
    window: u32,
    scale: f32,
    cap: f32,
    pad: u32,
}

/// One attention's inputs and what its kernels are told.
pub(super) struct Call<'a> {
    gpu: Gpu<'a>,
    dims: Dims,
    inputs: [Input<'a>; 3],
    keys: Option<Tensor>,
    params: Params,
    defines: [(&'static str, i64); 7],
}

impl<'a> Call<'a> {
    pub fn new(
        gpu: Gpu<'a>,
        options: &Attention,
        dims: Dims,
        thd: bool,
        inputs: [Input<'a>; 3],
    ) -> Result<Self> {
        let [q, k, v] = inputs;
        if dims.d > 256 {
            bail!("attention: wants heads of at most 256 on this GPU, got {}", dims.d)
        }
        let (kind, keys) = match &options.keys {
            // Those on the device were read back.
            Keys::All | Keys::OnDevice(_) => (0, None),
            Keys::Rows(rows) => (1, Some(rows.iter().flat_map(|(from, to)| [*from, *to]).collect())),
            Keys::Documents(starts) => (2, Some(starts.to_vec())),
        };
        let device = gpu.device();
        let keys: Option<Vec<u32>> = keys;
        let keys = keys.map(|keys| Tensor::from_slice(&keys, keys.len(), &device)).transpose()?;
        let params = Params {
            q: Heads::new(q.stride(), thd),
            k: Heads::new(k.stride(), thd),
            v: Heads::new(v.stride(), thd),
            y: Heads::contiguous(q.dims(), thd),
            dk: Heads::contiguous(k.dims(), thd),
            heads: dims.h as u32,
            group: dims.group() as u32,
            tq: dims.tq as u32,
            tk: dims.tk as u32,
            window: options.window.map_or(u32::MAX, |window| window.min(u32::MAX as usize) as u32),
            scale: options.scale,
            cap: options.softcap.unwrap_or(1.0),
            pad: 0,
        };
        let size = q.dtype().size_in_bytes();
        let per = 16 / size;
        let width = dims.d.next_multiple_of(8);
        let tile = [32, 16, 8].into_iter().find(|rows| 2 * rows * (width + per) * size <= TILES).unwrap_or(8);
        let wide = dims.d.is_multiple_of(per)
            && [params.q, params.k, params.v, params.y].iter().all(|heads| heads.multiple_of(per))
            && inputs.iter().all(|x| x.first_byte().is_multiple_of(16));
        let defines = [
            ("D", dims.d as i64),
            ("WIDTH", width as i64),
            ("TILE", tile as i64),
            ("WIDE", wide as i64),
            ("CAUSAL", options.causal as i64),
            ("CAPPED", options.softcap.is_some() as i64),
            ("KEYS", kind),
        ];
        Ok(Call { gpu, dims, inputs, keys, params, defines })
    }

    fn launch(
        &self,
        entry: &'static str,
        threads: usize,
        groups: [usize; 3],
        args: &mut [Arg<'_>],
    ) -> Result<()> {
        let types = [("T", self.inputs[0].dtype())];
        let launch =
            Launch { unit: &UNIT, entry, types: &types, defines: &self.defines, groups, threads, shared: 0 };
        self.gpu.launch(&launch, args, &self.params)
    }

    /// `y` and, for each query, what makes its scores probabilities. Backward's products round as those of
    /// `attention_fwd` do, not as those of `attention_few`: a score of 10 has an error that its probability shows.
    pub fn forward(self, trained: bool) -> Result<(Buffer, Buffer)> {
        let Dims { b, h, tq, .. } = self.dims;
        let [q, k, v] = self.inputs;
        let mut y = Buffer::new(self.gpu, q.shape(), q.dtype())?;
        let mut stats = Buffer::new(self.gpu, (b, h, tq, 2), DType::F32)?;
        let (entry, threads, groups) = match tq {
            ..=FEW if !trained => ("attention_few", FEW_THREADS, tq),
            _ => ("attention_fwd", THREADS, tq.div_ceil(ROWS)),
        };
        with_keys(self.keys.as_ref(), |keys| {
            let args = &mut [q.into(), k.into(), v.into(), keys.into(), (&mut y).into(), (&mut stats).into()];
            self.launch(entry, threads, [groups, h, b], args)
        })?;
        Ok((y, stats))
    }

    /// The gradients of `q`, `k` and `v`.
    pub fn gradients(
        self,
        y: Input<'_>,
        g: Input<'_>,
        stats: &Buffer,
        needs: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        let Dims { b, h, hkv, tq, tk, .. } = self.dims;
        let [q, k, v] = self.inputs;
        y.contiguous()?;
        g.contiguous()?;
        // Another gradient than an op's may begin anywhere.
        let aligned = g.first_byte().is_multiple_of(16);
        let call = match aligned {
            true => self,
            false => {
                Call { defines: self.defines.map(|(n, v)| (n, if n == "WIDE" { 0 } else { v })), ..self }
            }
        };
        let mut delta = Buffer::new(call.gpu, (b, h, tq), DType::F32)?;
        let args = &mut [y.into(), g.into(), (&mut delta).into()];
        call.launch("attention_delta", THREADS, [tq.div_ceil(THREADS / 32), h, b], args)?;
        let (stats, delta) = (stats.input(OP), delta.input(OP));
        with_keys(call.keys.as_ref(), |keys| {
            let mut dq = needs[0].then(|| Buffer::new(call.gpu, q.shape(), q.dtype())).transpose()?;
            if let Some(dq) = &mut dq {
                let args = &mut [
                    q.into(),
                    k.into(),
                    v.into(),
                    keys.into(),
                    g.into(),
                    stats.into(),
                    delta.into(),
                    dq.into(),
                ];
                call.launch("attention_dq", THREADS, [tq.div_ceil(ROWS), h, b], args)?;
            }
            let dq = dq.map(Buffer::tensor);
            if !needs[1] && !needs[2] {
                return Ok([dq, None, None]);
            }
            let mut dk = Buffer::new(call.gpu, k.shape(), k.dtype())?;
            let mut dv = Buffer::new(call.gpu, v.shape(), v.dtype())?;
            let args = &mut [
                q.into(),
                k.into(),
                v.into(),
                keys.into(),
                g.into(),
                stats.into(),
                delta.into(),
                (&mut dk).into(),
                (&mut dv).into(),
            ];
            call.launch("attention_dkv", THREADS, [tk.div_ceil(ROWS), hkv, b], args)?;
            Ok([dq, needs[1].then(|| dk.tensor()), needs[2].then(|| dv.tensor())])
        })
    }
}

/// Calls `f` with the keys as a kernel's input.
fn with_keys<R>(keys: Option<&Tensor>, f: impl FnOnce(Option<Input<'_>>) -> Result<R>) -> Result<R> {
    match keys {
        Some(keys) => crate::kernels::with_inputs(OP, [keys], |[keys]| f(Some(keys))),
        None => f(None),
    }
}
