/* Device and page-locked memory: two reserved ranges of addresses, poisoned when given out and when given back, with a
 * red zone behind each allocation, and the ledger of what is live. */
#define _GNU_SOURCE
#include "fake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define RANGE ((size_t)64 << 30)
#define LINGER ((size_t)128 << 20) /* freed memory is not given out again until this much was used: stale reads show */
#define ALIGN ((size_t)512)
#define RED_ZONE ((size_t)512)
#define POISON_NEW 0xFF  /* a NaN in every float type */
#define POISON_FREE 0xFE /* -1.7e38 as float32 */
#define POISON_RED 0xFD
#define POISON_MOST ((size_t)64 << 20) /* more would only cost memory of the machine that runs the tests */

typedef struct {
    char *base;
    size_t top;    /* bytes below it were given out at least once */
    size_t usable; /* bytes with read and write access */
    Block *blocks; /* by address, without gaps below `top` */
} Arena;

static Arena device_arena, host_arena;
static Block *registered;
static uint64_t next_id = 1;
static long long counts[4], bytes[4], peak, attempts, faults;
static long long oom_at, oom_count;

static int inside(const Arena *arena, const void *address) {
    return arena->base && (const char *)address >= arena->base && (const char *)address < arena->base + RANGE;
}

/* Whether an address lies where allocations are made: if `fake_find` then finds none, it was freed, or is too short. */
int fake_is_ours(const void *address) { return inside(&device_arena, address) || inside(&host_arena, address); }

void fake_memory_configure(void) {
    oom_at = fake_env_number("FAKECUDA_OOM_AT", 0);
    oom_count = fake_env_number("FAKECUDA_OOM_COUNT", -1);
    attempts = 0;
}

static void poison(char *base, int value, size_t size) { memset(base, value, size < POISON_MOST ? size : POISON_MOST); }

static Block *take(Arena *arena, size_t size) {
    size_t room = (size + RED_ZONE + ALIGN - 1) / ALIGN * ALIGN;
    if (room < size || room > RANGE) return NULL;
    if (!arena->base) {
        void *base = mmap(NULL, RANGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED) return NULL;
        arena->base = base;
    }
    Block *last = NULL, *found = NULL;
    for (Block *block = arena->blocks; block; last = block, block = block->next)
        if (arena->top + room > LINGER && !found && !block->id && block->room >= room) found = block;
    if (!found) {
        if (arena->top + room > RANGE) return NULL;
        if (arena->top + room > arena->usable) {
            size_t want = (arena->top + room + (1 << 20) - 1) >> 20 << 20;
            if (mprotect(arena->base, want, PROT_READ | PROT_WRITE)) return NULL;
            arena->usable = want;
        }
        found = calloc(1, sizeof *found);
        if (!found) return NULL;
        *found = (Block){.base = arena->base + arena->top, .room = room};
        arena->top += room;
        if (last) last->next = found; else arena->blocks = found;
    } else if (found->room > room) {
        Block *rest = calloc(1, sizeof *rest);
        if (!rest) return NULL;
        *rest = (Block){.base = found->base + room, .room = found->room - room, .next = found->next};
        found->room = room, found->next = rest;
    }
    found->size = size;
    return found;
}

static void merge(Arena *arena) {
    for (Block *block = arena->blocks; block; block = block->next)
        while (!block->id && block->next && !block->next->id) {
            Block *next = block->next;
            block->room += next->room, block->next = next->next;
            free(next);
        }
}

static CUresult allocate(enum Kind kind, size_t size, unsigned flags, Context *context, void **out) {
    if (!size) return INVALID_VALUE;
    attempts++;
    int refused = oom_at && attempts >= oom_at && (oom_count < 0 || attempts < oom_at + oom_count);
    if (refused || size + (size_t)(bytes[DEVICE] + bytes[MANAGED]) > fake_total_bytes()) return OUT_OF_MEMORY;
    Arena *arena = kind == HOST ? &host_arena : &device_arena;
    Block *block = take(arena, size);
    if (!block) return OUT_OF_MEMORY;
    block->id = next_id++, block->kind = kind, block->flags = flags, block->context = context;
    poison(block->base, POISON_NEW, size);
    memset(block->base + size, POISON_RED, RED_ZONE);
    counts[kind]++, bytes[kind] += (long long)size;
    if (bytes[DEVICE] + bytes[MANAGED] > peak) peak = bytes[DEVICE] + bytes[MANAGED];
    *out = block->base;
    return SUCCESS;
}

static void release(Block *block) {
    for (size_t i = 0; i < RED_ZONE; i++)
        if ((unsigned char)block->base[block->size + i] != POISON_RED) {
            faults++;
            fprintf(stderr, "fakecuda: something wrote past the end of an allocation of %zu bytes\n", block->size);
            break;
        }
    counts[block->kind]--, bytes[block->kind] -= (long long)block->size;
    poison(block->base, POISON_FREE, block->size);
    block->id = 0;
}

static Block *block_at(const Arena *arena, const void *address) {
    for (Block *block = arena->blocks; block; block = block->next)
        if (block->id && (const char *)address >= block->base && (const char *)address < block->base + block->size)
            return block;
    return NULL;
}

/* The live allocation or registered range that holds all of these bytes; NULL for pageable memory. */
Block *fake_find(const void *address, size_t size) {
    Block *block = inside(&device_arena, address) ? block_at(&device_arena, address) : NULL;
    if (!block && inside(&host_arena, address)) block = block_at(&host_arena, address);
    for (Block *one = registered; !block && one; one = one->next)
        if ((const char *)address >= one->base && (const char *)address < one->base + one->size) block = one;
    if (block && size > block->size - (size_t)((const char *)address - block->base)) return NULL;
    return block;
}

void fake_memory_reset(void) {
    Arena *arenas[] = {&device_arena, &host_arena};
    for (int i = 0; i < 2; i++) {
        for (Block *block = arenas[i]->blocks; block; block = block->next)
            if (block->id) release(block);
        merge(arenas[i]);
    }
    while (registered) {
        Block *next = registered->next;
        free(registered);
        registered = next;
    }
    memset(counts, 0, sizeof counts);
    memset(bytes, 0, sizeof bytes);
    peak = faults = 0;
}

/* {{{ allocation */

static CUresult allocate_for(enum Kind kind, void **out, size_t size, unsigned flags) {
    LOCKED;
    CURRENT(context);
    TRY(fake_unsafe());
    return allocate(kind, size, flags, context, out);
}

API cuMemAlloc_v2(CUdeviceptr *out, size_t size) { return allocate_for(DEVICE, (void **)out, size, 0); }
API cuMemAllocManaged(CUdeviceptr *out, size_t size, unsigned flags) {
    return allocate_for(MANAGED, (void **)out, size, flags);
}
API cuMemHostAlloc(void **out, size_t size, unsigned flags) { return allocate_for(HOST, out, size, flags); }
API cuMemAllocHost_v2(void **out, size_t size) { return allocate_for(HOST, out, size, 0); }
API cuMemAllocPitch_v2(CUdeviceptr *out, size_t *pitch, size_t width, size_t height, unsigned element) {
    (void)element;
    *pitch = (width + ALIGN - 1) / ALIGN * ALIGN;
    return allocate_for(DEVICE, (void **)out, *pitch * height, 0);
}

/* Work that is still queued for this memory fails with an illegal address when it runs. */
static CUresult release_at(Arena *arena, void *address) {
    LOCKED;
    Context *context = fake_current();
    if (!context || !context->users) return INVALID_CONTEXT;
    TRY(fake_unsafe());
    Block *block = block_at(arena, address);
    if (!block || block->base != address) return INVALID_VALUE;
    release(block);
    merge(arena);
    return context->error;
}

API cuMemFree_v2(CUdeviceptr address) { return address ? release_at(&device_arena, (void *)address) : SUCCESS; }
API cuMemFreeHost(void *address) { return release_at(&host_arena, address); }

API cuMemHostRegister_v2(void *address, size_t size, unsigned flags) {
    LOCKED;
    CURRENT(context);
    if (!address || !size) return INVALID_VALUE;
    if (fake_find(address, 1)) return ALREADY_REGISTERED;
    Block *block = calloc(1, sizeof *block);
    if (!block) return OUT_OF_MEMORY;
    *block = (Block){address, size, size, next_id++, REGISTERED, flags, context, registered};
    registered = block;
    counts[REGISTERED]++, bytes[REGISTERED] += (long long)size;
    return SUCCESS;
}

API cuMemHostUnregister(void *address) {
    LOCKED;
    for (Block **at = &registered; *at; at = &(*at)->next)
        if ((*at)->base == address) {
            Block *block = *at;
            counts[REGISTERED]--, bytes[REGISTERED] -= (long long)block->size;
            *at = block->next;
            free(block);
            return SUCCESS;
        }
    return NOT_REGISTERED;
}

/* Stricter than a driver with unified addressing: memory that was not asked for as mapped has no device address. */
API cuMemHostGetDevicePointer_v2(CUdeviceptr *out, void *address, unsigned flags) {
    LOCKED;
    if (fake_env_number("FAKECUDA_CANNOT_MAP", 0)) return NOT_SUPPORTED;
    Block *block = fake_find(address, 1);
    if (!block || flags || block->kind < HOST || !(block->flags & 2)) return INVALID_VALUE;
    *out = (CUdeviceptr)(uintptr_t)address;
    return SUCCESS;
}

API cuMemHostGetFlags(unsigned *flags, void *address) {
    LOCKED;
    Block *block = fake_find(address, 1);
    if (!block || block->kind != HOST) return INVALID_VALUE;
    *flags = block->flags;
    return SUCCESS;
}

API cuMemGetInfo_v2(size_t *available, size_t *total) {
    LOCKED;
    CURRENT(context);
    *total = fake_total_bytes();
    *available = *total - (size_t)(bytes[DEVICE] + bytes[MANAGED]);
    return SUCCESS;
}

API cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr address) {
    LOCKED;
    Block *block = fake_find((void *)address, 1);
    if (!block) return INVALID_VALUE;
    if (base) *base = (CUdeviceptr)(uintptr_t)block->base;
    if (size) *size = block->size;
    return SUCCESS;
}

/* }}} */
/* {{{ the ledger */

EXPORT long long fakecuda_live_allocations(void) { LOCKED; return counts[DEVICE] + counts[MANAGED]; }
EXPORT long long fakecuda_live_bytes(void) { LOCKED; return bytes[DEVICE] + bytes[MANAGED]; }
EXPORT long long fakecuda_peak_bytes(void) { LOCKED; return peak; }
EXPORT long long fakecuda_live_host(void) { LOCKED; return counts[HOST] + counts[REGISTERED]; }
EXPORT long long fakecuda_live_host_bytes(void) { LOCKED; return bytes[HOST] + bytes[REGISTERED]; }

/* Allocations asked for, device and page-locked, since the environment was read or the failure below was set. */
EXPORT long long fakecuda_allocation_attempts(void) { LOCKED; return attempts; }

/* Writes past the end of an allocation, seen when it was freed. */
EXPORT long long fakecuda_faults(void) { LOCKED; return faults; }

/* The at-th allocation from now (1: the next) and `count` - 1 more fail; -1: all that follow; at 0: none. */
EXPORT void fakecuda_set_oom(long long at, long long count) { LOCKED; oom_at = at, oom_count = count, attempts = 0; }

/* 1 where the device may use all of these bytes: device and managed memory, and mapped page-locked memory. */
EXPORT int fakecuda_device_range(CUdeviceptr address, size_t size) {
    LOCKED;
    Block *block = fake_find((void *)address, size);
    return block && (block->kind == DEVICE || block->kind == MANAGED || (block->flags & 2));
}

/* }}} */
