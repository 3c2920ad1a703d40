//! The runtime by itself: counts, pools, weak variables, inheritance, encodings.

use super::abi::*;
use super::*;
use crate::foundation::NSObject;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Default)]
struct Cat {
    meals: AtomicUsize,
}

class! {
    Cat: linked "._OBJC_CLASS_SoftmetalTestCat" "SoftmetalTestCat", superclass NSObject, protocols ["Pet"], Short;
    - "init" => Cat::init;
    - "feed:with:" => Cat::feed;
    - "twin" => Cat::twin;
    - "newTwin" => Cat::twin;
    - "size" => Cat::size;
    - "isFed" => Cat::is_fed;
}

impl Cat {
    fn init(_: Allocated) -> Strong<Cat> {
        Strong::new(Cat::default())
    }

    fn feed(&self, times: u32, _with: Option<&Instance<Cat>>) {
        self.meals.fetch_add(times as usize, Ordering::Relaxed);
    }

    fn twin(&self) -> Strong<Cat> {
        Strong::new(Cat { meals: AtomicUsize::new(self.meals.load(Ordering::Relaxed)) })
    }

    fn size(&self) -> Size {
        Size { width: 1, height: 2, depth: 3 }
    }

    fn is_fed(&self) -> bool {
        self.meals.load(Ordering::Relaxed) > 0
    }
}

fn alive() -> usize {
    Cat::class().live.load(Ordering::Relaxed)
}

/// The tests count the instances of one class, so they run one after another.
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

unsafe fn send<F: Copy>(receiver: *mut Object, selector: &std::ffi::CStr) -> F {
    // SAFETY: the tests name function types that fit their selectors.
    unsafe { std::mem::transmute_copy(&objc_msg_lookup(receiver, Selector::named(selector))) }
}

type Plain<R> = unsafe extern "C" fn(*mut Object, Selector) -> R;

#[test]
fn messages_reach_rust_functions_and_counts_are_kept() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let sel = Selector::named;
    // SAFETY: messages as the class declares them.
    unsafe {
        let before = alive();
        let cat = send::<Plain<*mut Object>>(Cat::class().as_object(), c"new")(
            Cat::class().as_object(),
            sel(c"new"),
        );
        let feed: unsafe extern "C" fn(*mut Object, Selector, u32, *mut Object) = send(cat, c"feed:with:");
        feed(cat, sel(c"feed:with:"), 2, std::ptr::null_mut());
        assert_eq!(send::<Plain<u8>>(cat, c"isFed")(cat, sel(c"isFed")), 1);
        assert_eq!(
            send::<Plain<Size>>(cat, c"size")(cat, sel(c"size")),
            Size { width: 1, height: 2, depth: 3 }
        );

        // `newTwin` gives a count, `twin` autoreleases; who takes the result over at once needs no pool.
        let owned = send::<Plain<*mut Object>>(cat, c"newTwin")(cat, sel(c"newTwin"));
        let taken =
            objc_retainAutoreleasedReturnValue(send::<Plain<*mut Object>>(cat, c"twin")(cat, sel(c"twin")));
        let pool = objc_autoreleasePoolPush();
        send::<Plain<*mut Object>>(cat, c"twin")(cat, sel(c"twin"));
        assert_eq!(alive(), before + 4);
        objc_autoreleasePoolPop(pool);
        assert_eq!(alive(), before + 3);
        for object in [owned, taken, cat] {
            objc_release(object);
        }
        assert_eq!(alive(), before);
    }
}

#[test]
fn weak_variables_become_nil() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let cat = Strong::new(Cat::default());
    let (mut weak, mut copy) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: variables that outlive their use.
    unsafe {
        objc_initWeak(&mut weak, cat.as_ptr());
        objc_copyWeak(&mut copy, &mut weak);
        let loaded = objc_loadWeakRetained(&mut copy);
        assert_eq!(loaded, cat.as_ptr());
        drop(cat);
        assert!(!weak.is_null());
        objc_release(loaded);
        assert!(weak.is_null() && objc_loadWeakRetained(&mut copy).is_null());
        objc_destroyWeak(&mut weak);
        objc_destroyWeak(&mut copy);
    }
}

#[test]
fn a_release_too_many_is_reported() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let cat = Strong::new(Cat::default());
    let object = cat.as_ptr();
    drop(cat);
    // SAFETY: the header of a deallocated object is kept for this.
    unsafe { objc_release(object) };
    let found = |report: &crate::report::Report| report.place == "-[SoftmetalTestCat release]";
    assert!(crate::report::take().iter().any(found));
}

#[test]
fn encodings_follow_signatures() {
    let encoding =
        |name| Cat::class().method(Selector::named(name)).map(|method| method.encoding().to_owned());
    assert_eq!(encoding(c"feed:with:").as_deref(), Some(c"v@:I@"));
    assert_eq!(encoding(c"size").as_deref(), Some(c"{?=QQQ}@:"));
    assert_eq!(encoding(c"isFed").as_deref(), Some(c"C@:"));
    assert_eq!(encoding(c"retain").as_deref(), Some(c"@@:"));
    assert_eq!(encoding(c"purr"), None);
}
