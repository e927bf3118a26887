/* Stream capture and graphs: what is queued on a capturing stream becomes a node; a launch runs all nodes in order. */
#define _GNU_SOURCE
#include "fake.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS 4096

static Graph graphs[SLOTS];
static int next_graph, live_graphs, live_executables;
static Capture *captures;
static uint64_t next_capture = 1;

enum { GLOBAL, THREAD_LOCAL, RELAXED };

/* FAKECUDA_CAPTURE_FAIL: at begin, end, instantiate or launch; the error is what a driver gives there. */
static int must_fail(const char *where) { return !strcmp(fake_env("FAKECUDA_CAPTURE_FAIL", ""), where); }

void fake_ops_free(Op *op) {
    while (op) {
        Op *next = op->next;
        fake_event_release(op->event);
        fake_graph_release(op->graph);
        free(op->staged);
        free(op);
        op = next;
    }
}

/* {{{ what capturing forbids */

void fake_capture_invalidate(Capture *capture) { capture->invalid = 1; }

/* Calls that wait for the whole device end a capture of this thread, and a global one of any thread. */
CUresult fake_unsafe(void) {
    CUresult result = SUCCESS;
    for (Capture *one = captures; one; one = one->next)
        if (one->mode == GLOBAL || (one->mode == THREAD_LOCAL && pthread_equal(one->thread, pthread_self()))) {
            one->invalid = 1;
            result = CAPTURE_UNSUPPORTED;
        }
    return result;
}

/* Work on the legacy stream would have to wait for every blocking stream, so for the capturing ones too. */
CUresult fake_implicit(Context *context) {
    CUresult result = SUCCESS;
    for (Capture *one = captures; one; one = one->next)
        if (one->origin->context == context && !(one->origin->flags & 1)) {
            one->invalid = 1;
            result = CAPTURE_IMPLICIT;
        }
    return result;
}

/* }}} */
/* {{{ capturing */

CUresult fake_capture_append(Stream *stream, const Op *op) {
    Capture *capture = stream->capture;
    if (capture->invalid) return CAPTURE_INVALIDATED;
    if (op->staged || op->action == REPLAY) {
        capture->invalid = 1;
        return CAPTURE_UNSUPPORTED;
    }
    stream->last = ++capture->nodes;
    if (op->action == RECORD) { /* a dependency for other streams, not a time */
        op->event->capture = capture->id, op->event->stream = stream, op->event->seq = stream->last;
        return SUCCESS;
    }
    Op *node = malloc(sizeof *node);
    if (!node) return OUT_OF_MEMORY;
    *node = *op;
    node->next = NULL;
    if (capture->tail) capture->tail->next = node; else capture->head = node;
    capture->tail = node;
    return SUCCESS;
}

CUresult fake_capture_wait(Stream *stream, Event *event) {
    Capture *capture = stream->capture;
    if (!event->capture) {
        if (!event->stream || event->ran == event->seq) return SUCCESS;
        capture->invalid = 1;
        return CAPTURE_ISOLATION;
    }
    Capture *origin = captures;
    while (origin && origin->id != event->capture) origin = origin->next;
    if (!origin) return capture ? CAPTURE_ISOLATION : SUCCESS;
    if (origin->invalid) return CAPTURE_INVALIDATED;
    if (capture && capture != origin) return capture->invalid = origin->invalid = 1, CAPTURE_ISOLATION;
    stream->capture = origin; /* a stream that waits for captured work is captured from here on */
    stream->last = ++origin->nodes;
    if (event->stream->joined < event->seq) event->stream->joined = event->seq;
    return SUCCESS;
}

API cuStreamBeginCapture_v2(void *handle, int mode) {
    LOCKED;
    CURRENT(context);
    Stream *stream;
    TRY(fake_stream(handle, context, &stream));
    if (mode < GLOBAL || mode > RELAXED) return INVALID_VALUE;
    if (stream == context->legacy || must_fail("begin")) return CAPTURE_UNSUPPORTED;
    if (stream->capture) return ILLEGAL_STATE;
    Capture *capture = calloc(1, sizeof *capture);
    if (!capture) return OUT_OF_MEMORY;
    *capture = (Capture){.id = next_capture++, .mode = mode, .origin = stream, .next = captures};
    capture->thread = pthread_self();
    captures = capture;
    stream->capture = capture;
    stream->last = stream->joined = 0;
    return SUCCESS;
}

static Graph *graph_make(int executable) {
    for (int i = 0; i < SLOTS; i++) {
        Graph *graph = &graphs[(next_graph + i) % SLOTS];
        if (graph->alive || graph->refs) continue;
        *graph = (Graph){.alive = 1, .refs = 1, .executable = executable};
        next_graph = (int)(graph - graphs + 1) % SLOTS;
        *(executable ? &live_executables : &live_graphs) += 1;
        return graph;
    }
    return NULL;
}

static void capture_end(Capture *capture) {
    Stream *stream;
    for (int at = 0; (stream = fake_stream_of(capture, &at));) {
        stream->capture = NULL;
        stream->last = stream->joined = 0;
    }
    for (Capture **one = &captures; *one; one = &(*one)->next)
        if (*one == capture) {
            *one = capture->next;
            break;
        }
    free(capture);
}

API cuStreamEndCapture(void *handle, Graph **out) {
    LOCKED;
    CURRENT(context);
    Stream *stream;
    TRY(fake_stream(handle, context, &stream));
    *out = NULL;
    Capture *capture = stream->capture;
    if (!capture) return ILLEGAL_STATE;
    if (capture->mode != RELAXED && !pthread_equal(capture->thread, pthread_self())) return CAPTURE_WRONG_THREAD;
    CUresult result = capture->invalid || must_fail("end") ? CAPTURE_INVALIDATED : SUCCESS;
    if (!result && capture->origin != stream) result = CAPTURE_UNMATCHED;
    Stream *one;
    for (int at = 0; !result && (one = fake_stream_of(capture, &at));)
        if (one != capture->origin && one->joined < one->last) result = CAPTURE_UNJOINED;
    if (!result && !(*out = graph_make(0))) result = OUT_OF_MEMORY;
    if (result) fake_ops_free(capture->head); else (*out)->head = capture->head;
    capture_end(capture);
    return result;
}

API cuStreamIsCapturing(void *handle, int *status) {
    LOCKED;
    CURRENT(context);
    Stream *stream;
    TRY(fake_stream(handle, context, &stream));
    *status = !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
    return SUCCESS;
}

/* }}} */
/* {{{ graphs */

static int valid(const Graph *graph, int executable) {
    return graph >= graphs && graph < graphs + SLOTS && graph->alive && graph->executable == executable &&
           ((const char *)graph - (const char *)graphs) % sizeof *graph == 0;
}

void fake_graph_release(Graph *graph) {
    if (!graph || --graph->refs) return;
    fake_ops_free(graph->head);
    graph->head = NULL;
}

static CUresult graph_destroy(Graph *graph, int executable) {
    LOCKED;
    if (!valid(graph, executable)) return INVALID_VALUE;
    graph->alive = 0;
    *(executable ? &live_executables : &live_graphs) -= 1;
    fake_graph_release(graph);
    return SUCCESS;
}
API cuGraphDestroy(Graph *graph) { return graph_destroy(graph, 0); }
API cuGraphExecDestroy(Graph *graph) { return graph_destroy(graph, 1); }

API cuGraphInstantiateWithFlags(Graph **out, Graph *graph, unsigned long long flags) {
    LOCKED;
    CURRENT(context);
    (void)context;
    if (!valid(graph, 0) || flags) return INVALID_VALUE;
    if (must_fail("instantiate")) return NOT_SUPPORTED;
    Graph *made = graph_make(1);
    if (!made) return OUT_OF_MEMORY;
    Op **tail = &made->head;
    for (Op *op = graph->head; op; op = op->next) {
        *tail = malloc(sizeof **tail);
        if (!*tail) return OUT_OF_MEMORY;
        **tail = *op;
        (*tail)->next = NULL;
        tail = &(*tail)->next;
    }
    *out = made;
    return SUCCESS;
}
API cuGraphInstantiate_v2(Graph **out, Graph *graph, void **error_node, char *log, size_t size) {
    (void)error_node;
    if (log && size) *log = 0;
    return cuGraphInstantiateWithFlags(out, graph, 0);
}
API cuGraphInstantiate(Graph **out, Graph *graph, void **error_node, char *log, size_t size) {
    return cuGraphInstantiate_v2(out, graph, error_node, log, size);
}

API cuGraphLaunch(Graph *graph, void *handle) {
    LOCKED;
    CURRENT(context);
    Stream *stream;
    TRY(fake_stream(handle, context, &stream));
    if (!valid(graph, 1)) return INVALID_VALUE;
    if (must_fail("launch")) return NOT_SUPPORTED;
    return fake_enqueue(stream, &(Op){.action = REPLAY, .graph = graph});
}

API cuGraphGetNodes(Graph *graph, void **nodes, size_t *count) {
    LOCKED;
    if (!valid(graph, 0) || nodes) return INVALID_VALUE;
    *count = 0;
    for (Op *op = graph->head; op; op = op->next) ++*count;
    return SUCCESS;
}

CUresult fake_replay(Context *context, Graph *graph) {
    for (Op *op = graph->head; op; op = op->next) TRY(fake_execute(context, op));
    return SUCCESS;
}

void fake_capture_reset(void) {
    while (captures) {
        fake_ops_free(captures->head);
        capture_end(captures);
    }
    for (int i = 0; i < SLOTS; i++)
        if (graphs[i].alive) fake_ops_free(graphs[i].head);
    memset(graphs, 0, sizeof graphs);
    live_graphs = live_executables = 0;
}

EXPORT int fakecuda_live_graphs(void) { LOCKED; return live_graphs; }
EXPORT int fakecuda_live_graph_executables(void) { LOCKED; return live_executables; }

/* }}} */
