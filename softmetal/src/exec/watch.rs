//! Which memory a kernel may use, by address.

use super::abi;
use super::check::{Checker, Finding, Space, Use};
use super::local::Variable;
use super::memory::Memory;
use super::shadow::Shadow;
use std::ffi::c_int;
use std::ops::Range;
use std::sync::MutexGuard;

/// What a kernel may use.
pub(super) struct Region<'a> {
    pub addresses: Range<usize>,
    /// As reports call it.
    pub name: String,
    shadow: Shadowed<'a>,
}

enum Shadowed<'a> {
    Memory(&'a Memory, MutexGuard<'a, Shadow>),
    Variable(Shadow),
    Constant,
    Unbound,
}

impl Region<'_> {
    pub fn space(&self) -> Space {
        match self.shadow {
            Shadowed::Variable(_) => Space::Threadgroup,
            _ => Space::Device,
        }
    }
}

/// What is to be said of a use of memory. Regions are named by their number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    Fine,
    Found {
        region: usize,
        offset: usize,
        finding: Finding,
    },
    /// The region ends before the use does.
    PastEnd(usize),
    Misaligned(usize),
    WritesConstant(usize),
    /// Nothing is bound there.
    Unbound(usize),
    /// In no region.
    Nowhere,
}

/// All that a dispatch may use, and the checker of how.
pub(super) struct Watch<'a> {
    pub checker: Checker<'a>,
    pub regions: Vec<Region<'a>>,
    last: usize,
}

impl<'a> Watch<'a> {
    pub fn new(checker: Checker<'a>) -> Self {
        Self { checker, regions: Vec::new(), last: 0 }
    }

    pub fn add_memory(&mut self, memory: &'a Memory, shadow: MutexGuard<'a, Shadow>, name: String) {
        let start = memory.address() as usize;
        let shadow = Shadowed::Memory(memory, shadow);
        self.regions.push(Region { addresses: start..start + memory.length(), name, shadow });
    }

    /// What may be read only, and has no shadow.
    pub fn add_constant(&mut self, addresses: Range<usize>, name: String) {
        self.regions.push(Region { addresses, name, shadow: Shadowed::Constant });
    }

    /// What an argument without buffer points at.
    pub fn add_unbound(&mut self, addresses: Range<usize>, name: String) {
        self.regions.push(Region { addresses, name, shadow: Shadowed::Unbound });
    }

    pub fn add_variable(&mut self, variable: Variable) {
        let shadow = Shadowed::Variable(Shadow::new(variable.addresses.len()));
        let name = format!("threadgroup variable `{}`", variable.name);
        self.regions.push(Region { addresses: variable.addresses, name, shadow });
    }

    /// Whether an address is in the region that was used last.
    #[inline]
    pub fn is_recent(&self, address: usize) -> bool {
        self.regions.get(self.last).is_some_and(|region| region.addresses.contains(&address))
    }

    #[inline]
    pub fn access(&mut self, address: usize, size: usize, kind: c_int, pc: u32) -> Verdict {
        if !self.is_recent(address) {
            let found = self.regions.iter().position(|region| region.addresses.contains(&address));
            let Some(found) = found else {
                return if size == 0 { Verdict::Fine } else { Verdict::Nowhere };
            };
            self.last = found;
        }
        let region = &mut self.regions[self.last];
        let offset = address - region.addresses.start;
        if matches!(region.shadow, Shadowed::Unbound) {
            return Verdict::Unbound(self.last);
        }
        if size > region.addresses.len() - offset {
            return Verdict::PastEnd(self.last);
        }
        if kind & abi::ACCESS_ALIGNED != 0 && !address.is_multiple_of(size) {
            return Verdict::Misaligned(self.last);
        }
        let how = how(kind);
        let found = match &mut region.shadow {
            Shadowed::Memory(memory, shadow) => {
                self.checker.check(shadow, Some(memory), offset, size, how, pc)
            }
            Shadowed::Variable(shadow) => self.checker.check(shadow, None, offset, size, how, pc),
            Shadowed::Constant if how.write => return Verdict::WritesConstant(self.last),
            Shadowed::Constant | Shadowed::Unbound => None,
        };
        found.map_or(Verdict::Fine, |(offset, finding)| Verdict::Found { region: self.last, offset, finding })
    }
}

/// What a kind of the contract means.
pub(super) fn how(kind: c_int) -> Use {
    match kind & !abi::ACCESS_ALIGNED {
        abi::ACCESS_READ => Use { read: true, write: false, atomic: false },
        abi::ACCESS_WRITE => Use { read: false, write: true, atomic: false },
        abi::ACCESS_ATOMIC_READ => Use { read: true, write: false, atomic: true },
        abi::ACCESS_ATOMIC_WRITE => Use { read: false, write: true, atomic: true },
        _ => Use { read: true, write: true, atomic: true },
    }
}
