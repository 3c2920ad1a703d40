//! The address space that buffers are in: a sparse file mapped whole for the GPU and once more for the host, where a
//! page is accessible as long as a buffer has it.

use super::{StorageMode, Token, fault};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// What is reserved, if the system gives so much: addresses only.
const LARGEST: usize = 1 << 38;
const SMALLEST: usize = 1 << 30;
/// Inaccessible bytes behind each buffer.
const GUARD: usize = 1 << 16;
/// Addresses that were freed are not given out again before so many bytes of others, or so many others, were freed.
const QUARANTINE: (usize, usize) = (1 << 28, 4096);

static ARENA: OnceLock<Arena> = OnceLock::new();

/// The arena, reserved when first asked for.
pub(super) fn get() -> &'static Arena {
    ARENA.get_or_init(|| {
        fault::install();
        let arena = Arena::reserve();
        crate::exec::memory::add_arena(arena.gpu..arena.gpu + arena.size);
        arena
    })
}

/// The arena, if there is one: what a signal handler may ask.
pub(super) fn existing() -> Option<&'static Arena> {
    ARENA.get()
}

pub(super) struct Arena {
    file: OwnedFd,
    gpu: usize,
    host: usize,
    size: usize,
    page: usize,
    /// Live buffers that get guard pages and protection: each costs mappings, which are limited.
    guarded_limit: usize,
    /// The fault handler takes this lock: nothing is accessed in the arena while it is held.
    state: Mutex<State>,
}

pub(super) struct State {
    /// By where their pages start in the file.
    pub(super) entries: BTreeMap<usize, Entry>,
    guarded: usize,
    space: Space,
}

/// A live buffer.
pub(super) struct Entry {
    pub(super) label: Arc<str>,
    /// Of its pages in the file.
    pub(super) end: usize,
    /// Of itself in the file.
    pub(super) first: usize,
    pub(super) length: usize,
    pub(super) uses: Vec<(Token, bool)>,
    pub(super) access: Access,
    guarded: bool,
    private: bool,
}

/// What the host may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    Nothing,
    Read,
    Write,
}

/// Where a buffer was put.
pub(super) struct Place {
    pub(super) start: usize,
    pub(super) gpu: *mut u8,
    pub(super) host: *mut u8,
}

/// Which of the mappings an address is in, and where in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Gpu(usize),
    Host(usize),
}

impl Arena {
    fn reserve() -> Self {
        // SAFETY: the name is a string; the descriptor is new.
        let file = unsafe {
            let file = libc::memfd_create(c"softmetal buffers".as_ptr(), libc::MFD_CLOEXEC);
            assert!(file >= 0, "memory of buffers: wants a memfd, got {}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(file)
        };
        let mut size = LARGEST;
        loop {
            if let Some((gpu, host)) = map_twice(&file, size) {
                // SAFETY: no memory is involved.
                let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
                let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
                let mappings: usize = limit.and_then(|limit| limit.trim().parse().ok()).unwrap_or(65530);
                // A buffer and its guard are two mappings on each side; half of the limit is left to the program.
                let guarded_limit = mappings / 8;
                let space = Space { end: GUARD, size, ..Space::default() };
                let state = Mutex::new(State { entries: BTreeMap::new(), guarded: 0, space });
                return Self { file, gpu, host, size, page, guarded_limit, state };
            }
            assert!(
                size > SMALLEST,
                "memory of buffers: wants {SMALLEST} bytes of addresses, got {}",
                std::io::Error::last_os_error()
            );
            size /= 2;
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn allocate(&self, length: usize, mode: StorageMode, label: Arc<str>) -> Option<Place> {
        let body = length.checked_next_multiple_of(16)?;
        let pages = body.checked_next_multiple_of(self.page)?.max(self.page);
        let mut state = self.lock();
        let guarded = state.guarded < self.guarded_limit;
        let guard = if guarded { GUARD } else { 0 };
        let start = state.space.take(pages.checked_add(guard)?)?;
        let (end, private) = (start + pages, mode == StorageMode::Private);
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        if !mprotect(self.gpu + start, pages, writable)
            || !(private || mprotect(self.host + start, pages, writable))
        {
            mprotect(self.gpu + start, pages, libc::PROT_NONE);
            state.space.give(start, pages + guard);
            return None;
        }
        let first = end - body;
        let access = if private { Access::Nothing } else { Access::Write };
        let entry = Entry { label, end, first, length, uses: Vec::new(), access, guarded, private };
        state.entries.insert(start, entry);
        state.guarded += usize::from(guarded);
        Some(Place { start, gpu: (self.gpu + first) as *mut u8, host: (self.host + first) as *mut u8 })
    }

    pub(super) fn free(&self, start: usize) {
        let mut state = self.lock();
        let Some(entry) = state.entries.remove(&start) else { return };
        let pages = entry.end - start;
        // A mapping more than the system allows leaves them accessible, which is all the harm.
        mprotect(self.gpu + start, pages, libc::PROT_NONE);
        mprotect(self.host + start, pages, libc::PROT_NONE);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: pages of the file that nobody has any more.
        unsafe { libc::fallocate(self.file.as_raw_fd(), mode, start as i64, pages as i64) };
        state.guarded -= usize::from(entry.guarded);
        let guard = if entry.guarded { GUARD } else { 0 };
        state.space.retire(Retired {
            start,
            bytes: pages + guard,
            label: entry.label,
            first: entry.first,
            length: entry.length,
        });
    }

    pub(super) fn with(&self, start: usize, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.lock().entries.get_mut(&start) {
            change(entry);
        }
    }

    /// Changes what uses the buffer that starts there, and with it what the host may do.
    pub(super) fn protect(&self, start: usize, change: impl FnOnce(&mut Vec<(Token, bool)>)) {
        self.with(start, |entry| {
            change(&mut entry.uses);
            if entry.private || !entry.guarded {
                return;
            }
            let access = match entry.uses.iter().map(|(_, write)| *write).max() {
                None => Access::Write,
                Some(false) => Access::Read,
                Some(true) => Access::Nothing,
            };
            self.allow(start, entry, access);
        });
    }

    /// Lets the host do so much with the buffer that starts there.
    pub(super) fn allow(&self, start: usize, entry: &mut Entry, access: Access) {
        if entry.access != access {
            let protection = match access {
                Access::Nothing => libc::PROT_NONE,
                Access::Read => libc::PROT_READ,
                Access::Write => libc::PROT_READ | libc::PROT_WRITE,
            };
            if mprotect(self.host + start, entry.end - start, protection) {
                entry.access = access;
            }
        }
    }

    pub(super) fn side(&self, address: usize) -> Option<Side> {
        let within = |base: usize| address.checked_sub(base).filter(|offset| *offset < self.size);
        within(self.gpu).map(Side::Gpu).or_else(|| within(self.host).map(Side::Host))
    }
}

impl State {
    /// The buffer whose pages, or the guard after them, an offset in the file is in.
    pub(super) fn nearest(&mut self, offset: usize) -> Option<(usize, &mut Entry)> {
        self.entries.range_mut(..=offset).next_back().map(|(start, entry)| (*start, entry))
    }

    /// A buffer freed not long ago that an offset in the file was in.
    pub(super) fn retired(&self, offset: usize) -> Option<&Retired> {
        self.space.quarantine.iter().rev().find(|old| (old.start..old.start + old.bytes).contains(&offset))
    }
}

fn map_twice(file: &OwnedFd, size: usize) -> Option<(usize, usize)> {
    // SAFETY: new mappings of a file of that size; the first goes again if there is no second.
    unsafe {
        if libc::ftruncate(file.as_raw_fd(), size as i64) != 0 {
            return None;
        }
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let map =
            || libc::mmap(std::ptr::null_mut(), size, libc::PROT_NONE, flags, file.as_raw_fd(), 0) as usize;
        let failed = libc::MAP_FAILED as usize;
        let gpu = map();
        if gpu == failed {
            return None;
        }
        let host = map();
        if host == failed {
            libc::munmap(gpu as *mut _, size);
            return None;
        }
        Some((gpu, host))
    }
}

fn mprotect(address: usize, bytes: usize, protection: libc::c_int) -> bool {
    // SAFETY: whole pages of the arena, which holds no Rust object.
    unsafe { libc::mprotect(address as *mut _, bytes, protection) == 0 }
}

/// A freed buffer, whose addresses are kept back so that a late use of it is seen.
pub(super) struct Retired {
    pub(super) start: usize,
    bytes: usize,
    pub(super) label: Arc<str>,
    pub(super) first: usize,
    pub(super) length: usize,
}

/// Which parts of the file are free.
#[derive(Default)]
struct Space {
    /// From here on nothing was ever given out.
    end: usize,
    size: usize,
    /// Before it: bytes, by where they start.
    free: BTreeMap<usize, usize>,
    quarantine: VecDeque<Retired>,
    quarantined: usize,
}

impl Space {
    fn take(&mut self, bytes: usize) -> Option<usize> {
        loop {
            if let Some((&start, &there)) = self.free.iter().find(|(_, there)| **there >= bytes) {
                self.free.remove(&start);
                if there > bytes {
                    self.free.insert(start + bytes, there - bytes);
                }
                return Some(start);
            }
            if self.size - self.end >= bytes {
                self.end += bytes;
                return Some(self.end - bytes);
            }
            let oldest = self.quarantine.pop_front()?;
            self.release(&oldest);
        }
    }

    fn retire(&mut self, old: Retired) {
        self.quarantined += old.bytes;
        self.quarantine.push_back(old);
        while self.quarantined > QUARANTINE.0 || self.quarantine.len() > QUARANTINE.1 {
            let Some(oldest) = self.quarantine.pop_front() else { break };
            self.release(&oldest);
        }
    }

    fn release(&mut self, old: &Retired) {
        self.quarantined -= old.bytes;
        self.give(old.start, old.bytes);
    }

    /// Makes bytes free again, in one piece with what is free beside them.
    fn give(&mut self, mut start: usize, mut bytes: usize) {
        if let Some((&before, &there)) = self.free.range(..start).next_back()
            && before + there == start
        {
            self.free.remove(&before);
            (start, bytes) = (before, there + bytes);
        }
        if let Some(there) = self.free.remove(&(start + bytes)) {
            bytes += there;
        }
        self.free.insert(start, bytes);
    }
}
