// What mimalloc uses of Apple's header, which PyPI's ziglang leaves out.
#pragma once
#include <CommonCrypto/CommonCryptoError.h>
#include <stddef.h>

typedef CCCryptorStatus CCRNGStatus;
CCRNGStatus CCRandomGenerateBytes(void *bytes, size_t count);
