//! Who is alive: counted by class, and reported when the process ends.

use super::class::{Class, Lives, class_named, classes};
use crate::config::CONFIG;
use crate::report::{self, Kind, Report};
use std::sync::Once;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(super) fn born(class: &'static Class) {
    class.live.fetch_add(1, Ordering::Relaxed);
}

pub(super) fn died(class: &'static Class) {
    class.live.fetch_sub(1, Ordering::Relaxed);
}

/// How many instances of a class are alive.
pub fn live(name: &str) -> Option<usize> {
    class_named(name).map(|class| class.live.load(Ordering::Relaxed))
}

/// Has the process report, when it ends, what is alive that Metal means to live shortly.
///
/// Called when a program first asks for a device, so that what it registers itself with `atexit` later runs before.
pub fn check_at_exit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| report::at_exit(report_leaks));
}

fn report_leaks() {
    // A queue's thread may still be about to release a command buffer that the program saw complete.
    crate::metal::wait_until_idle(Duration::from_secs(2));
    crate::metal::memory::drain();
    for class in classes() {
        let counted = match class.lives() {
            Lives::Short => true,
            Lives::Long => CONFIG.leaks,
            Lives::Forever => false,
        };
        let held = if CONFIG.leaks { 0 } else { crate::metal::held_at_exit(class) };
        let live = class.live.load(Ordering::Relaxed).saturating_sub(held);
        if counted && live > 0 {
            report::add(Report {
                kind: Kind::Lifetime,
                place: class.name().to_owned(),
                line: None,
                text: format!("{live} alive at the end of the process: never released"),
            });
        }
    }
}
