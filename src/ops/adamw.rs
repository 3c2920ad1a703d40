//! AdamW on a GPU: all variables in one launch, after two for the norm of their gradients, which the host reads once.
//!
//! The kernels find variables and gradients by a table of their addresses. Metal has none in its buffers: there, a
//! launch is made for each variable, in one command buffer.

use crate::kernels::gpu::{self, Arg, Buffer, Gpu, Launch, Unit, unit};
use crate::kernels::{Held, Input};
use bytemuck::NoUninit;
use candle_core::{DType, Device, Result, Tensor, bail};

static UNIT: Unit = unit!("adamw.h");

const NAME: &str = "adamw";

/// Elements of a variable that one group works on.
const PIECE: usize = 8192;
const THREADS: usize = 256;

/// `PACKED` of `adamw.h`.
const PACKED: u32 = 4;

/// What an update does, beside the clip: `Adam` of `adamw.h`.
#[derive(Clone, Copy, Debug, NoUninit)]
#[repr(C)]
pub(crate) struct Adam {
    pub keep: f32,
    pub rate: f32,
    pub betas: [f32; 2],
    pub root: f32,
    pub eps: f32,
    first: u32,
    reading: u32,
}

impl Adam {
    /// `p = keep p - rate m / (sqrt(v) root + eps)`, with moments that decay by `betas`.
    pub fn new(keep: f32, rate: f32, betas: [f32; 2], root: f32, eps: f32) -> Self {
        Adam { keep, rate, betas, root, eps, first: 0, reading: 0 }
    }
}

/// `Norm` of `adamw.h`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Norm {
    partials: u32,
    losses: u32,
    max_norm: f32,
}

/// The moments of variables on a GPU, one after the other in flat memory.
#[derive(Debug)]
pub(crate) struct Moments {
    /// First and second.
    flat: [Tensor; 2],
    /// (n, 4): variable, start, length, and place in the flat moments, of each piece.
    pieces: Tensor,
    /// Where each variable's moments and pieces begin; one more at the end.
    starts: Vec<(usize, usize)>,
    shapes: Vec<Vec<usize>>,
}

impl Moments {
    /// Zeros for these variables, if they are on a GPU.
    pub fn new(vars: &[&Tensor]) -> Result<Option<Self>> {
        let Some(var) = vars.first() else { return Ok(None) };
        gpu::on(var, |_| Moments::zeros(vars, var.device())).transpose()
    }

    fn zeros(vars: &[&Tensor], device: &Device) -> Result<Self> {
        let (mut pieces, mut starts, mut at) = (Vec::new(), vec![(0, 0)], 0);
        for (i, var) in vars.iter().enumerate() {
            let len = var.elem_count();
            for start in (0..len).step_by(PIECE) {
                pieces.extend([i, start, PIECE.min(len - start), at + start].map(|n| n as i64));
            }
            // So that every variable's begin at 16 bytes.
            at += len.next_multiple_of(4);
            starts.push((at, pieces.len() / 4));
        }
        let flat = || Tensor::zeros(at, DType::F32, device);
        Ok(Moments {
            flat: [flat()?, flat()?],
            pieces: Tensor::from_vec(pieces, starts.last().map_or(0, |end| 4 * end.1), device)?,
            starts,
            shapes: vars.iter().map(|var| var.dims().to_vec()).collect(),
        })
    }

    /// How many variables there are.
    pub fn len(&self) -> usize {
        self.shapes.len()
    }

    /// The elements of a variable, by its number.
    pub fn elements(&self, i: usize) -> usize {
        self.shapes[i].iter().product()
    }

    /// Both moments of a variable, by its number, as views.
    pub fn of(&self, i: usize) -> Result<[Tensor; 2]> {
        let shape = self.shapes[i].as_slice();
        let part = |flat: &Tensor| flat.narrow(0, self.starts[i].0, self.elements(i))?.reshape(shape);
        Ok([part(&self.flat[0])?, part(&self.flat[1])?])
    }

    /// Gives a variable, by its number, other moments.
    pub fn set(&mut self, i: usize, moments: [&[f32]; 2]) -> Result<()> {
        for (flat, values) in self.flat.iter().zip(moments) {
            let values = Tensor::from_slice(values, values.len(), flat.device())?;
            flat.slice_set(&values, 0, self.starts[i].0)?;
        }
        Ok(())
    }

    /// Updates the variables that have gradients. Returns the norm of all gradients, before they are clipped, and the
    /// losses, after a single wait for the GPU. If one of these is not finite, nothing has changed.
    pub fn step(
        &mut self,
        vars: &[&Tensor],
        gradients: &[Option<&Tensor>],
        losses: &[Tensor],
        max_norm: Option<f64>,
        adam: Adam,
    ) -> Result<(f32, Vec<f32>)> {
        let Some(var) = vars.first() else { return Ok((0.0, Vec::new())) };
        let gradients: Vec<Option<Tensor>> =
            gradients.iter().map(|g| g.map(Tensor::contiguous).transpose()).collect::<Result<_>>()?;
        for (var, g) in vars.iter().zip(&gradients) {
            if let Some(g) = g.as_ref().filter(|g| g.elem_count() != var.elem_count()) {
                bail!("{NAME}: wants a gradient of {} elements, got {}", var.elem_count(), g.elem_count())
            }
        }
        let losses = match losses {
            [] => None,
            [one] => Some(one.flatten_all()?),
            all => Some(Tensor::cat(&all.iter().map(Tensor::flatten_all).collect::<Result<Vec<_>>>()?, 0)?),
        };
        let max_norm = max_norm.map_or(f32::INFINITY, |max| max as f32);
        let Some(state) = gpu::on(var, |gpu| {
            let table = table(gpu, vars, &gradients)?;
            let parts = match &table {
                Some(table) => vec![self.all(table)],
                None => self.each(vars, &gradients),
            };
            self.launch(gpu, &parts, losses.as_ref(), max_norm, adam)
        }) else {
            bail!("{NAME}: wants variables on a GPU")
        };
        let state = state?.to_vec1::<f32>()?;
        Ok((state[0], state[2..].to_vec()))
    }

    fn all<'a>(&self, table: &'a Tensor) -> Part<'a> {
        let pieces = self.starts[self.shapes.len()].1;
        Part { p: None, source: Held::new(table), dtype: DType::F32, first: 0, pieces, reading: 0 }
    }

    fn each<'a>(&self, vars: &[&'a Tensor], gradients: &'a [Option<Tensor>]) -> Vec<Part<'a>> {
        let part = |(i, (var, g)): (usize, (&&'a Tensor, &'a Option<Tensor>))| {
            let (g, first) = (g.as_ref()?, self.starts[i].1);
            let (p, source) = (Held::new(var), Held::new(g));
            let reading = reading(&p.input(NAME), &source.input(NAME));
            let pieces = self.starts[i + 1].1 - first;
            Some(Part { p: Some(p), source, dtype: g.dtype(), first, pieces, reading })
        };
        vars.iter().zip(gradients).enumerate().filter_map(part).collect()
    }

    fn launch(
        &self,
        gpu: Gpu<'_>,
        parts: &[Part<'_>],
        losses: Option<&Tensor>,
        max_norm: f32,
        adam: Adam,
    ) -> Result<Tensor> {
        let count = self.starts[self.shapes.len()].1;
        let pieces = Held::new(&self.pieces);
        let pieces = pieces.input(NAME);
        let mut partials = Buffer::zeros(gpu, count.max(1), DType::F32)?;
        for part in parts {
            let mut args = [part.source.input(NAME).into(), pieces.into(), (&mut partials).into()];
            part.launch(gpu, "gradient_squares", &mut args, adam)?;
        }
        let held = losses.map(Held::new);
        let losses = losses.map_or(0, Tensor::elem_count);
        let mut state = Buffer::new(gpu, 2 + losses, DType::F32)?;
        let mut args = [
            partials.input(NAME).into(),
            held.as_ref().map(|held| held.input(NAME)).into(),
            (&mut state).into(),
        ];
        let norm = Norm { partials: count as u32, losses: losses as u32, max_norm };
        // Metal cannot compile what follows a table.
        let table = parts.iter().any(|part| part.p.is_none());
        launch(gpu, "gradient_norm", (DType::F32, table), (1, 1024), &mut args, &norm)?;
        let flat = self.flat.each_ref().map(Held::new);
        for part in parts {
            let [m, v] = flat.each_ref().map(|held| Arg::Update(held.input(NAME)));
            let mut args: Vec<Arg<'_>> = part.p.iter().map(|p| Arg::Update(p.input(NAME))).collect();
            args.extend([part.source.input(NAME).into(), pieces.into(), m, v, state.input(NAME).into()]);
            part.launch(gpu, "adamw", &mut args, adam)?;
        }
        Ok(state.tensor())
    }
}

/// Pieces that one launch works on.
struct Part<'a> {
    /// Their variable; none for those of all, which a table tells of.
    p: Option<Held<'a>>,
    /// Its gradient, or the table.
    source: Held<'a>,
    dtype: DType,
    first: usize,
    pieces: usize,
    reading: u32,
}

impl Part<'_> {
    fn launch(&self, gpu: Gpu<'_>, entry: &'static str, args: &mut [Arg<'_>], adam: Adam) -> Result<()> {
        let adam = Adam { first: self.first as u32, reading: self.reading, ..adam };
        launch(gpu, entry, (self.dtype, self.p.is_none()), (self.pieces, THREADS), args, &adam)
    }
}

fn launch<P: NoUninit>(
    gpu: Gpu<'_>,
    entry: &'static str,
    (dtype, table): (DType, bool),
    (groups, threads): (usize, usize),
    args: &mut [Arg<'_>],
    params: &P,
) -> Result<()> {
    let launch = Launch {
        unit: &UNIT,
        entry,
        types: &[("T", dtype)],
        defines: &[("TABLE", table as i64)],
        groups: [groups, 1, 1],
        threads,
        shared: 0,
    };
    gpu.launch(&launch, args, params)
}

/// How a gradient is to be read, as `adamw.h` has it.
fn reading(p: &Input<'_>, g: &Input<'_>) -> u32 {
    let at_16 = |x: &Input<'_>| (x.start_offset() * x.dtype().size_in_bytes()).is_multiple_of(16);
    let dtype = match g.dtype() {
        DType::F16 => 1,
        DType::BF16 => 2,
        _ => 0,
    };
    dtype + if at_16(p) && at_16(g) { PACKED } else { 0 }
}

/// The table of `adamw.h`; none if the GPU's buffers have no addresses.
fn table(gpu: Gpu<'_>, vars: &[&Tensor], gradients: &[Option<Tensor>]) -> Result<Option<Tensor>> {
    let mut table = Vec::with_capacity(3 * vars.len());
    for (var, g) in vars.iter().zip(gradients) {
        let Some(g) = g else {
            table.extend([0; 3]);
            continue;
        };
        let (p, g) = (Held::new(var), Held::new(g));
        let (p, g) = (p.input(NAME), g.input(NAME));
        let (Some(p_address), Some(g_address)) = (gpu.address(&p)?, gpu.address(&g)?) else {
            return Ok(None);
        };
        table.extend([p_address as i64, g_address as i64, reading(&p, &g) as i64]);
    }
    let device = vars.first().map_or(&Device::Cpu, |var| var.device());
    Ok(Some(Tensor::from_vec(table, 3 * vars.len(), device)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_launch_for_all_gives_what_one_for_each_does() -> Result<()> {
        let device =
            crate::device::named(&std::env::var("METAL_CANDLE_TEST_DEVICE").unwrap_or("cpu".into()))?;
        let sizes = [5usize, 8193, 70, 16384];
        let ramp = |n: usize, scale: f64| {
            (Tensor::arange(0f32, n as f32, &device)? * (scale / n as f64))?.affine(1., -0.25 * scale)
        };
        let run = |apart: bool| -> Result<Option<Vec<Vec<f32>>>> {
            let vars = sizes.iter().map(|n| ramp(*n, 1.)).collect::<Result<Vec<_>>>()?;
            let vars: Vec<&Tensor> = vars.iter().collect();
            let gradients: Vec<_> = sizes.iter().map(|n| ramp(*n, 0.01).map(Some)).collect::<Result<_>>()?;
            let Some(moments) = Moments::new(&vars)? else { return Ok(None) };
            let adam = Adam::new(0.99, 0.1, [0.9, 0.99], 1.5, 1e-8);
            gpu::on(vars[0], |gpu| {
                let table = table(gpu, &vars, &gradients)?;
                let parts = match table.as_ref().filter(|_| !apart) {
                    Some(table) => vec![moments.all(table)],
                    None => moments.each(&vars, &gradients),
                };
                moments.launch(gpu, &parts, None, 0.5, adam)
            })
            .transpose()?;
            vars.iter().map(|var| var.to_vec1()).collect::<Result<_>>().map(Some)
        };
        assert_eq!(run(false)?, run(true)?);
        Ok(())
    }
}
