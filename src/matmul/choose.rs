//! Which backend computes a product.

use super::site::{Site, SiteId};
use super::store;
use super::table::{Rule, Shape, Table, User};
use super::{Backend, Product};
use crate::kernels::gpu::Gpu;
use candle_core::{DType, Device, Error, Result};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

/// A backend, and why it is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// What computes the product.
    pub backend: Backend,
    /// Why.
    pub why: Why,
}

/// Why a backend computes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// `METAL_CANDLE_MATMUL` or [`with_backend`] names it.
    Forced,
    /// It was the fastest at exactly this product.
    Measured,
    /// It is the fastest at products of this kind and size.
    Fitted,
    /// Nothing like it was measured on this device: Candle's, which has no bf16 on a CPU, where it is this crate's.
    Unmeasured,
}

/// A table, and its crossovers for those who multiply.
struct Known {
    table: Table,
    calls: Vec<Rule>,
    layers: Vec<Rule>,
}

static TABLES: LazyLock<Mutex<HashMap<SiteId, Option<Arc<Known>>>>> = LazyLock::new(Default::default);

thread_local! {
    static FORCED: Cell<Option<Backend>> = const { Cell::new(None) };
}

/// The backend of `METAL_CANDLE_MATMUL`; none for `auto`.
///
/// # Errors
///
/// When it names none.
pub fn environment() -> Result<Option<Backend>> {
    static NAMED: LazyLock<std::result::Result<Option<Backend>, String>> =
        LazyLock::new(|| match std::env::var("METAL_CANDLE_MATMUL").unwrap_or_default().as_str() {
            "" | "auto" => Ok(None),
            name => name.parse().map(Some).map_err(|e| format!("METAL_CANDLE_MATMUL: {e}")),
        });
    NAMED.clone().map_err(Error::Msg)
}

/// Runs `f` with every product of this thread on one backend, where it computes on the product's device. A gradient is computed by
/// what its product was forced to, inside or not.
pub fn with_backend<R>(backend: Backend, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Backend>);
    impl Drop for Restore {
        fn drop(&mut self) {
            FORCED.set(self.0);
        }
    }
    let _restore = Restore(FORCED.replace(Some(backend)));
    f()
}

/// The backend of a product on a device, and why.
///
/// # Errors
///
/// When `METAL_CANDLE_MATMUL` names no backend, or this build does not compute on the device.
pub fn choice(device: &Device, dtype: DType, shape: &Shape) -> Result<Chosen> {
    pick(Site::on(device)?, User::Calls, forced(), dtype, shape)
}

/// What multiplies in a layer without a bias, as whom, and why; none where a layer asks no table: on a CPU its products are
/// `packed`, and on CUDA what `fused` does not compute is cuBLAS's.
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for the command line"))]
pub(crate) fn choice_of_layer(
    device: &Device,
    dtype: DType,
    shape: &Shape,
) -> Result<Option<(User, Chosen)>> {
    let site = Site::on(device)?;
    let user = match Backend::Fused.computes(site, dtype, shape) {
        true => User::Layers,
        false if device.is_metal() && User::Layers.admits(dtype.as_str(), Backend::Mps) => User::Calls,
        false => return Ok(None),
    };
    Ok(Some((user, pick(site, user, forced(), dtype, shape)?)))
}

/// Whether a layer's own kernel computes a product that it can compute: not where the library's is named, or was measured to be
/// faster.
pub(crate) fn by_own_kernel(gpu: Gpu<'_>, dtype: DType, shape: &Shape) -> Result<bool> {
    Ok(pick(Site::of(gpu), User::Layers, forced(), dtype, shape)?.backend == Backend::Fused)
}

/// The backend of [`with_backend`] on this thread.
pub(super) fn forced() -> Option<Backend> {
    FORCED.get()
}

pub(super) fn choose(site: Site<'_>, forced: Option<Backend>, product: &Product<'_>) -> Result<Chosen> {
    pick(site, User::Calls, forced, product.dtype(), &Shape::of(product))
}

fn pick(site: Site<'_>, user: User, forced: Option<Backend>, dtype: DType, shape: &Shape) -> Result<Chosen> {
    let computes = |backend: Backend| backend.computes(site, dtype, shape);
    let named = environment()?;
    if let Some(backend) = forced.or(named) {
        // What a backend does not compute here is the usual one's.
        let takes = computes(backend) && user.admits(dtype.as_str(), backend);
        return Ok(Chosen { backend: if takes { backend } else { user.usual() }, why: Why::Forced });
    }
    let chosen = known(site).map(|known| {
        let rules = match user {
            User::Calls => &known.calls,
            User::Layers => &known.layers,
        };
        known.table.choose_for(user, rules, dtype, shape)
    });
    Ok(match chosen {
        Some(chosen) if chosen.why != Why::Unmeasured && computes(chosen.backend) => chosen,
        _ => Chosen { backend: Backend::default(user, site, dtype), why: Why::Unmeasured },
    })
}

impl Table {
    /// The choice for a product, by `rules`, which are [`Table::rules`].
    pub fn choose(&self, rules: &[Rule], dtype: DType, shape: &Shape) -> Chosen {
        self.choose_for(User::Calls, rules, dtype, shape)
    }

    pub(crate) fn choose_for(&self, user: User, rules: &[Rule], dtype: DType, shape: &Shape) -> Chosen {
        if let Some(entry) = self.entry(dtype, shape) {
            return Chosen { backend: entry.winner_for(user), why: Why::Measured };
        }
        match Rule::of(rules, dtype, shape) {
            Some(rule) => Chosen { backend: rule.backend, why: Why::Fitted },
            None => Chosen { backend: user.usual(), why: Why::Unmeasured },
        }
    }
}

impl Rule {
    /// The one that holds for a product.
    pub fn of<'a>(rules: &'a [Rule], dtype: DType, shape: &Shape) -> Option<&'a Rule> {
        let fits = |rule: &&Rule| {
            rule.dtype == dtype.as_str() && rule.class == shape.class() && rule.from_flops <= shape.flops()
        };
        // Of its own layout; of the other where that was not measured.
        let mut found = rules.iter().rev().filter(fits);
        let first = found.clone().next();
        found.find(|rule| rule.b_transposed == shape.b_transposed).or(first)
    }
}

/// The device's table, read once a process.
fn known(site: Site<'_>) -> Option<Arc<Known>> {
    let mut tables = TABLES.lock().unwrap_or_else(|e| e.into_inner());
    let read = || {
        let table = store::load(&site.key())?;
        let (calls, layers) = (table.rules_for(User::Calls), table.rules_for(User::Layers));
        Some(Arc::new(Known { table, calls, layers }))
    };
    tables.entry(site.id()).or_insert_with(read).clone()
}

/// Makes a new table count in this process.
pub(super) fn forget(site: Site<'_>) {
    TABLES.lock().unwrap_or_else(|e| e.into_inner()).remove(&site.id());
}
