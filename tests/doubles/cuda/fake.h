/* A driver for tests: device memory is host memory, and work on a stream waits until something waits for it.
 * Own code against the public C interface of libcuda (its ABI is stable); needs no CUDA header. */
#ifndef FAKE_H
#define FAKE_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef void (*HostFunction)(void *);

#define API __attribute__((visibility("default"))) CUresult
#define EXPORT __attribute__((visibility("default")))

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, ILLEGAL_STATE = 401, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
    PRIMARY_ACTIVE = 708, CONTEXT_DESTROYED = 709, ALREADY_REGISTERED = 712, NOT_REGISTERED = 713, NOT_PERMITTED = 800,
    NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_UNMATCHED = 903,
    CAPTURE_UNJOINED = 904, CAPTURE_ISOLATION = 905, CAPTURE_IMPLICIT = 906, CAPTURED_EVENT = 907,
    CAPTURE_WRONG_THREAD = 908
};

typedef struct Context Context;
typedef struct Stream Stream;
typedef struct Event Event;
typedef struct Capture Capture;
typedef struct Graph Graph;
typedef struct Op Op;

struct Context {
    int users;   /* 0: not made, or released */
    int primary; /* made by cuDevicePrimaryCtxRetain */
    CUdevice device;
    CUresult error; /* sticky, as after an illegal address */
    Stream *legacy; /* the stream of handle 0 */
};

enum Kind { DEVICE, MANAGED, HOST, REGISTERED };

typedef struct Block Block;
struct Block {
    char *base;
    size_t size; /* as asked for */
    size_t room; /* as taken from the arena, with the red zone */
    uint64_t id; /* 0: free */
    enum Kind kind;
    unsigned flags;
    Context *context;
    Block *next;
};

enum Action { COPY, FILL, CALL, RECORD, WAIT, REPLAY };

struct Op {
    enum Action action;
    uint64_t seq;
    char *to, *from;
    size_t bytes;
    uint64_t to_id, from_id; /* the allocations it was queued for; 0: pageable memory */
    unsigned value, width;
    HostFunction call;
    void *argument;
    Event *event;
    Stream *other; /* WAIT: run that stream up to other_seq first */
    uint64_t other_seq;
    Graph *graph;
    void *staged; /* a copy of pageable memory, taken when it was queued, as the driver does */
    Op *next;
};

struct Stream {
    int alive;
    unsigned flags;
    Context *context;
    Op *head, *tail;
    uint64_t done, running; /* the last op that has run; the one that runs now, or 0 */
    pthread_t runner;
    Capture *capture;
    uint64_t last, joined; /* in a capture: its last node, and the last one that another stream waits for */
};

struct Event {
    int alive, refs;
    unsigned flags;
    Context *context;
    Stream *stream; /* of the last record; NULL: never recorded */
    uint64_t seq, ran;
    int64_t nanoseconds;
    uint64_t capture; /* recorded in this capture, at node `seq`; 0: outside */
};

struct Capture {
    uint64_t id, nodes;
    int mode, invalid;
    pthread_t thread;
    Stream *origin;
    Op *head, *tail;
    Capture *next;
};

struct Graph {
    int alive, executable, refs;
    Op *head;
};

extern pthread_mutex_t fake_lock;
extern pthread_cond_t fake_changed;

static inline int fake_enter(void) { return pthread_mutex_lock(&fake_lock); }
static inline void fake_leave(int *unused) { (void)unused; pthread_mutex_unlock(&fake_lock); }
#define LOCKED __attribute__((cleanup(fake_leave))) int locked = fake_enter(); (void)locked

#define CURRENT(context) \
    Context *context = fake_current(); \
    if (!context) return fake_initialized() ? INVALID_CONTEXT : NOT_INITIALIZED; \
    if (!context->users) return CONTEXT_DESTROYED; \
    if (context->error) return context->error

#define TRY(expression) do { CUresult result_ = (expression); if (result_) return result_; } while (0)

/* device.c */
int fake_initialized(void);
Context *fake_current(void);
size_t fake_total_bytes(void);
const char *fake_env(const char *name, const char *otherwise);
long long fake_env_number(const char *name, long long otherwise);
void fake_device_configure(void);

/* memory.c */
Block *fake_find(const void *address, size_t bytes);
int fake_is_ours(const void *address);
void fake_memory_configure(void);
void fake_memory_reset(void);

/* streams.c */
CUresult fake_stream(void *handle, Context *context, Stream **out);
Stream *fake_stream_make(Context *context, unsigned flags);
void fake_stream_drop(Stream *stream);
CUresult fake_enqueue(Stream *stream, const Op *op);
CUresult fake_run_until(Stream *stream, uint64_t seq);
CUresult fake_run_all(Context *context, int blocking_only);
CUresult fake_execute(Context *context, Op *op);
void fake_streams_reset(void);
void fake_streams_forget(Context *context);
Stream *fake_stream_of(const Capture *capture, int *at);
void fake_event_release(Event *event);

/* capture.c */
CUresult fake_unsafe(void);
CUresult fake_implicit(Context *context);
CUresult fake_capture_append(Stream *stream, const Op *op);
CUresult fake_capture_wait(Stream *stream, Event *event);
void fake_capture_invalidate(Capture *capture);
void fake_graph_release(Graph *graph);
void fake_ops_free(Op *head);
CUresult fake_replay(Context *context, Graph *graph);
void fake_capture_reset(void);

#endif
