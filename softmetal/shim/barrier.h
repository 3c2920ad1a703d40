// Barriers and fences.
#pragma once
#include "integer.h"

namespace metal {

enum class mem_flags {
    mem_none = 0,
    mem_device = 1,
    mem_threadgroup = 2,
    mem_texture = 4,
    mem_threadgroup_imageblock = 8,
    mem_object_data = 16,
};
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }
constexpr mem_flags operator&(mem_flags a, mem_flags b) { return mem_flags(int(a) & int(b)); }

inline void threadgroup_barrier(mem_flags flags, SOFTMETAL_SITE) {
    softmetal_runtime->barrier(softmetal::SCOPE_THREADGROUP, int(flags), {file, line});
}
inline void simdgroup_barrier(mem_flags flags, SOFTMETAL_SITE) {
    softmetal_runtime->barrier(softmetal::SCOPE_SIMDGROUP, int(flags), {file, line});
}

}  // namespace metal
