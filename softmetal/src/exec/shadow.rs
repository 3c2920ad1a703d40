//! Shadow memory: for each byte, who wrote it last and who has read it since.

/// A use of memory, in 64 bits: interval, how many simdgroup barriers the thread had passed, thread, flags. 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp(u64);

/// All uses that the stamp stands for were atomic.
pub(super) const ATOMIC: u64 = 1;
/// It stands for several threads of one simdgroup, of which it names one.
pub(super) const MANY_LANES: u64 = 2;
/// It stands for threads of several simdgroups of one threadgroup.
pub(super) const MANY_SIMDGROUPS: u64 = 4;
/// It stands for threads of several threadgroups of one command.
pub(super) const MANY_THREADGROUPS: u64 = 8;
const MANY: u64 = MANY_LANES | MANY_SIMDGROUPS | MANY_THREADGROUPS;

/// More simdgroup barriers than these are not told apart.
pub(super) const LAST_EPOCH: u64 = (1 << 12) - 1;

impl Stamp {
    pub fn new(interval: u64, epoch: u64, thread: u32, flags: u64) -> Self {
        Self(interval << 26 | epoch.min(LAST_EPOCH) << 14 | u64::from(thread) << 4 | flags)
    }

    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    pub fn interval(self) -> u64 {
        self.0 >> 26
    }

    pub fn epoch(self) -> u64 {
        self.0 >> 14 & LAST_EPOCH
    }

    pub fn thread(self) -> u32 {
        (self.0 >> 4 & 1023) as u32
    }

    pub fn simdgroup(self) -> u32 {
        self.thread() / 32
    }

    pub fn is(self, flags: u64) -> bool {
        self.0 & flags != 0
    }

    pub fn is_many(self) -> bool {
        self.is(MANY)
    }

    pub fn with(self, flags: u64) -> Self {
        Self(self.0 | flags)
    }

    pub fn without(self, flags: u64) -> Self {
        Self(self.0 & !flags)
    }
}

/// What is known of a granule: one, two or four bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    pub write: Stamp,
    pub read: Stamp,
    /// Where in the kernel's image.
    pub write_pc: u32,
    pub read_pc: u32,
}

const PAGE_BITS: usize = 10;
const PAGE: usize = 1 << PAGE_BITS;

/// A page has the granules of the smallest use it has seen: most tensors are of `float`, and need a cell for four
/// bytes only.
struct Page {
    shift: u32,
    cells: Box<[Cell]>,
}

impl Page {
    fn new() -> Self {
        Self { shift: 2, cells: vec![Cell::default(); PAGE / 4].into() }
    }

    #[cold]
    fn refine(&mut self, shift: u32) {
        let times = 1 << (self.shift - shift);
        self.cells = self.cells.iter().flat_map(|cell| std::iter::repeat_n(*cell, times)).collect();
        self.shift = shift;
    }
}

/// The shadow of a memory. Pages are made when they are first used.
pub(super) struct Shadow {
    pages: Vec<Option<Box<Page>>>,
    length: usize,
}

impl Shadow {
    pub const fn new(length: usize) -> Self {
        Self { pages: Vec::new(), length }
    }

    /// The cells of a range that lies within one page, and the bytes of each.
    #[inline]
    fn cells_in_page(&mut self, offset: usize, size: usize) -> (&mut [Cell], usize) {
        if self.pages.is_empty() {
            self.pages.resize_with(self.length.div_ceil(PAGE), || None);
        }
        let page = self.pages[offset >> PAGE_BITS].get_or_insert_with(|| Box::new(Page::new()));
        let needed = (offset | size).trailing_zeros().min(2);
        if needed < page.shift {
            page.refine(needed);
        }
        let start = offset % PAGE;
        (&mut page.cells[start >> page.shift..(start + size) >> page.shift], 1 << page.shift)
    }

    /// Calls `f` with the offset and the cells of each part of a range that lies inside of the memory.
    #[inline]
    pub fn each(&mut self, offset: usize, size: usize, mut f: impl FnMut(usize, &mut Cell)) {
        let (mut at, end) = (offset, offset + size);
        while at < end {
            let part = (PAGE - at % PAGE).min(end - at);
            let (cells, granule) = self.cells_in_page(at, part);
            for (i, cell) in cells.iter_mut().enumerate() {
                f(at + i * granule, cell);
            }
            at += part;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_get_finer() {
        let mut shadow = Shadow::new(3000);
        let count = |shadow: &mut Shadow, offset, size| {
            let mut offsets = Vec::new();
            shadow.each(offset, size, |offset, _| offsets.push(offset));
            offsets
        };
        assert_eq!(count(&mut shadow, 1020, 8), [1020, 1024]);
        shadow.each(1020, 4, |_, cell| cell.write = Stamp::new(7, 1, 33, ATOMIC));
        assert_eq!(count(&mut shadow, 1022, 1), [1022]);
        assert_eq!(count(&mut shadow, 1020, 8), [1020, 1021, 1022, 1023, 1024]);
        shadow.each(1023, 1, |_, cell| {
            let write = cell.write;
            assert_eq!((write.interval(), write.epoch(), write.thread(), write.simdgroup()), (7, 1, 33, 1));
            assert!(write.is(ATOMIC) && !write.is_many());
        });
        assert_eq!(count(&mut shadow, 2996, 4), [2996]);
    }
}
