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
    readers: Readers,
}

/// Commands that have read parts of a page and that a later reader, which nothing orders after them, has taken the place
/// of in the cells.
#[derive(Default)]
pub(super) struct Readers(Vec<Reader>);

struct Reader {
    stamp: Stamp,
    pc: u32,
    /// Which of the page's bytes.
    bytes: [u64; PAGE / 64],
}

/// The bytes of a cell in its page.
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    word: usize,
    bits: u64,
}

impl Readers {
    /// Remembers a command's read; `same` says which stamps are of that command.
    pub fn add(&mut self, stamp: Stamp, pc: u32, at: Bytes, same: impl Fn(Stamp) -> bool) {
        let known = self.0.iter_mut().find(|reader| same(reader.stamp));
        match known {
            Some(reader) => reader.bytes[at.word] |= at.bits,
            None => {
                let mut bytes = [0; PAGE / 64];
                bytes[at.word] = at.bits;
                self.0.push(Reader { stamp, pc, bytes });
            }
        }
    }

    /// Forgets those reads of a cell that `keep` has no more use for.
    #[inline]
    pub fn retain(&mut self, at: Bytes, mut keep: impl FnMut(Stamp, u32) -> bool) {
        if self.0.is_empty() {
            return;
        }
        for reader in &mut self.0 {
            if reader.bytes[at.word] & at.bits != 0 && !keep(reader.stamp, reader.pc) {
                reader.bytes[at.word] &= !at.bits;
            }
        }
        self.0.retain(|reader| reader.bytes[at.word] != 0 || reader.bytes.iter().any(|word| *word != 0));
    }
}

impl Page {
    fn new() -> Self {
        Self { shift: 2, cells: vec![Cell::default(); PAGE / 4].into(), readers: Readers::default() }
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

    /// The cells of a range that lies within one page, the bytes of each, and the page's readers.
    #[inline]
    fn cells_in_page(&mut self, offset: usize, size: usize) -> (&mut [Cell], usize, &mut Readers) {
        if self.pages.is_empty() {
            self.pages.resize_with(self.length.div_ceil(PAGE), || None);
        }
        let page = self.pages[offset >> PAGE_BITS].get_or_insert_with(|| Box::new(Page::new()));
        let needed = (offset | size).trailing_zeros().min(2);
        if needed < page.shift {
            page.refine(needed);
        }
        let start = offset % PAGE;
        let cells = start >> page.shift..(start + size) >> page.shift;
        (&mut page.cells[cells], 1 << page.shift, &mut page.readers)
    }

    /// Calls `f` with the offset and the cell of each part of a range that lies inside of the memory, and with the other
    /// readers of its page and which bytes of that it is.
    #[inline]
    pub fn each(
        &mut self,
        offset: usize,
        size: usize,
        mut f: impl FnMut(usize, &mut Cell, &mut Readers, Bytes),
    ) {
        let (mut at, end) = (offset, offset + size);
        while at < end {
            let part = (PAGE - at % PAGE).min(end - at);
            let (cells, granule, readers) = self.cells_in_page(at, part);
            for (i, cell) in cells.iter_mut().enumerate() {
                let here = at + i * granule;
                let bits = ((1 << granule) - 1) << (here % 64);
                f(here, cell, readers, Bytes { word: here % PAGE / 64, bits });
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
            shadow.each(offset, size, |offset, _, _, _| offsets.push(offset));
            offsets
        };
        assert_eq!(count(&mut shadow, 1020, 8), [1020, 1024]);
        shadow.each(1020, 4, |_, cell, _, _| cell.write = Stamp::new(7, 1, 33, ATOMIC));
        assert_eq!(count(&mut shadow, 1022, 1), [1022]);
        assert_eq!(count(&mut shadow, 1020, 8), [1020, 1021, 1022, 1023, 1024]);
        shadow.each(1023, 1, |_, cell, _, _| {
            let write = cell.write;
            assert_eq!((write.interval(), write.epoch(), write.thread(), write.simdgroup()), (7, 1, 33, 1));
            assert!(write.is(ATOMIC) && !write.is_many());
        });
        assert_eq!(count(&mut shadow, 2996, 4), [2996]);
    }
}
