// What a compiled kernel and the executor know of each other. `src/exec/abi.rs` has the same in Rust.
#pragma once

namespace softmetal {

typedef unsigned int u32;
typedef unsigned long size;

// Where in the shader's text something is done.
struct Site {
    const char* file;
    u32 line;
};

// What the built-ins of a thread are.
struct Thread {
    u32 position_in_grid[3], position_in_threadgroup[3], threadgroup_in_grid[3];
    u32 threads_per_threadgroup[3];           // of this threadgroup: fewer at the edge of the grid
    u32 dispatch_threads_per_threadgroup[3];  // as dispatched
    u32 threads_per_grid[3], threadgroups_per_grid[3];
    u32 index_in_threadgroup, lane, simdgroup, simdgroups_per_threadgroup;
};

enum ParamKind { PARAM_BUFFER, PARAM_THREADGROUP, PARAM_BUILTIN };
enum ParamFlags { PARAM_WRITES = 1, PARAM_UNUSED = 2 /* its function constant is false */, PARAM_CONSTANT = 4 };

struct Param {
    const char* name;
    int kind, index, flags;
    u32 size, align;  // of what it points to
};

struct Kernel {
    const char* name;
    const Param* params;
    u32 param_count;
    u32 max_threads;  // max_total_threads_per_threadgroup, or 0
    void (*run)(void* const* buffers, void* const* threadgroup_memory);
};

enum Scope { SCOPE_THREADGROUP, SCOPE_SIMDGROUP };
enum MemFlags { MEM_NONE = 0, MEM_DEVICE = 1, MEM_THREADGROUP = 2, MEM_TEXTURE = 4 };
// ACCESS_ATOMIC reads and writes. ACCESS_ALIGNED is added where the code wants the address to be a multiple of the size.
enum AccessKind {
    ACCESS_READ,
    ACCESS_WRITE,
    ACCESS_ATOMIC,
    ACCESS_ATOMIC_READ,
    ACCESS_ATOMIC_WRITE,
    ACCESS_ALIGNED = 8,
};
enum Complaint { COMPLAINT_INACTIVE_LANE, COMPLAINT_UNDEFINED };

// Bytes that a lane has in what exchange() returns.
enum { SLOT = 32 };

struct Runtime {
    // The thread that runs.
    const Thread* (*thread)();
    void (*barrier)(int scope, int flags, Site);
    // Waits until all lanes of the simdgroup that can come here have; then the lanes that take part are set in *active,
    // and the value of lane i stands at SLOT * i in what is returned, until this lane's next exchange or barrier.
    const void* (*exchange)(const void* value, u32 size, u32* active, Site);
    // The threadgroup's variable of that key, made when first asked for.
    void* (*threadgroup_variable)(const void* key, size bytes, size align, const char* name, Site);
    void (*complain)(int complaint, const char* what, Site);
    // A use of memory that is about to happen; pc is in the code that does it.
    void (*access)(const void* address, size bytes, int kind, const void* pc);
};

}  // namespace softmetal

// Both are in the image that is loaded: the executor sets the first, and reads the second up to an entry without name.
extern "C" const softmetal::Runtime* softmetal_runtime;
extern "C" const softmetal::Kernel softmetal_kernels[];
