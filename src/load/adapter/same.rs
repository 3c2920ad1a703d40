//! Whether two adapters are one: what was written, read again.

use std::path::Path;

use candle_core::Tensor;
use safetensors::tensor::View;

use super::{Adapter, refuse};
use crate::Result;

impl Adapter {
    /// Refuses another adapter that does not have the same modules with the same tensors, to the last bit, and the
    /// same scales; `what` names it in the error.
    ///
    /// # Errors
    ///
    /// All modules that differ.
    pub fn check_same(&self, other: &Adapter, what: &Path) -> Result<()> {
        let mut problems = Vec::new();
        for module in
            self.tensors.keys().chain(other.tensors.keys().filter(|m| !self.tensors.contains_key(*m)))
        {
            let same = match (self.tensors.get(module), other.tensors.get(module)) {
                (Some(one), Some(two)) => {
                    let (s, t) = (self.config.scale(module)?, other.config.scale(module)?);
                    // A scale that goes through alpha may come back with its last bit rounded.
                    equal(Some(&one.a), Some(&two.a))
                        && equal(Some(&one.b), Some(&two.b))
                        && equal(one.magnitude.as_ref(), two.magnitude.as_ref())
                        && (s - t).abs() <= 1e-12 * s.abs()
                }
                _ => false,
            };
            problems.extend((!same).then(|| (module.clone(), "wants the same in both".to_string())));
        }
        for name in self.saved.keys().chain(other.saved.keys().filter(|n| !self.saved.contains_key(*n))) {
            if !equal(self.saved.get(name), other.saved.get(name)) {
                problems.push((name.clone(), "wants the same in both".to_string()));
            }
        }
        refuse(what, problems)
    }
}

fn equal(one: Option<&Tensor>, two: Option<&Tensor>) -> bool {
    match (one, two) {
        (None, None) => true,
        (Some(one), Some(two)) => {
            one.dims() == two.dims() && one.dtype() == two.dtype() && one.data() == two.data()
        }
        _ => false,
    }
}
