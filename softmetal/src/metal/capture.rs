//! `MTLCaptureManager`: there is nothing to capture with, and it says so.

use crate::foundation::{NSError, NSObject, NSURL};
use crate::objc::{Allocated, AnyStrong, Class, ErrorOut, Instance, Object, Strong, class};
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex};

/// `MTLCaptureManager`.
pub struct CaptureManager;

class! {
    CaptureManager: linked "._OBJC_CLASS_MTLCaptureManager" "MTLCaptureManager", superclass NSObject, protocols [], Forever;
    + "sharedCaptureManager" => CaptureManager::shared;
    - "supportsDestination:" => CaptureManager::supports;
    - "startCaptureWithDescriptor:error:" => CaptureManager::start;
    - "stopCapture" => CaptureManager::stop;
    - "isCapturing" => CaptureManager::is_capturing;
}

impl CaptureManager {
    fn shared(_: &'static Class) -> Strong<CaptureManager> {
        static SHARED: LazyLock<Strong<CaptureManager>> = LazyLock::new(|| Strong::new(CaptureManager));
        SHARED.clone()
    }

    fn supports(&self, _destination: isize) -> bool {
        false
    }

    fn start(&self, _descriptor: &Instance<CaptureDescriptor>, error: ErrorOut) -> bool {
        // MTLCaptureErrorNotSupported.
        let text = "Capturing is not supported: softmetal has no GPU trace.";
        error.fail::<NSError, _>(NSError::new("MTLCaptureErrorDomain", 1, text)).is_some()
    }

    fn stop(&self) {}

    fn is_capturing(&self) -> bool {
        false
    }
}

/// `MTLCaptureDescriptor`.
#[derive(Default)]
pub struct CaptureDescriptor {
    object: Mutex<Option<AnyStrong>>,
    destination: AtomicIsize,
    url: Mutex<Option<Strong<NSURL>>>,
}

class! {
    CaptureDescriptor: linked "._OBJC_CLASS_MTLCaptureDescriptor" "MTLCaptureDescriptor", superclass NSObject, protocols ["NSCopying"], Short;
    - "init" => CaptureDescriptor::init;
    - "captureObject" => CaptureDescriptor::object;
    - "setCaptureObject:" => CaptureDescriptor::set_object;
    - "destination" => CaptureDescriptor::destination;
    - "setDestination:" => CaptureDescriptor::set_destination;
    - "outputURL" => CaptureDescriptor::url;
    - "setOutputURL:" => CaptureDescriptor::set_url;
}

impl CaptureDescriptor {
    fn init(_: Allocated) -> Strong<CaptureDescriptor> {
        Strong::new(CaptureDescriptor::default())
    }

    fn object(&self) -> Option<AnyStrong> {
        self.object.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn set_object(&self, object: Option<&Object>) {
        *self.object.lock().unwrap_or_else(|e| e.into_inner()) = object.map(AnyStrong::retain);
    }

    fn destination(&self) -> isize {
        self.destination.load(Relaxed)
    }

    fn set_destination(&self, destination: isize) {
        self.destination.store(destination, Relaxed);
    }

    fn url(&self) -> Option<Strong<NSURL>> {
        self.url.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn set_url(&self, url: Option<&Instance<NSURL>>) {
        *self.url.lock().unwrap_or_else(|e| e.into_inner()) = url.map(Instance::retain);
    }
}
