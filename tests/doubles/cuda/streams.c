/* Streams whose work waits: everything asynchronous is queued and runs only when something waits for it, so that a
 * missing synchronisation leaves poisoned or stale memory behind. Events are stamped when they run. */
#define _GNU_SOURCE
#include "fake.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Handles are checked by their place in these tables; a slot is used again only after all others. */
#define SLOTS 16384

static Stream streams[SLOTS];
static Event events[SLOTS];
static int next_stream, next_event, live_streams, live_events;
static int busy; /* ops that run now, in all threads */
static int used; /* slots of streams that were ever in use */
static uint64_t clock_of_ops;
static __thread CUresult raised;

/* {{{ handles */

static int valid_stream(const Stream *stream) {
    return stream >= streams && stream < streams + SLOTS && stream->alive &&
           ((const char *)stream - (const char *)streams) % sizeof *stream == 0;
}

static int valid_event(const Event *event) {
    return event >= events && event < events + SLOTS && event->alive &&
           ((const char *)event - (const char *)events) % sizeof *event == 0;
}

CUresult fake_stream(void *handle, Context *context, Stream **out) {
    if (handle == NULL || handle == (void *)1) {
        *out = context->legacy;
        return SUCCESS;
    }
    if (!valid_stream(handle) || ((Stream *)handle)->context != context) return INVALID_HANDLE;
    *out = handle;
    return SUCCESS;
}

Stream *fake_stream_make(Context *context, unsigned flags) {
    for (int i = 0; i < SLOTS; i++) {
        Stream *stream = &streams[(next_stream + i) % SLOTS];
        if (stream->alive || stream->head || stream->running) continue;
        *stream = (Stream){.alive = 1, .flags = flags, .context = context, .done = clock_of_ops};
        next_stream = (int)(stream - streams + 1) % SLOTS;
        if (stream - streams >= used) used = (int)(stream - streams) + 1;
        return stream;
    }
    return NULL;
}

void fake_stream_drop(Stream *stream) {
    if (!stream) return;
    stream->alive = 0;
    fake_ops_free(stream->head);
    stream->head = stream->tail = NULL;
    stream->capture = NULL;
    stream->done = clock_of_ops;
}

/* What was queued for a context that is gone never runs. */
void fake_streams_forget(Context *context) {
    for (int i = 0; i < used; i++)
        if (streams[i].context == context && !streams[i].running) {
            fake_ops_free(streams[i].head);
            streams[i].head = streams[i].tail = NULL;
        }
}

/* The next stream from `at` on that takes part in a capture; NULL: no more. */
Stream *fake_stream_of(const Capture *capture, int *at) {
    while (*at < used) {
        Stream *stream = &streams[(*at)++];
        if (stream->capture == capture) return stream;
    }
    return NULL;
}

void fake_event_release(Event *event) {
    if (event) event->refs--;
}

void fake_streams_reset(void) {
    for (int i = 0; i < used; i++)
        if (streams[i].alive || streams[i].head) fake_stream_drop(&streams[i]);
    memset(events, 0, sizeof events);
    live_streams = live_events = 0;
}

/* }}} */
/* {{{ queueing and running */

CUresult fake_enqueue(Stream *stream, const Op *op) {
    if (stream->capture) return fake_capture_append(stream, op);
    if (stream == stream->context->legacy) TRY(fake_implicit(stream->context));
    Op *queued = malloc(sizeof *queued);
    if (!queued) return OUT_OF_MEMORY;
    *queued = *op;
    queued->seq = ++clock_of_ops;
    queued->next = NULL;
    if (op->event) op->event->refs++;
    if (op->graph) op->graph->refs++;
    if (stream->tail) stream->tail->next = queued; else stream->head = queued;
    stream->tail = queued;
    if (op->action == RECORD) op->event->stream = stream, op->event->seq = queued->seq, op->event->capture = 0;
    return SUCCESS;
}

static int blocking(const Stream *stream) { return !(stream->flags & 1); }

/* The work of `op` must come after: what it waits for, and what the rules of the legacy stream put before it. */
static CUresult run_what_comes_before(Stream *stream, const Op *op) {
    Context *context = stream->context;
    if (op->action == WAIT) TRY(fake_run_until(op->other, op->other_seq));
    if (stream != context->legacy) return blocking(stream) ? fake_run_until(context->legacy, op->seq - 1) : SUCCESS;
    for (int i = 0; i < used; i++)
        if (streams[i].head && streams[i].context == context && &streams[i] != stream && blocking(&streams[i]))
            TRY(fake_run_until(&streams[i], op->seq - 1));
    return SUCCESS;
}

static int still_there(const char *address, size_t bytes, uint64_t id) {
    if (!id) return 1;
    const Block *block = fake_find(address, bytes);
    return block && block->id == id;
}

static void fill(char *to, unsigned value, unsigned width, size_t bytes) {
    for (size_t i = 0; i + width <= bytes; i += width) memcpy(to + i, &value, width);
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Run one op; the lock is held, and let go while a host function runs (it may want the interpreter's own lock). */
CUresult fake_execute(Context *context, Op *op) {
    if (context->error) return context->error;
    const char *from = op->staged ? op->staged : op->from;
    switch (op->action) {
    case COPY:
        if (!still_there(op->to, op->bytes, op->to_id)) return ILLEGAL_ADDRESS;
        if (!still_there(op->from, op->bytes, op->from_id)) return ILLEGAL_ADDRESS;
        memmove(op->to, from, op->bytes);
        return SUCCESS;
    case FILL:
        if (!still_there(op->to, op->bytes, op->to_id)) return ILLEGAL_ADDRESS;
        fill(op->to, op->value, op->width, op->bytes);
        return SUCCESS;
    case CALL:
        raised = SUCCESS;
        pthread_mutex_unlock(&fake_lock);
        op->call(op->argument);
        pthread_mutex_lock(&fake_lock);
        return raised;
    case RECORD:
        op->event->nanoseconds = now(), op->event->ran = op->seq;
        return SUCCESS;
    case REPLAY:
        return fake_replay(context, op->graph);
    case WAIT:
        return SUCCESS;
    }
    return SUCCESS;
}

/* Run the stream's work up to `seq`, in order, and what that work waits for; another thread may be at it already. */
CUresult fake_run_until(Stream *stream, uint64_t seq) {
    Context *context = stream->context;
    while (stream->running ? stream->running <= seq : stream->head && stream->head->seq <= seq) {
        if (stream->running) {
            if (pthread_equal(stream->runner, pthread_self())) return NOT_PERMITTED; /* it waits for itself */
            pthread_cond_wait(&fake_changed, &fake_lock);
            continue;
        }
        Op *op = stream->head;
        stream->head = op->next;
        if (!stream->head) stream->tail = NULL;
        op->next = NULL;
        stream->running = op->seq, stream->runner = pthread_self(), busy++;
        CUresult result = run_what_comes_before(stream, op);
        if (!result) result = fake_execute(context, op);
        stream->running = 0, stream->done = op->seq, busy--;
        fake_ops_free(op);
        pthread_cond_broadcast(&fake_changed);
        if (result && result != NOT_PERMITTED && !context->error) context->error = result; /* sticky, as a real one */
        if (result) return result;
    }
    return context->error;
}

CUresult fake_run_all(Context *context, int blocking_only) {
    for (int i = 0; i < used; i++) {
        Stream *stream = &streams[i];
        if (stream->context != context || !(stream->head || stream->running)) continue;
        if (!blocking_only || blocking(stream)) TRY(fake_run_until(stream, clock_of_ops));
    }
    return context->error;
}

/* What a host function calls to make its stream fail, as a kernel would: the context is unusable from then on. */
EXPORT void fakecuda_raise(CUresult code) { raised = code; }

/* Ops that nothing has waited for yet. */
EXPORT long long fakecuda_pending(void) {
    LOCKED;
    long long count = 0;
    for (int i = 0; i < used; i++)
        for (Op *op = streams[i].head; op; op = op->next) count++;
    return count;
}

/* }}} */
/* {{{ the API of streams */

API cuStreamCreate(Stream **out, unsigned flags) {
    LOCKED;
    CURRENT(context);
    if (flags > 1) return INVALID_VALUE;
    *out = fake_stream_make(context, flags);
    if (!*out) return OUT_OF_MEMORY;
    live_streams++;
    return SUCCESS;
}
API cuStreamCreateWithPriority(Stream **out, unsigned flags, int priority) {
    (void)priority;
    return cuStreamCreate(out, flags);
}

/* Returns at once, as documented; what is still queued runs when the context, or an event in it, is waited for. */
API cuStreamDestroy_v2(Stream *stream) {
    LOCKED;
    if (!valid_stream(stream)) return INVALID_HANDLE;
    if (stream->capture) fake_capture_invalidate(stream->capture);
    stream->capture = NULL;
    stream->alive = 0;
    live_streams--;
    return SUCCESS;
}

API cuStreamSynchronize(void *handle) {
    LOCKED;
    CURRENT(context);
    Stream *stream;
    TRY(fake_stream(handle, context, &stream));
    if (stream->capture) {
        fake_capture_invalidate(stream->capture);
        return CAPTURE_UNSUPPORTED;
    }
    if (stream == context->legacy) {
        TRY(fake_implicit(context));
        return fake_run_all(context, 1);
    }
    return fake_run_until(stream, clock_of_ops);
}

/* A poll lets the device come one op further, so that a loop of polls ends; it never waits for another thread, since
 * pycuda polls with the interpreter's lock, which the work itself may want. */
API cuStreamQuery(void *handle) {
    LOCKED;
    CURRENT(context);
    Stream *stream;
    TRY(fake_stream(handle, context, &stream));
    if (stream->capture) {
        fake_capture_invalidate(stream->capture);
        return CAPTURE_UNSUPPORTED;
    }
    if (!stream->head && !stream->running) return SUCCESS;
    if (!busy) TRY(fake_run_until(stream, stream->head->seq));
    return NOT_READY;
}

API cuStreamGetFlags(void *handle, unsigned *flags) {
    LOCKED;
    CURRENT(context);
    Stream *stream;
    TRY(fake_stream(handle, context, &stream));
    *flags = stream->flags;
    return SUCCESS;
}

API cuStreamWaitEvent(void *handle, Event *event, unsigned flags) {
    LOCKED;
    CURRENT(context);
    Stream *stream;
    TRY(fake_stream(handle, context, &stream));
    if (!valid_event(event) || flags) return INVALID_HANDLE;
    if (stream->capture || event->capture) return fake_capture_wait(stream, event);
    if (!event->stream || event->ran == event->seq) return SUCCESS;
    return fake_enqueue(stream, &(Op){.action = WAIT, .other = event->stream, .other_seq = event->seq});
}

static CUresult enqueue_call(void *handle, HostFunction call, void *argument) {
    LOCKED;
    CURRENT(context);
    Stream *stream;
    TRY(fake_stream(handle, context, &stream));
    return call ? fake_enqueue(stream, &(Op){.action = CALL, .call = call, .argument = argument}) : INVALID_VALUE;
}
API cuLaunchHostFunc(void *handle, HostFunction call, void *argument) { return enqueue_call(handle, call, argument); }

/* Queue a function, as a library queues its kernels; it is captured into graphs too, and called at every replay. */
API fakecuda_enqueue_host(void *handle, HostFunction call, void *argument) {
    return enqueue_call(handle, call, argument);
}

EXPORT int fakecuda_live_streams(void) { LOCKED; return live_streams; }

/* }}} */
/* {{{ the API of events */

API cuEventCreate(Event **out, unsigned flags) {
    LOCKED;
    CURRENT(context);
    for (int i = 0; i < SLOTS; i++) {
        Event *event = &events[(next_event + i) % SLOTS];
        if (event->alive || event->refs) continue;
        *event = (Event){.alive = 1, .flags = flags, .context = context};
        next_event = (int)(event - events + 1) % SLOTS;
        live_events++;
        *out = event;
        return SUCCESS;
    }
    return OUT_OF_MEMORY;
}

API cuEventDestroy_v2(Event *event) {
    LOCKED;
    if (!valid_event(event)) return INVALID_HANDLE;
    event->alive = 0;
    live_events--;
    return SUCCESS;
}

API cuEventRecord(Event *event, void *handle) {
    LOCKED;
    CURRENT(context);
    Stream *stream;
    TRY(fake_stream(handle, context, &stream));
    if (!valid_event(event) || event->context != stream->context) return INVALID_HANDLE;
    return fake_enqueue(stream, &(Op){.action = RECORD, .event = event});
}

API cuEventSynchronize(Event *event) {
    LOCKED;
    CURRENT(context);
    if (!valid_event(event)) return INVALID_HANDLE;
    if (event->capture) return CAPTURED_EVENT;
    return event->stream ? fake_run_until(event->stream, event->seq) : SUCCESS;
}

API cuEventQuery(Event *event) {
    LOCKED;
    CURRENT(context);
    if (!valid_event(event)) return INVALID_HANDLE;
    if (event->capture) return CAPTURED_EVENT;
    if (!event->stream || event->ran == event->seq) return SUCCESS;
    if (event->stream->head && !busy) TRY(fake_run_until(event->stream, event->stream->head->seq));
    return NOT_READY;
}

API cuEventElapsedTime_v2(float *milliseconds, Event *from, Event *to) {
    LOCKED;
    CURRENT(context);
    if (!valid_event(from) || !valid_event(to) || ((from->flags | to->flags) & 2)) return INVALID_HANDLE;
    if (from->capture || to->capture) return CAPTURED_EVENT;
    if (!from->stream || !to->stream) return INVALID_HANDLE;
    if (from->ran != from->seq || to->ran != to->seq) return NOT_READY;
    *milliseconds = (float)((double)(to->nanoseconds - from->nanoseconds) / 1e6);
    return SUCCESS;
}
API cuEventElapsedTime(float *milliseconds, Event *from, Event *to) {
    return cuEventElapsedTime_v2(milliseconds, from, to);
}

EXPORT int fakecuda_live_events(void) { LOCKED; return live_events; }

/* The flags that an event was made with: 1 blocks, 2 has no times; -1: no event. */
EXPORT int fakecuda_event_flags(Event *event) { LOCKED; return valid_event(event) ? (int)event->flags : -1; }

/* }}} */
