//! How a prepared case is timed. `calls` is for a CPU: one call by the host's clock. A GPU has three: `gpu`, calls
//! captured in a graph and replayed, which leaves out what the host takes to launch them; `back_to_back`, from the
//! device's clock before a row of calls to that after it; `synced`, a call and the wait for it by the host's clock.

use candle_core::{Device, Result, Tensor, bail};
use std::time::{Duration, Instant};

/// One call of a case: it gives what the case computes.
pub type Call = Box<dyn FnOnce() -> Result<Vec<Tensor>>>;

/// Makes a call on one of the sets of inputs: what belongs before the call, such as a forward pass, it does itself.
pub type Make = Box<dyn FnMut(usize) -> Result<Call>>;

/// Replays a graph of calls.
pub type Replay = Box<dyn Fn() -> Result<()>>;

/// A prepared case.
pub struct Prepared {
    make: Make,
    /// Sets of inputs, taken in turn: a cache does not hold them all.
    sets: usize,
    next: usize,
    graph: Option<(Replay, usize)>,
}

/// The calls of one batch of a GPU take about this long, and are at most so many.
const BATCH_US: f64 = 4000.0;
const GRAPH_US: f64 = 2000.0;
const MOST_CALLS: usize = 200;

impl Prepared {
    pub fn new(sets: usize, make: impl FnMut(usize) -> Result<Call> + 'static) -> Self {
        Prepared { make: Box::new(make), sets, next: 0, graph: None }
    }

    fn calls(&mut self, n: usize) -> Result<Vec<Call>> {
        (0..n)
            .map(|_| {
                self.next = (self.next + 1) % self.sets;
                (self.make)(self.next)
            })
            .collect()
    }

    /// One call, whole.
    pub fn call(&mut self) -> Result<Vec<Tensor>> {
        (self.make)(0)?()
    }

    /// The times of calls for about `seconds`, in µs.
    pub fn measure(&mut self, method: &str, seconds: f64, device: &Device) -> Result<Vec<f64>> {
        match method {
            "calls" => self.plain(seconds),
            "synced" => self.synced(seconds, device),
            "back_to_back" => self.back_to_back(seconds, device),
            "gpu" => self.replayed(seconds, device),
            other => bail!("method: wants calls, synced, back_to_back or gpu, got {other:?}"),
        }
    }

    /// Very short calls are timed in batches.
    fn plain(&mut self, seconds: f64) -> Result<Vec<f64>> {
        const BATCH: Duration = Duration::from_micros(50);
        let warm = Instant::now();
        let mut one = Duration::MAX;
        while warm.elapsed().as_secs_f64() < 0.2 * seconds || one == Duration::MAX {
            let start = Instant::now();
            self.call()?;
            one = one.min(start.elapsed());
        }
        let batch = (BATCH.as_nanos() / one.as_nanos().max(1)).max(1) as usize;
        let (start, mut samples) = (Instant::now(), Vec::new());
        while start.elapsed().as_secs_f64() < seconds || samples.len() < 3 {
            let call = Instant::now();
            for _ in 0..batch {
                self.call()?;
            }
            samples.push(call.elapsed().as_secs_f64() * 1e6 / batch as f64);
        }
        Ok(samples)
    }

    fn synced(&mut self, seconds: f64, device: &Device) -> Result<Vec<f64>> {
        for call in self.calls(3)? {
            call()?;
        }
        let (start, mut samples) = (Instant::now(), Vec::new());
        while start.elapsed().as_secs_f64() < seconds || samples.len() < 5 {
            let call = self.calls(1)?.remove(0);
            device.synchronize()?;
            let one = Instant::now();
            let results = call()?;
            device.synchronize()?;
            samples.push(one.elapsed().as_secs_f64() * 1e6);
            drop(results);
        }
        Ok(samples)
    }

    fn back_to_back(&mut self, seconds: f64, device: &Device) -> Result<Vec<f64>> {
        self.batch(self.sets.clamp(3, 8), device)?;
        let one = self.batch(3, device)?;
        let n = ((BATCH_US / one) as usize).clamp(3, MOST_CALLS);
        let (start, mut samples) = (Instant::now(), Vec::new());
        while start.elapsed().as_secs_f64() < seconds || samples.len() < 3 {
            samples.push(self.batch(n, device)?);
        }
        Ok(samples)
    }

    /// The time of each of `n` calls in a row. Results of as many as there are sets are kept, so that what is
    /// written is not always the same memory either.
    fn batch(&mut self, n: usize, device: &Device) -> Result<f64> {
        let calls = self.calls(n)?;
        let mut ring: Vec<_> = (0..self.sets).map(|_| Vec::new()).collect();
        let total = span(device, || {
            for (i, call) in calls.into_iter().enumerate() {
                let results = call()?;
                if ring.len() > 1 {
                    let at = i % ring.len();
                    ring[at] = results;
                }
            }
            Ok(())
        })?;
        Ok(total / n as f64)
    }

    fn replayed(&mut self, seconds: f64, device: &Device) -> Result<Vec<f64>> {
        if self.graph.is_none() {
            self.batch(3, device)?;
            let one = self.batch(3, device)?;
            // Every set as often as any other.
            let rounds = (GRAPH_US / one / self.sets as f64).ceil().min(64.0) as usize;
            let calls = self.calls(rounds.max(1) * self.sets)?;
            let n = calls.len();
            self.graph = Some((capture(device, &mut self.make, calls, self.sets)?, n));
        }
        let Some((replay, calls)) = &self.graph else { unreachable!("it was captured") };
        let one = span(device, replay)?;
        let count = ((seconds * 1e6 / one) as usize).clamp(3, 100);
        let times = laps(device, replay, count)?;
        Ok(times.into_iter().map(|us| us / *calls as f64).collect())
    }
}

#[cfg(feature = "cuda")]
use super::cuda::{capture, laps, span};

#[cfg(not(feature = "cuda"))]
use without_gpu::{capture, laps, span};

/// What there is to measure with on a CPU, where the methods of a GPU are tried out.
#[cfg(not(feature = "cuda"))]
mod without_gpu {
    use super::*;

    pub fn span(device: &Device, f: impl FnOnce() -> Result<()>) -> Result<f64> {
        let start = Instant::now();
        f()?;
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }

    pub fn capture(_: &Device, _: &mut Make, _: Vec<Call>, _: usize) -> Result<Replay> {
        bail!("gpu: wants a build with a GPU's feature")
    }

    pub fn laps(_: &Device, _: &Replay, _: usize) -> Result<Vec<f64>> {
        bail!("gpu: wants a build with a GPU's feature")
    }
}
