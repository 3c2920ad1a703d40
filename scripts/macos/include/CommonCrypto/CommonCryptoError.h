// What mimalloc uses of Apple's header, which PyPI's ziglang leaves out.
#pragma once
#include <stdint.h>

enum { kCCSuccess = 0 };
typedef int32_t CCCryptorStatus;
