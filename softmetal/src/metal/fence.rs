//! `MTLFence`.

use super::device::{Device, device};
use super::order::Knowledge;
use crate::foundation::{Label, NSObject, NSString};
use crate::objc::{Instance, Strong, class};
use std::sync::Mutex;

/// A fence: what is known to be done when it was last updated, on the device's side.
#[derive(Default)]
pub struct Fence {
    label: Label,
    done: Mutex<Knowledge>,
}

class! {
    Fence: class "SoftmetalFence", superclass NSObject, protocols ["MTLFence"], Long;
    - "device" => Fence::device;
    - "label" => Fence::label;
    - "setLabel:" => Fence::set_label;
}

impl Fence {
    /// An encoder that updates it has come there, knowing this to be done.
    pub fn update(&self, done: &Knowledge) {
        *self.done.lock().unwrap_or_else(|e| e.into_inner()) = done.clone();
    }

    /// What an encoder that waits for it learns.
    pub fn wait(&self, known: &mut Knowledge) {
        known.learn(&self.done.lock().unwrap_or_else(|e| e.into_inner()));
    }

    fn device(&self) -> Strong<Device> {
        device().retain()
    }

    fn label(&self) -> Option<Strong<NSString>> {
        self.label.get()
    }

    fn set_label(&self, label: Option<&Instance<NSString>>) {
        self.label.set(label);
    }
}
