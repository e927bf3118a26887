/* Devices, contexts, error texts and the settings of the environment. */
#define _GNU_SOURCE
#include "fake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICES 4
#define CONTEXTS 64
#define DEPTH 64

pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t fake_changed = PTHREAD_COND_INITIALIZER;

static int ready, devices = 1, integrated = 1, major = 8, minor = 7, driver_version = 13000;
static char name[256] = "Orin";
static size_t total_bytes = (size_t)8 << 30;

static Context contexts[CONTEXTS]; /* the first DEVICES are the primary ones */
static __thread Context *stack[DEPTH];
static __thread int depth;
static int pushed; /* over all threads */

const char *fake_env(const char *key, const char *otherwise) {
    const char *value = getenv(key);
    return value && *value ? value : otherwise;
}

long long fake_env_number(const char *key, long long otherwise) {
    const char *value = getenv(key);
    return value && *value ? strtoll(value, NULL, 10) : otherwise;
}

void fake_device_configure(void) {
    devices = (int)fake_env_number("FAKECUDA_DEVICES", 1);
    if (devices > DEVICES) devices = DEVICES;
    integrated = (int)fake_env_number("FAKECUDA_INTEGRATED", 1);
    driver_version = (int)fake_env_number("FAKECUDA_DRIVER_VERSION", 13000);
    total_bytes = (size_t)fake_env_number("FAKECUDA_TOTAL_BYTES", (long long)8 << 30);
    snprintf(name, sizeof name, "%s", fake_env("FAKECUDA_NAME", "Orin"));
    if (sscanf(fake_env("FAKECUDA_CC", "8.7"), "%d.%d", &major, &minor) != 2) major = 8, minor = 7;
}

int fake_initialized(void) { return ready; }
size_t fake_total_bytes(void) { return total_bytes; }
Context *fake_current(void) { return depth ? stack[depth - 1] : NULL; }

API cuInit(unsigned flags) {
    LOCKED;
    if (flags) return INVALID_VALUE;
    if (!ready) {
        fake_device_configure();
        fake_memory_configure();
    }
    int error = (int)fake_env_number("FAKECUDA_INIT_ERROR", 0);
    if (error) return error;
    if (fake_env_number("FAKECUDA_DEVICES", 1) <= 0) return NO_DEVICE;
    ready = 1;
    return SUCCESS;
}

API cuDriverGetVersion(int *version) { *version = driver_version; return SUCCESS; }

/* {{{ devices */

static CUresult device_ok(CUdevice device) {
    if (!ready) return NOT_INITIALIZED;
    return device < 0 || device >= devices ? INVALID_DEVICE : SUCCESS;
}

API cuDeviceGetCount(int *count) { *count = devices; return ready ? SUCCESS : NOT_INITIALIZED; }
API cuDeviceGet(CUdevice *device, int ordinal) { TRY(device_ok(ordinal)); *device = ordinal; return SUCCESS; }

API cuDeviceGetName(char *out, int length, CUdevice device) {
    TRY(device_ok(device));
    snprintf(out, (size_t)length, "%s", name);
    return SUCCESS;
}

API cuDeviceComputeCapability(int *first, int *second, CUdevice device) {
    TRY(device_ok(device));
    *first = major, *second = minor;
    return SUCCESS;
}

API cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    TRY(device_ok(device));
    *bytes = total_bytes;
    return SUCCESS;
}

API cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    TRY(device_ok(device));
    const int table[][2] = {
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 2147483647}, {6, 65535}, {7, 65535}, {8, 49152}, {9, 65536},
        {10, 32}, {12, 65536}, {13, 625000}, {14, 512}, {15, 1}, {16, 8}, {17, 0}, {18, integrated}, {19, 1}, {20, 0},
        {31, 1}, {32, 0}, {36, 2133000}, {37, 128}, {38, 2097152}, {39, 1536}, {40, 2}, {41, 1}, {75, major},
        {76, minor}, {83, 1}, {88, integrated}, {89, integrated},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i][0] == attribute) { *value = table[i][1]; return SUCCESS; }
    *value = 0;
    return attribute > 0 && attribute < 160 ? SUCCESS : INVALID_VALUE;
}

API cuDeviceGetPCIBusId(char *out, int length, CUdevice device) {
    TRY(device_ok(device));
    snprintf(out, (size_t)length, "0000:%02x:00.0", device + 1);
    return SUCCESS;
}

API cuDeviceCanAccessPeer(int *can, CUdevice one, CUdevice two) {
    TRY(device_ok(one));
    TRY(device_ok(two));
    *can = 0;
    return SUCCESS;
}

/* }}} */
/* {{{ contexts */

static int valid(const Context *context) {
    return context >= contexts && context < contexts + CONTEXTS && context->users > 0;
}

static void gone(Context *context) { /* what the context still holds stays in the ledger: it was leaked */
    fake_streams_forget(context);
    fake_stream_drop(context->legacy);
    context->legacy = NULL;
    context->error = SUCCESS;
}

static CUresult push(Context *context) {
    if (depth == DEPTH) return INVALID_VALUE;
    stack[depth++] = context;
    __atomic_add_fetch(&pushed, 1, __ATOMIC_SEQ_CST);
    return SUCCESS;
}

static Context *pop(void) {
    __atomic_sub_fetch(&pushed, 1, __ATOMIC_SEQ_CST);
    return stack[--depth];
}

API cuDevicePrimaryCtxRetain(Context **out, CUdevice device) {
    LOCKED;
    TRY(device_ok(device));
    Context *context = &contexts[device];
    if (!context->users) {
        context->primary = 1, context->device = device, context->error = SUCCESS;
        context->legacy = fake_stream_make(context, 0);
    }
    context->users++;
    *out = context;
    return SUCCESS;
}

/* As documented for the real one: it pops the context from no stack in any circumstances. */
API cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    LOCKED;
    TRY(device_ok(device));
    Context *context = &contexts[device];
    if (!context->users) return INVALID_CONTEXT;
    if (--context->users == 0) gone(context);
    return SUCCESS;
}
API cuDevicePrimaryCtxRelease(CUdevice device) { return cuDevicePrimaryCtxRelease_v2(device); }

API cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    LOCKED;
    TRY(device_ok(device));
    *flags = 0, *active = contexts[device].users > 0;
    return SUCCESS;
}

API cuCtxCreate_v2(Context **out, unsigned flags, CUdevice device) {
    LOCKED;
    (void)flags;
    TRY(device_ok(device));
    for (int i = DEVICES; i < CONTEXTS; i++)
        if (!contexts[i].users) {
            contexts[i] = (Context){.users = 1, .device = device};
            contexts[i].legacy = fake_stream_make(&contexts[i], 0);
            *out = &contexts[i];
            return push(&contexts[i]);
        }
    return OUT_OF_MEMORY;
}
API cuCtxCreate(Context **out, unsigned flags, CUdevice device) { return cuCtxCreate_v2(out, flags, device); }
API cuCtxCreate_v3(Context **out, void *affinity, int count, unsigned flags, CUdevice device) {
    return affinity || count ? NOT_SUPPORTED : cuCtxCreate_v2(out, flags, device);
}
API cuCtxCreate_v4(Context **out, void *parameters, unsigned flags, CUdevice device) {
    return parameters ? NOT_SUPPORTED : cuCtxCreate_v2(out, flags, device);
}

API cuCtxDestroy_v2(Context *context) {
    LOCKED;
    if (!valid(context) || context->primary) return INVALID_CONTEXT;
    context->users = 0;
    gone(context);
    if (depth && stack[depth - 1] == context) pop();
    return SUCCESS;
}
API cuCtxDetach(Context *context) { return cuCtxDestroy_v2(context); }

API cuCtxAttach(Context **out, unsigned flags) {
    LOCKED;
    CURRENT(context);
    if (flags) return INVALID_VALUE;
    context->users++;
    *out = context;
    return SUCCESS;
}

API cuCtxPushCurrent_v2(Context *context) {
    LOCKED;
    if (!ready) return NOT_INITIALIZED;
    return valid(context) ? push(context) : INVALID_CONTEXT;
}

API cuCtxPopCurrent_v2(Context **out) {
    LOCKED;
    if (!ready) return NOT_INITIALIZED;
    if (!depth) return INVALID_CONTEXT;
    Context *context = pop();
    if (out) *out = context;
    return SUCCESS;
}

API cuCtxGetCurrent(Context **out) { *out = fake_current(); return ready ? SUCCESS : NOT_INITIALIZED; }

API cuCtxSetCurrent(Context *context) {
    LOCKED;
    if (context && !valid(context)) return INVALID_CONTEXT;
    if (depth) pop();
    return context ? push(context) : SUCCESS;
}

API cuCtxGetDevice(CUdevice *device) { LOCKED; CURRENT(context); *device = context->device; return SUCCESS; }
API cuCtxSynchronize(void) {
    LOCKED;
    CURRENT(context);
    TRY(fake_unsafe());
    return fake_run_all(context, 0);
}
API cuCtxGetApiVersion(Context *context, unsigned *version) { (void)context; *version = 3020; return SUCCESS; }
API cuCtxGetFlags(unsigned *flags) { LOCKED; CURRENT(context); *flags = 0; return SUCCESS; }
API cuCtxGetLimit(size_t *value, int limit) { (void)limit; *value = 8192; return SUCCESS; }
API cuCtxSetLimit(int limit, size_t value) { (void)limit, (void)value; return SUCCESS; }

/* Entries of this thread's stack, and of all threads' stacks together: 0 where every push was popped. */
EXPORT int fakecuda_context_depth(void) { return depth; }
EXPORT int fakecuda_pushed_contexts(void) { return __atomic_load_n(&pushed, __ATOMIC_SEQ_CST); }

/* How often contexts are held: retains without their release, and contexts made and not destroyed. */
EXPORT int fakecuda_live_contexts(void) {
    LOCKED;
    int count = 0;
    for (int i = 0; i < CONTEXTS; i++) count += contexts[i].users;
    return count;
}

/* }}} */

static const struct { CUresult code; const char *name, *text; } ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CONTEXT_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began"},
    {CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
     "dependency created on uncaptured work in another stream"},
    {CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT",
     "operation not permitted on an event last recorded in a capturing stream"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

API cuGetErrorString(CUresult code, const char **text) {
    *text = "unrecognized error code";
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) { *text = ERRORS[i].text; return SUCCESS; }
    return INVALID_VALUE;
}

API cuGetErrorName(CUresult code, const char **text) {
    *text = NULL;
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) { *text = ERRORS[i].name; return SUCCESS; }
    return INVALID_VALUE;
}

/* Forget everything queued, allocated and retained; read the environment again. Only this thread's stack empties. */
EXPORT void fakecuda_reset(void) {
    LOCKED;
    fake_capture_reset();
    fake_streams_reset();
    fake_memory_reset();
    while (depth) pop();
    memset(contexts, 0, sizeof contexts);
    ready = 0;
    fake_device_configure();
    fake_memory_configure();
}

EXPORT void fakecuda_set_total(long long total) { LOCKED; total_bytes = (size_t)total; }

/* Read the environment again; nothing is forgotten. */
EXPORT void fakecuda_configure(void) {
    LOCKED;
    fake_device_configure();
    fake_memory_configure();
}
