// All that the text of a kernel is compiled with.
#pragma once
#include "metal_stdlib"
#include "support.h"
#if __has_feature(thread_sanitizer)
#include "taps.h"
#endif
