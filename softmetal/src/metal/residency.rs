//! `MTLResidencySet`: buffers that are to be resident. All are; the set is kept as a program sees it.

use super::buffer::Buffer;
use super::device::{Device, device};
use super::invalid;
use crate::foundation::{Label, NSArray, NSObject, NSString};
use crate::objc::{Allocated, AnyStrong, Instance, Object, Strong, class};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

#[derive(Default)]
struct Members {
    /// By address. A set keeps its members alive.
    all: BTreeMap<usize, AnyStrong>,
}

/// A residency set.
pub struct ResidencySet {
    label: Label,
    members: Mutex<Members>,
}

class! {
    ResidencySet: class "SoftmetalResidencySet", superclass NSObject, protocols ["MTLResidencySet"], Long;
    - "device" => ResidencySet::device;
    - "label" => ResidencySet::label;
    - "addAllocation:" => ResidencySet::add;
    - "addAllocations:count:" => ResidencySet::add_all;
    - "removeAllocation:" => ResidencySet::remove;
    - "removeAllocations:count:" => ResidencySet::remove_all_of;
    - "removeAllAllocations" => ResidencySet::clear;
    - "containsAllocation:" => ResidencySet::contains;
    - "allAllocations" => ResidencySet::all;
    - "allocationCount" => ResidencySet::count;
    - "allocatedSize" => ResidencySet::allocated_size;
    - "commit" => ResidencySet::commit;
    - "requestResidency" => ResidencySet::commit;
    - "endResidency" => ResidencySet::commit;
}

impl ResidencySet {
    /// An empty one.
    pub(super) fn new(descriptor: &ResidencySetDescriptor) -> Strong<ResidencySet> {
        let set = ResidencySet { label: Label::default(), members: Mutex::default() };
        set.label.set(descriptor.label.get().as_deref());
        Strong::new(set)
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn add(&self, allocation: &Object) {
        self.members().all.insert(allocation.as_ptr() as usize, AnyStrong::retain(allocation));
    }

    fn add_all(&self, allocations: *const *mut Object, count: usize) {
        for index in 0..count {
            // SAFETY: the caller's array of live objects.
            self.add(unsafe { &**allocations.add(index) });
        }
    }

    fn remove(&self, allocation: &Object) {
        let removed = self.members().all.remove(&(allocation.as_ptr() as usize));
        if removed.is_none() {
            let class = allocation.class().name();
            invalid(
                "-[MTLResidencySet removeAllocation:]",
                format!("wants a member of the set, got a {class} that is none"),
            );
        }
    }

    fn remove_all_of(&self, allocations: *const *mut Object, count: usize) {
        for index in 0..count {
            // SAFETY: the caller's array of live objects.
            self.remove(unsafe { &**allocations.add(index) });
        }
    }

    fn clear(&self) {
        let members = std::mem::take(&mut *self.members());
        drop(members);
    }

    fn contains(&self, allocation: &Object) -> bool {
        self.members().all.contains_key(&(allocation.as_ptr() as usize))
    }

    fn all(&self) -> Strong<NSArray> {
        NSArray::new(self.members().all.values().cloned().collect())
    }

    fn count(&self) -> usize {
        self.members().all.len()
    }

    fn allocated_size(&self) -> u64 {
        let members = self.members();
        let buffers = members.all.values().filter_map(|member| member.downcast::<Buffer>());
        buffers.map(|buffer| buffer.length() as u64).sum()
    }

    fn commit(&self) {}

    fn device(&self) -> Strong<Device> {
        device().retain()
    }

    fn label(&self) -> Option<Strong<NSString>> {
        self.label.get()
    }
}

/// `MTLResidencySetDescriptor`.
#[derive(Default)]
pub struct ResidencySetDescriptor {
    label: Label,
    capacity: AtomicUsize,
}

class! {
    ResidencySetDescriptor: linked "._OBJC_CLASS_MTLResidencySetDescriptor" "MTLResidencySetDescriptor", superclass NSObject, protocols ["NSCopying"], Short;
    - "init" => ResidencySetDescriptor::init;
    - "label" => ResidencySetDescriptor::label;
    - "setLabel:" => ResidencySetDescriptor::set_label;
    - "initialCapacity" => ResidencySetDescriptor::capacity;
    - "setInitialCapacity:" => ResidencySetDescriptor::set_capacity;
}

impl ResidencySetDescriptor {
    fn init(_: Allocated) -> Strong<ResidencySetDescriptor> {
        Strong::new(ResidencySetDescriptor::default())
    }

    fn label(&self) -> Option<Strong<NSString>> {
        self.label.get()
    }

    fn set_label(&self, label: Option<&Instance<NSString>>) {
        self.label.set(label);
    }

    fn capacity(&self) -> usize {
        self.capacity.load(Relaxed)
    }

    fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity, Relaxed);
    }
}
