// A CUDA library that is loaded when one of its functions is first called. A binary that is linked with it starts on
// machines without the library; calls then fail as the library's own would.
//
// Compiled by cuda.sh once for each library, with
//   SONAME   what is loaded, as "libcuda.so.1"
//   FAILURE  the status that functions return when it is not there, or lacks them
//   QUIET    whether that is said by the caller; else a line on stderr names the library
//   ENTRIES  a file with a line for each function: ENTRY(name), or TEXT(name) for one that returns a string
//
// Each function is a jump through a record, which at first points to code that keeps all argument registers and calls
// `resolve`. x86-64 and aarch64.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

struct record {
    void* target;
    const char* name;
    void* failure;
};

__attribute__((used)) static int fail(void) { return FAILURE; }
__attribute__((used)) static const char* fail_text(void) { return SONAME " is not there"; }

static void* library(void) {
    static void* loaded;
    static int told;
    void* handle = __atomic_load_n(&loaded, __ATOMIC_ACQUIRE);
    if (handle || told) return handle;
    handle = dlopen(SONAME, RTLD_NOW | RTLD_LOCAL);
    const char* why = handle ? NULL : dlerror();
    // A toolkit need not be in the loader's path.
    const char* homes[] = {getenv("CUDA_HOME"), getenv("CUDA_PATH"), "/usr/local/cuda"};
    for (int i = 0; !handle && i < 3; i++) {
        char path[4096];
        if (!homes[i] || snprintf(path, sizeof path, "%s/lib64/%s", homes[i], SONAME) >= (int)sizeof path) continue;
        handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    if (!handle && !QUIET && !__atomic_exchange_n(&told, 1, __ATOMIC_RELAXED))
        fprintf(stderr, "cuda: %s\n", why ? why : SONAME);
    __atomic_store_n(&loaded, handle, __ATOMIC_RELEASE);
    return handle;
}

// The address that a record's function has; the record keeps it.
__attribute__((used)) static void* resolve(struct record* record) {
    void* handle = library();
    void* target = handle ? dlsym(handle, record->name) : NULL;
    if (!target) target = record->failure;
    __atomic_store_n(&record->target, target, __ATOMIC_RELEASE);
    return target;
}

#define STRING(x) #x
#define ENTRY(name) RECORD(name, fail)
#define TEXT(name) RECORD(name, fail_text)
#define RECORD(name, failure) __asm__("entry " STRING(name) " " STRING(failure));

#if defined(__x86_64__)
__asm__(
    ".macro entry name, failure\n"
    ".text\n.p2align 4\n.globl \\name\n.type \\name,@function\n"
    "\\name: jmp *.Lrecord_\\name(%rip)\n"
    ".Lfirst_\\name: leaq .Lrecord_\\name(%rip),%r11\n jmp first_call\n"
    ".size \\name,.-\\name\n"
    ".section .data.rel.local,\"aw\"\n.p2align 3\n"
    ".Lrecord_\\name: .quad .Lfirst_\\name,.Lname_\\name,\\failure\n"
    ".section .rodata\n.Lname_\\name: .string \"\\name\"\n"
    ".endm\n"
    ".text\n.type first_call,@function\nfirst_call:\n"
    "push %rdi\npush %rsi\npush %rdx\npush %rcx\npush %r8\npush %r9\npush %rax\n"
    "sub $128,%rsp\n"
    "movups %xmm0,(%rsp)\nmovups %xmm1,16(%rsp)\nmovups %xmm2,32(%rsp)\nmovups %xmm3,48(%rsp)\n"
    "movups %xmm4,64(%rsp)\nmovups %xmm5,80(%rsp)\nmovups %xmm6,96(%rsp)\nmovups %xmm7,112(%rsp)\n"
    "mov %r11,%rdi\ncall resolve\nmov %rax,%r11\n"
    "movups (%rsp),%xmm0\nmovups 16(%rsp),%xmm1\nmovups 32(%rsp),%xmm2\nmovups 48(%rsp),%xmm3\n"
    "movups 64(%rsp),%xmm4\nmovups 80(%rsp),%xmm5\nmovups 96(%rsp),%xmm6\nmovups 112(%rsp),%xmm7\n"
    "add $128,%rsp\n"
    "pop %rax\npop %r9\npop %r8\npop %rcx\npop %rdx\npop %rsi\npop %rdi\n"
    "jmp *%r11\n");
#elif defined(__aarch64__)
__asm__(
    ".macro entry name, failure\n"
    ".text\n.p2align 4\n.globl \\name\n.type \\name,%function\n"
    "\\name: adrp x16,.Lrecord_\\name\n add x16,x16,:lo12:.Lrecord_\\name\n ldr x17,[x16]\n br x17\n"
    ".size \\name,.-\\name\n"
    ".section .data.rel.local,\"aw\"\n.p2align 3\n"
    ".Lrecord_\\name: .quad first_call,.Lname_\\name,\\failure\n"
    ".section .rodata\n.Lname_\\name: .string \"\\name\"\n"
    ".endm\n"
    ".text\n.type first_call,%function\nfirst_call:\n"  // the record is in x16
    "stp x29,x30,[sp,-224]!\nmov x29,sp\n"
    "stp x0,x1,[sp,16]\nstp x2,x3,[sp,32]\nstp x4,x5,[sp,48]\nstp x6,x7,[sp,64]\nstr x8,[sp,80]\n"
    "stp q0,q1,[sp,96]\nstp q2,q3,[sp,128]\nstp q4,q5,[sp,160]\nstp q6,q7,[sp,192]\n"
    "mov x0,x16\nbl resolve\nmov x17,x0\n"
    "ldp x0,x1,[sp,16]\nldp x2,x3,[sp,32]\nldp x4,x5,[sp,48]\nldp x6,x7,[sp,64]\nldr x8,[sp,80]\n"
    "ldp q0,q1,[sp,96]\nldp q2,q3,[sp,128]\nldp q4,q5,[sp,160]\nldp q6,q7,[sp,192]\n"
    "ldp x29,x30,[sp],224\nbr x17\n");
#else
#error "wants x86-64 or aarch64"
#endif

#include ENTRIES
__asm__(".text");
