//! Integer functions, against the same in 128 bits.

use super::{Random, apply};

const NAMES: [&str; 24] = [
    "abs",
    "absdiff",
    "addsat",
    "clamp",
    "clz",
    "ctz",
    "extract_bits",
    "hadd",
    "insert_bits",
    "mad24",
    "madhi",
    "madsat",
    "max",
    "max3",
    "median3",
    "min",
    "min3",
    "mul24",
    "mulhi",
    "popcount",
    "reverse_bits",
    "rhadd",
    "rotate",
    "subsat",
];

/// `name` of numbers of a type with `bits`, before what is too much of the result is cut off.
fn expected(name: &str, x: i128, y: i128, z: i128, bits: u32, signed: bool) -> i128 {
    let (low, high) = match signed {
        true => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
        false => (0, (1i128 << bits) - 1),
    };
    let mask = (1u128 << bits) - 1;
    let word = x as u128 & mask;
    match name {
        "abs" => x.abs(),
        "absdiff" => (x - y).abs(),
        "addsat" => (x + y).clamp(low, high),
        "subsat" => (x - y).clamp(low, high),
        "clamp" => x.max(y).min(z),
        "clz" => i128::from(word.leading_zeros() - (128 - bits)),
        "ctz" => i128::from(word.trailing_zeros().min(bits)),
        "popcount" => i128::from(word.count_ones()),
        "reverse_bits" => (word.reverse_bits() >> (128 - bits)) as i128,
        "hadd" => (x + y) >> 1,
        "rhadd" => (x + y + 1) >> 1,
        "max" => x.max(y),
        "min" => x.min(y),
        "max3" => x.max(y).max(z),
        "min3" => x.min(y).min(z),
        "median3" => x + y + z - x.max(y).max(z) - x.min(y).min(z),
        "mulhi" => high_half(x, y, bits),
        "madhi" => high_half(x, y, bits) + z,
        "madsat" => match x.checked_mul(y).and_then(|product| product.checked_add(z)) {
            Some(sum) => sum.clamp(low, high),
            None => high, // of two ulongs
        },
        "mul24" => x * y,
        "mad24" => x * y + z,
        "rotate" => {
            let by = (y as u128 % u128::from(bits)) as u32;
            (word << by | word >> (bits - by)) as i128
        }
        "extract_bits" if z == 0 => 0,
        "extract_bits" => {
            let field = (word >> y & ((1 << z) - 1)) as i128;
            if signed && field >> (z - 1) != 0 { field - (1 << z) } else { field }
        }
        "insert_bits" => {
            let field = ((1i128 << z) - 1) << y;
            x & !field | (!x << y) & field
        }
        _ => panic!("{name}"),
    }
}

fn high_half(x: i128, y: i128, bits: u32) -> i128 {
    match x.checked_mul(y) {
        Some(product) => product >> bits,
        None => ((x as u128 * y as u128) >> bits) as i128,
    }
}

trait Integer: Copy + Default + PartialEq + std::fmt::Debug + Into<i128> {
    const BITS: u32;
    const SIGNED: bool;
    fn wrap(value: i128) -> Self;
}
macro_rules! integers {
    ($($t:ty),*) => {$(
        impl Integer for $t {
            const BITS: u32 = <$t>::BITS;
            const SIGNED: bool = <$t>::MIN != 0;
            fn wrap(value: i128) -> Self { value as $t }
        }
    )*};
}
integers!(i8, u8, i16, u16, i32, u32, i64, u64);

fn check<T: Integer>(function: &str) {
    let mut random = Random(u64::from(T::BITS));
    let edges =
        [0, 1, 2, 3, -1, -2, 1 << (T::BITS - 1), (1 << (T::BITS - 1)) - 1, (1 << (T::BITS - 1)) + 1, 100, 24];
    let mut number = |_| match random.next() {
        r if r % 3 == 0 => T::wrap(edges[(r >> 8) as usize % edges.len()]),
        r => T::wrap(i128::from(random.next() as i64 >> (r >> 8 & 63))),
    };
    let count = 20_000;
    let [x, y, z] = [(); 3].map(|()| (0..count).map(&mut number).collect::<Vec<T>>());
    for name in NAMES {
        let (mut x, mut y, mut z) = (x.clone(), y.clone(), z.clone());
        match name {
            "mul24" | "mad24" if T::BITS != 32 => continue,
            "mul24" | "mad24" => {
                for v in x.iter_mut().chain(&mut y) {
                    let value: i128 = (*v).into();
                    *v = T::wrap(if T::SIGNED { (value << 104) >> 104 } else { value & 0xffffff });
                }
            }
            "extract_bits" | "insert_bits" => {
                for (offset, bits) in y.iter_mut().zip(&mut z) {
                    let at: i128 = (*offset).into().rem_euclid(i128::from(T::BITS) + 1);
                    let n: i128 = (*bits).into().rem_euclid(i128::from(T::BITS) - at + 1);
                    (*offset, *bits) = (T::wrap(at), T::wrap(n));
                }
            }
            "clamp" => y.iter_mut().zip(&mut z).for_each(|(low, high)| {
                if (*low).into() > (*high).into() {
                    std::mem::swap(low, high);
                }
            }),
            _ => {}
        }
        let results = apply(function, name, &x, &y, &z);
        for i in 0..count {
            let want = T::wrap(expected(name, x[i].into(), y[i].into(), z[i].into(), T::BITS, T::SIGNED));
            assert_eq!(results[i], want, "{function}: {name}({:?}, {:?}, {:?})", x[i], y[i], z[i]);
        }
    }
}

#[test]
fn integer_functions() {
    check::<i8>("integers_char");
    check::<u8>("integers_uchar");
    check::<i16>("integers_short");
    check::<u16>("integers_ushort");
    check::<i32>("integers_int");
    check::<u32>("integers_uint");
    check::<i64>("integers_long");
    check::<u64>("integers_ulong");
}
