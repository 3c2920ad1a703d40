//! `MPSDataType`: what a matrix's elements are.

use half::f16;

/// The type of a matrix's elements, as a program says it: any `MPSDataType`, also one that no kernel takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataType(pub u32);

const FLOAT_BIT: u32 = 0x1000_0000;
const SIGNED_BIT: u32 = 0x2000_0000;
const ALTERNATE_BIT: u32 = 0x8000_0000;

impl DataType {
    /// `MPSDataTypeInvalid`.
    pub const INVALID: Self = Self(0);
    /// `MPSDataTypeFloat32`.
    pub const FLOAT32: Self = Self(FLOAT_BIT | 32);
    /// `MPSDataTypeFloat16`.
    pub const FLOAT16: Self = Self(FLOAT_BIT | 16);
    /// `MPSDataTypeBFloat16`.
    pub const BFLOAT16: Self = Self(ALTERNATE_BIT | FLOAT_BIT | 16);
    /// `MPSDataTypeInt8`.
    pub const INT8: Self = Self(SIGNED_BIT | 8);
    /// `MPSDataTypeInt16`.
    pub const INT16: Self = Self(SIGNED_BIT | 16);

    /// Apple's name.
    pub fn name(self) -> String {
        match self {
            Self::INVALID => "MPSDataTypeInvalid".into(),
            Self::FLOAT32 => "MPSDataTypeFloat32".into(),
            Self::FLOAT16 => "MPSDataTypeFloat16".into(),
            Self::BFLOAT16 => "MPSDataTypeBFloat16".into(),
            Self::INT8 => "MPSDataTypeInt8".into(),
            Self::INT16 => "MPSDataTypeInt16".into(),
            Self(raw) => format!("MPSDataType {raw:#x}"),
        }
    }

    /// Bytes of an element: the low bits of an `MPSDataType` are its width. None if that is no number of bytes.
    pub fn size(self) -> Option<usize> {
        let bits = (self.0 & 0xff) as usize;
        (bits > 0 && bits.is_multiple_of(8)).then_some(bits / 8)
    }

    /// How its elements are read and written; none if no kernel here takes it.
    pub(super) fn element(self) -> Option<Element> {
        match self {
            Self::FLOAT32 => Some(Element::F32),
            Self::FLOAT16 => Some(Element::F16),
            _ => None,
        }
    }
}

/// A type that kernels compute with, in `f32`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Element {
    F32,
    F16,
}

impl Element {
    /// The elements from an address on.
    ///
    /// # Safety
    /// As many elements are mapped there as `into` has. They need not be aligned.
    pub(super) unsafe fn read(self, from: *const u8, into: &mut [f32]) {
        // SAFETY: by contract.
        unsafe {
            match self {
                Self::F32 => {
                    let from = from.cast::<f32>();
                    into.iter_mut().enumerate().for_each(|(i, x)| *x = from.add(i).read_unaligned());
                }
                Self::F16 => {
                    let from = from.cast::<u16>();
                    let read = |i| f16::from_bits(from.add(i).read_unaligned()).to_f32();
                    into.iter_mut().enumerate().for_each(|(i, x)| *x = read(i));
                }
            }
        }
    }

    /// Writes elements, each rounded once.
    ///
    /// # Safety
    /// As many elements are mapped at `to` as `from` has.
    pub(super) unsafe fn write(self, from: &[f32], to: *mut u8) {
        // SAFETY: by contract.
        unsafe {
            match self {
                Self::F32 => {
                    let to = to.cast::<f32>();
                    from.iter().enumerate().for_each(|(i, x)| to.add(i).write_unaligned(*x));
                }
                Self::F16 => {
                    let to = to.cast::<u16>();
                    let write = |i, x| to.add(i).write_unaligned(f16::from_f32(x).to_bits());
                    from.iter().enumerate().for_each(|(i, x)| write(i, *x));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_names() {
        for (data_type, size) in
            [(DataType::FLOAT32, 4), (DataType::FLOAT16, 2), (DataType::BFLOAT16, 2), (DataType::INT8, 1)]
        {
            assert_eq!(data_type.size(), Some(size));
        }
        assert_eq!(DataType::INVALID.size(), None);
        assert_eq!(DataType(2).size(), None, "two bits");
        assert_eq!(DataType(0x9000_0010).name(), "MPSDataTypeBFloat16");
        assert_eq!(DataType(32).name(), "MPSDataType 0x20");
    }

    #[test]
    fn halves_are_rounded_once() {
        let mut bytes = [0u8; 6];
        // SAFETY: three halves.
        unsafe { Element::F16.write(&[1.0, 65519.9, 1.000_488_3], bytes.as_mut_ptr()) };
        let halves: Vec<u16> = bytes.chunks(2).map(|b| u16::from_ne_bytes([b[0], b[1]])).collect();
        assert_eq!(halves, [0x3c00, 0x7bff, 0x3c00]);
    }
}
