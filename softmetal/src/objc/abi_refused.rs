//! The runtime's C functions that make classes, change them, or throw: programs that use Metal do not call them.

use super::refuse;

macro_rules! refused {
    ($($name:ident)*) => { $(
        #[doc = concat!("`", stringify!($name), "`: ends the process.")]
        #[unsafe(no_mangle)]
        pub extern "C" fn $name() -> ! {
            refuse(concat!(stringify!($name), ": not offered by softmetal"))
        }
    )* };
}

refused! {
    objc_allocateClassPair objc_duplicateClass objc_disposeClassPair objc_registerClassPair objc_constructInstance
    objc_destructInstance objc_getFutureClass
    class_addIvar class_addMethod class_addProperty class_addProtocol class_replaceMethod class_replaceProperty
    class_createInstance class_setIvarLayout class_setWeakIvarLayout class_setVersion class_getIvarLayout
    class_getWeakIvarLayout class_getImageName class_getProperty class_getMethodImplementation_stret
    object_setClass object_getIndexedIvars object_getIvar object_setIvar object_copy object_dispose
    object_setInstanceVariable object_getInstanceVariable
    method_exchangeImplementations method_getArgumentType method_getDescription method_setImplementation
    method_invoke method_invoke_stret
    ivar_getName ivar_getOffset ivar_getTypeEncoding
    property_copyAttributeList property_copyAttributeValue property_getAttributes property_getName
    objc_allocateProtocol objc_registerProtocol protocol_conformsToProtocol
    protocol_addMethodDescription protocol_addProperty protocol_addProtocol protocol_copyMethodDescriptionList
    protocol_copyPropertyList protocol_copyProtocolList protocol_getMethodDescription protocol_getProperty
    imp_getBlock imp_implementationWithBlock imp_removeBlock
    objc_copyClassNamesForImage objc_copyImageNames
    objc_enumerationMutation objc_setEnumerationMutationHandler objc_setForwardHandler
    objc_getAssociatedObject objc_setAssociatedObject objc_removeAssociatedObjects
    objc_exception_throw objc_exception_rethrow objc_begin_catch objc_end_catch objc_terminate
    objc_exception_try_enter objc_exception_try_exit objc_retainBlock
}
