//! An adapter's update in a weight: `W + s B A`, and with DoRA's magnitude `m (W + s B A) / ‖W + s B A‖` by row.

use candle_core::{DType, Tensor};

use super::LoraPair;
use crate::Result;

impl LoraPair {
    /// The weight (out, in) with this update of factor `scale`, in f32.
    ///
    /// # Errors
    ///
    /// When the weight is of another size.
    pub fn merged(&self, weight: &Tensor, scale: f64) -> Result<Tensor> {
        let f32 = |tensor: &Tensor| tensor.to_dtype(DType::F32);
        let update = (f32(&self.b)?.matmul(&f32(&self.a)?)? * scale)?;
        let adapted = (f32(weight)? + update)?;
        let Some(magnitude) = &self.magnitude else { return Ok(adapted) };
        let factor = (f32(magnitude)? / adapted.sqr()?.sum(1)?.sqrt()?)?;
        Ok(adapted.broadcast_mul(&factor.unsqueeze(1)?)?)
    }
}
