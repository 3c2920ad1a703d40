//! Which backend computes a product.

use super::site::{Site, SiteId};
use super::store;
use super::table::{Entry, Rule, Shape, Table, User};
use super::{Backend, Product};
use crate::kernels::gpu::Gpu;
use candle_core::{DType, Device, Error, Result};
use std::cell::Cell;
use std::sync::{LazyLock, RwLock};

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

/// What follows from a table, for each of those who multiply: found by numbers, since a choice is a part of each product's time.
pub(super) struct Known {
    /// In order.
    measured: Vec<((u8, Shape), [Backend; 2])>,
    rules: [Vec<Rule>; 2],
}

static TABLES: RwLock<Vec<(SiteId, Option<Known>)>> = RwLock::new(Vec::new());

/// The dtypes of products, by number.
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn number(dtype: DType) -> u8 {
    DTYPES.iter().position(|known| *known == dtype).unwrap_or(DTYPES.len()) as u8
}

impl Known {
    pub fn of(table: &Table) -> Self {
        let number = |name: &str| DTYPES.iter().position(|dtype| dtype.as_str() == name);
        let users = [User::Calls, User::Layers];
        let known = |entry: &Entry| {
            Some(((number(&entry.dtype)? as u8, entry.shape), users.map(|user| entry.winner_for(user))))
        };
        let mut measured: Vec<_> = table.entries.iter().filter_map(known).collect();
        measured.sort_unstable_by_key(|(key, _)| *key);
        Known { measured, rules: users.map(|user| table.rules_for(user)) }
    }

    /// As [`Table::choose_for`]; none for what is like nothing that was measured.
    pub fn choose(&self, user: User, dtype: DType, shape: &Shape) -> Option<Chosen> {
        let wanted = (number(dtype), *shape);
        if let Ok(at) = self.measured.binary_search_by(|(key, _)| key.cmp(&wanted)) {
            return Some(Chosen { backend: self.measured[at].1[user as usize], why: Why::Measured });
        }
        let rule = Rule::of(&self.rules[user as usize], dtype, shape)?;
        Some(Chosen { backend: rule.backend, why: Why::Fitted })
    }
}

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
    Ok(match known(site, |known| known.choose(user, dtype, shape)) {
        Some(chosen) if computes(chosen.backend) => chosen,
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

/// What `f` finds in the device's table, which is read once a process.
fn known<R>(site: Site<'_>, f: impl Fn(&Known) -> Option<R>) -> Option<R> {
    let id = site.id();
    let tables = TABLES.read().unwrap_or_else(|e| e.into_inner());
    if let Some((_, known)) = tables.iter().find(|(at, _)| *at == id) {
        return f(known.as_ref()?);
    }
    drop(tables);
    let mut tables = TABLES.write().unwrap_or_else(|e| e.into_inner());
    // Another thread may have read it meanwhile.
    if !tables.iter().any(|(at, _)| *at == id) {
        tables.push((id, store::load(&site.key()).as_ref().map(Known::of)));
    }
    let (_, known) = tables.iter().find(|(at, _)| *at == id)?;
    f(known.as_ref()?)
}

/// Makes a new table count in this process.
pub(super) fn forget(site: Site<'_>) {
    let id = site.id();
    TABLES.write().unwrap_or_else(|e| e.into_inner()).retain(|(at, _)| *at != id);
}
