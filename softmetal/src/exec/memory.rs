//! Memory that kernels use, and the map of all of it: what an address of the GPU's is.
//!
//! All buffers lie in a reserved range, the arena, with unmapped pages between them: an address in the arena that
//! is in no buffer is out of bounds, and the map says of which.

use super::shadow::Shadow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

/// Memory that kernels use: a buffer's, as the GPU sees it.
pub struct Memory {
    address: *mut u8,
    length: usize,
    shadow: Mutex<Shadow>,
}

// SAFETY: kernels use the memory as the program orders them to, which is what is checked.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// The memory at an address of the GPU's, which is mapped as long as this lives; reports call it `name`.
    ///
    /// # Safety
    /// `length` bytes at `address` are mapped, and what lies before and after them on the pages beside is not.
    pub unsafe fn new(address: *mut u8, length: usize, name: String) -> Self {
        let live = Live { length, name: name.into() };
        MAP.write().unwrap_or_else(|e| e.into_inner()).insert(address as usize, live);
        Self { address, length, shadow: Mutex::new(Shadow::new(length)) }
    }

    /// Where it begins.
    pub fn address(&self) -> *mut u8 {
        self.address
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// What reports call it.
    pub fn name(&self) -> Arc<str> {
        let map = MAP.read().unwrap_or_else(|e| e.into_inner());
        map.get(&(self.address as usize)).map_or_else(|| "buffer".into(), |live| live.name.clone())
    }

    /// Gives it another name: its buffer has a label now.
    pub fn rename(&self, name: &str) {
        let mut map = MAP.write().unwrap_or_else(|e| e.into_inner());
        if let Some(live) = map.get_mut(&(self.address as usize)) {
            live.name = name.into();
        }
    }

    /// Who used which byte last. Held for as long as a dispatch runs.
    pub(super) fn shadow(&self) -> MutexGuard<'_, Shadow> {
        self.shadow.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        MAP.write().unwrap_or_else(|e| e.into_inner()).remove(&(self.address as usize));
    }
}

struct Live {
    length: usize,
    name: Arc<str>,
}

/// Every memory that lives, by address.
static MAP: RwLock<BTreeMap<usize, Live>> = RwLock::new(BTreeMap::new());
static ARENAS: RwLock<Vec<Range<usize>>> = RwLock::new(Vec::new());

/// Says that addresses are reserved for buffers.
pub fn add_arena(addresses: Range<usize>) {
    ARENAS.write().unwrap_or_else(|e| e.into_inner()).push(addresses);
}

/// What an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Inside of a memory that lives: its name, its length, the offset.
    Memory(Arc<str>, usize, usize),
    /// Inside of an arena and of no memory: name and length of the nearest, and the offset from its beginning.
    Arena(Option<(Arc<str>, usize, isize)>),
    /// Neither.
    Elsewhere,
}

/// What an address is.
pub fn find(address: usize) -> Place {
    let map = MAP.read().unwrap_or_else(|e| e.into_inner());
    let below = map.range(..=address).next_back();
    if let Some((start, live)) = below
        && address - start < live.length
    {
        return Place::Memory(live.name.clone(), live.length, address - start);
    }
    let arenas = ARENAS.read().unwrap_or_else(|e| e.into_inner());
    if !arenas.iter().any(|arena| arena.contains(&address)) {
        return Place::Elsewhere;
    }
    let distance = |(start, live): (&usize, &Live)| match address.checked_sub(*start) {
        Some(offset) => offset - live.length,
        None => start - address,
    };
    let above = map.range(address..).next();
    let nearest = below.into_iter().chain(above).min_by_key(|place| distance(*place));
    let named = |(start, live): (&usize, &Live)| {
        (live.name.clone(), live.length, address.wrapping_sub(*start) as isize)
    };
    Place::Arena(nearest.map(named))
}

/// The eight bytes (little-endian) that memory nobody has written holds at an offset that eight divides.
///
/// Each 16 bits are a NaN as `half` and as `bfloat`, each 32 as `float`, so that what is computed from them shows; and
/// they differ from place to place, so that a copy of them elsewhere is not taken for memory that was never written.
pub fn poison(offset: usize) -> u64 {
    let mixed = (offset as u64 / 8 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
    (mixed & !POISON_MASK) | POISON
}

const POISON: u64 = 0x7FF0_7FF0_7FF0_7FF0;
const POISON_MASK: u64 = POISON;

/// Whether eight bytes can be poison at all: the quick half of the question.
pub(super) fn like_poison(word: u64) -> bool {
    word & POISON_MASK == POISON
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poison_is_not_a_number() {
        for offset in (0..1 << 16).step_by(8) {
            let word = poison(offset);
            assert!(like_poison(word));
            for lane in 0..4 {
                let bits = (word >> (16 * lane)) as u16;
                assert!(half::f16::from_bits(bits).is_nan() && half::bf16::from_bits(bits).is_nan());
            }
            assert!(f32::from_bits(word as u32).is_nan());
            assert_ne!(word, poison(offset + 8));
        }
    }

    #[test]
    fn nearest_memory() {
        let start = 0x7000_0000_0000;
        add_arena(start..start + 0x10_0000);
        // SAFETY: never accessed.
        let a = unsafe { Memory::new((start + 0x1000) as *mut u8, 100, "a".into()) };
        // SAFETY: as above.
        let _b = unsafe { Memory::new((start + 0x4000) as *mut u8, 100, "b".into()) };
        assert_eq!(find(start + 0x1063), Place::Memory("a".into(), 100, 99));
        assert_eq!(find(start + 0x1064), Place::Arena(Some(("a".into(), 100, 100))));
        assert_eq!(find(start + 0x3FFF), Place::Arena(Some(("b".into(), 100, -1))));
        assert_eq!(find(start - 1), Place::Elsewhere);
        a.rename("c");
        assert_eq!(find(start + 0x1000), Place::Memory("c".into(), 100, 0));
        drop(a);
        assert_eq!(find(start + 0x1000), Place::Arena(Some(("b".into(), 100, -0x3000))));
    }
}
