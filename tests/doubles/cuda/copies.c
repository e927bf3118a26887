/* Copies and fills, at once or on a stream. */
#define _GNU_SOURCE
#include "fake.h"

#include <stdlib.h>
#include <string.h>

enum Side { ON_DEVICE, ON_HOST, ANYWHERE };

static int for_device(const Block *block) {
    return block && (block->kind == DEVICE || block->kind == MANAGED || (block->flags & 2));
}

/* Check one end of a copy; `id` names the allocation that it lies in, 0 for pageable memory. */
static CUresult check(enum Side side, const char *address, size_t bytes, uint64_t *id) {
    const Block *block = fake_find(address, bytes);
    *id = block ? block->id : 0;
    if (side == ON_DEVICE) return for_device(block) ? SUCCESS : INVALID_VALUE;
    if (!block) return !address || fake_is_ours(address) ? INVALID_VALUE : SUCCESS;
    return side == ON_HOST && block->kind == DEVICE ? INVALID_VALUE : SUCCESS;
}

static CUresult transfer(int async, void *handle, Op op, enum Side to, enum Side from) {
    LOCKED;
    CURRENT(context);
    if (!op.bytes) return SUCCESS;
    TRY(check(to, op.to, op.bytes, &op.to_id));
    if (op.action == COPY) TRY(check(from, op.from, op.bytes, &op.from_id));
    if (!async) {
        TRY(fake_implicit(context));
        TRY(fake_run_all(context, 1));
        return fake_execute(context, &op);
    }
    Stream *stream;
    TRY(fake_stream(handle, context, &stream));
    int pageable = !op.to_id || (op.action == COPY && !op.from_id);
    if (pageable && stream->capture) {
        fake_capture_invalidate(stream->capture);
        return CAPTURE_UNSUPPORTED;
    }
    if (!op.to_id) { /* as documented: a copy into pageable memory returns when it is done */
        TRY(fake_enqueue(stream, &op));
        return fake_run_until(stream, (uint64_t)-1);
    }
    if (pageable) {
        op.staged = malloc(op.bytes);
        if (!op.staged) return OUT_OF_MEMORY;
        memcpy(op.staged, op.from, op.bytes);
    }
    CUresult result = fake_enqueue(stream, &op);
    if (result) free(op.staged);
    return result;
}

static Op copy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return (Op){.action = COPY, .to = (char *)(uintptr_t)to, .from = (char *)(uintptr_t)from, .bytes = bytes};
}
#define P(pointer) ((CUdeviceptr)(uintptr_t)(pointer))

API cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
    return transfer(0, NULL, copy(to, P(from), bytes), ON_DEVICE, ON_HOST);
}
API cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) {
    return transfer(0, NULL, copy(P(to), from, bytes), ON_HOST, ON_DEVICE);
}
API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return transfer(0, NULL, copy(to, from, bytes), ON_DEVICE, ON_DEVICE);
}
API cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return transfer(0, NULL, copy(to, from, bytes), ANYWHERE, ANYWHERE);
}
API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, void *stream) {
    return transfer(1, stream, copy(to, P(from), bytes), ON_DEVICE, ON_HOST);
}
API cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, void *stream) {
    return transfer(1, stream, copy(P(to), from, bytes), ON_HOST, ON_DEVICE);
}
API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, void *stream) {
    return transfer(1, stream, copy(to, from, bytes), ON_DEVICE, ON_DEVICE);
}
API cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, void *stream) {
    return transfer(1, stream, copy(to, from, bytes), ANYWHERE, ANYWHERE);
}

static Op filling(CUdeviceptr to, unsigned value, unsigned width, size_t count) {
    return (Op){.action = FILL, .to = (char *)(uintptr_t)to, .value = value, .width = width, .bytes = count * width};
}

#define FILLS(bits, type) \
    API cuMemsetD##bits##_v2(CUdeviceptr to, type value, size_t count) { \
        return transfer(0, NULL, filling(to, value, bits / 8, count), ON_DEVICE, ON_DEVICE); \
    } \
    API cuMemsetD##bits##Async(CUdeviceptr to, type value, size_t count, void *stream) { \
        return transfer(1, stream, filling(to, value, bits / 8, count), ON_DEVICE, ON_DEVICE); \
    }
FILLS(8, unsigned char)
FILLS(16, unsigned short)
FILLS(32, unsigned)
