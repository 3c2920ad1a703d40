//! `NSError`.

use super::{NSDictionary, NSObject, NSString};
use crate::objc::{Allocated, Class, Instance, Strong, class};

/// `NSError`: a domain, a code in it, and words.
pub struct NSError {
    domain: String,
    code: isize,
    description: String,
}

class! {
    NSError: linked "._OBJC_CLASS_NSError" "NSError", superclass NSObject, protocols ["NSCopying"], Short;
    + "errorWithDomain:code:userInfo:" => NSError::with_domain;
    - "initWithDomain:code:userInfo:" => NSError::init;
    - "domain" => NSError::domain;
    - "code" => NSError::code;
    - "userInfo" => NSError::user_info;
    - "localizedDescription" => NSError::localized_description;
    - "description" => NSError::localized_description;
    - "copy" => NSError::copy;
}

impl NSError {
    /// An error.
    pub fn new(domain: &str, code: isize, description: impl Into<String>) -> Strong<NSError> {
        Strong::new(NSError { domain: domain.into(), code, description: description.into() })
    }

    /// Its words.
    pub fn text(&self) -> &str {
        &self.description
    }

    fn with_domain(
        _: &'static Class,
        domain: &Instance<NSString>,
        code: isize,
        info: Option<&Instance<NSDictionary>>,
    ) -> Strong<NSError> {
        let described = info.and_then(|info| info.string("NSLocalizedDescription"));
        let description = described.unwrap_or_else(|| format!("{} error {code}", domain.text()));
        Self::new(domain.text(), code, description)
    }

    fn init(
        _: Allocated,
        domain: &Instance<NSString>,
        code: isize,
        info: Option<&Instance<NSDictionary>>,
    ) -> Strong<NSError> {
        Self::with_domain(<NSError as crate::objc::IsClass>::class(), domain, code, info)
    }

    fn domain(&self) -> Strong<NSString> {
        NSString::new(&self.domain)
    }

    fn code(&self) -> isize {
        self.code
    }

    fn user_info(&self) -> Strong<NSDictionary> {
        let key = NSString::new("NSLocalizedDescription");
        NSDictionary::new(vec![(key.into(), NSString::new(&self.description).into())])
    }

    fn localized_description(&self) -> Strong<NSString> {
        NSString::new(&self.description)
    }

    fn copy(this: &Instance<NSError>) -> Strong<NSError> {
        this.retain()
    }
}
