//! The run-time check that every trainable variable has a gradient.

use crate::error::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};

/// Runs `loss` backward and returns the gradients, or an error that names every variable of `vars` whose gradient
/// is missing or not finite.
///
/// Candle's `backward` succeeds when an op has cut the graph; this does not.
///
/// # Errors
///
/// [`Error::NoGradient`] with all the names, or the error of `backward` itself.
pub fn grad_coverage(loss: &Tensor, vars: &[(String, Var)]) -> Result<GradStore> {
    let grads = loss.backward()?;
    covered(vars, |var| grads.get(var))?;
    Ok(grads)
}

/// The check over any source of gradients.
pub(crate) fn covered<'a>(
    vars: &'a [(String, Var)],
    grad: impl Fn(&'a Var) -> Option<&'a Tensor>,
) -> Result<()> {
    let mut names = Vec::new();
    for (name, var) in vars {
        match grad(var) {
            None => names.push(format!("{name} (none)")),
            Some(g) => {
                // Infinity and NaN both survive a sum of absolute values.
                let size = g.to_dtype(DType::F32)?.abs()?.sum_all()?.to_scalar::<f32>()?;
                if !size.is_finite() {
                    names.push(format!("{name} ({size})"));
                }
            }
        }
    }
    match names.is_empty() {
        true => Ok(()),
        false => Err(Error::NoGradient { names, total: vars.len() }),
    }
}
