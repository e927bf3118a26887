// The loop of bench/spans.py in plain C++ on the driver's C interface: what Python adds to it is the difference.
//
//     loop PTX|- COUNT SECONDS SLOTS TRANSFERS     prints one JSON line
//
// Two inputs and one output of COUNT float32 values in page-locked memory; the work is the kernel `vector_add` of the
// PTX file, or, with "-", a copy on the device. TRANSFERS 0 leaves the copies out. The driver is opened at run time and
// its few calls are declared here (its ABI is stable), so that neither CUDA's headers nor its stub library are needed.
#include <dlfcn.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

typedef int Result;
typedef void *Handle;
typedef unsigned long long Address;

static Handle library;

static void fail(const char *what, int code) {
    std::fprintf(stderr, "error: %s gives %d\n", what, code);
    std::exit(1);
}

template <typename F> static F symbol(const char *name) {
    F found = reinterpret_cast<F>(dlsym(library, name));
    if (!found) {
        std::fprintf(stderr, "error: the driver has no %s\n", name);
        std::exit(1);
    }
    return found;
}

#define DECLARE(name, ...) static Result (*name)(__VA_ARGS__)
DECLARE(cuInit, unsigned);
DECLARE(cuDevicePrimaryCtxRetain, Handle *, int);
DECLARE(cuCtxPushCurrent_v2, Handle);
DECLARE(cuCtxPopCurrent_v2, Handle *);
DECLARE(cuDevicePrimaryCtxRelease_v2, int);
DECLARE(cuMemAlloc_v2, Address *, size_t);
DECLARE(cuMemFree_v2, Address);
DECLARE(cuMemHostAlloc, void **, size_t, unsigned);
DECLARE(cuMemFreeHost, void *);
DECLARE(cuMemcpyHtoDAsync_v2, Address, const void *, size_t, Handle);
DECLARE(cuMemcpyDtoHAsync_v2, void *, Address, size_t, Handle);
DECLARE(cuMemcpyDtoDAsync_v2, Address, Address, size_t, Handle);
DECLARE(cuStreamCreate, Handle *, unsigned);
DECLARE(cuStreamDestroy_v2, Handle);
DECLARE(cuStreamWaitEvent, Handle, Handle, unsigned);
DECLARE(cuEventCreate, Handle *, unsigned);
DECLARE(cuEventDestroy_v2, Handle);
DECLARE(cuEventRecord, Handle, Handle);
DECLARE(cuEventSynchronize, Handle);
DECLARE(cuEventElapsedTime, float *, Handle, Handle);
DECLARE(cuModuleLoadData, Handle *, const void *);
DECLARE(cuModuleGetFunction, Handle *, Handle, const char *);
DECLARE(cuModuleUnload, Handle);
DECLARE(cuLaunchKernel, Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle, void **,
        void **);

#define FIND(name) name = symbol<decltype(name)>(#name)
#define TRY(call) \
    do { \
        Result code_ = (call); \
        if (code_) fail(#call, code_); \
    } while (0)

static void open_driver() {
    library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) {
        std::fprintf(stderr, "error: %s\n", dlerror());
        std::exit(1);
    }
    FIND(cuInit);
    FIND(cuDevicePrimaryCtxRetain);
    FIND(cuCtxPushCurrent_v2);
    FIND(cuCtxPopCurrent_v2);
    FIND(cuDevicePrimaryCtxRelease_v2);
    FIND(cuMemAlloc_v2);
    FIND(cuMemFree_v2);
    FIND(cuMemHostAlloc);
    FIND(cuMemFreeHost);
    FIND(cuMemcpyHtoDAsync_v2);
    FIND(cuMemcpyDtoHAsync_v2);
    FIND(cuMemcpyDtoDAsync_v2);
    FIND(cuStreamCreate);
    FIND(cuStreamDestroy_v2);
    FIND(cuStreamWaitEvent);
    FIND(cuEventCreate);
    FIND(cuEventDestroy_v2);
    FIND(cuEventRecord);
    FIND(cuEventSynchronize);
    FIND(cuEventElapsedTime);
    FIND(cuModuleLoadData);
    FIND(cuModuleGetFunction);
    FIND(cuModuleUnload);
    FIND(cuLaunchKernel);
}

enum { H2D_START, H2D_END, COMPUTE_START, COMPUTE_END, D2H_START, D2H_END, EVENTS };

struct Loop {
    Handle streams[3] = {}, function = nullptr;
    Address left = 0, right = 0, total = 0;
    float *in[2] = {}, *out = nullptr;
    unsigned count = 0;
    bool transfers = true;

    size_t bytes() const { return sizeof(float) * count; }

    void execute() {
        if (!function) {
            TRY(cuMemcpyDtoDAsync_v2(total, left, bytes(), streams[1]));
            return;
        }
        void *arguments[] = {&left, &right, &total, &count};
        TRY(cuLaunchKernel(function, (count + 127) / 128, 1, 1, 128, 1, 1, 0, streams[1], arguments, nullptr));
    }

    // The host's time around the computation's call, ns, as bench.spans takes it.
    int64_t enqueue(Handle *events) {
        using Clock = std::chrono::steady_clock;
        if (transfers) {
            TRY(cuEventRecord(events[H2D_START], streams[0]));
            TRY(cuMemcpyHtoDAsync_v2(left, in[0], bytes(), streams[0]));
            TRY(cuMemcpyHtoDAsync_v2(right, in[1], bytes(), streams[0]));
            TRY(cuEventRecord(events[H2D_END], streams[0]));
            TRY(cuStreamWaitEvent(streams[1], events[H2D_END], 0));
        }
        TRY(cuEventRecord(events[COMPUTE_START], streams[1]));
        auto begun = Clock::now();
        execute();
        auto ended = Clock::now();
        TRY(cuEventRecord(events[COMPUTE_END], streams[1]));
        if (transfers) {
            TRY(cuStreamWaitEvent(streams[2], events[COMPUTE_END], 0));
            TRY(cuEventRecord(events[D2H_START], streams[2]));
            TRY(cuMemcpyDtoHAsync_v2(out, total, bytes(), streams[2]));
            TRY(cuEventRecord(events[D2H_END], streams[2]));
        }
        return std::chrono::duration_cast<std::chrono::nanoseconds>(ended - begun).count();
    }

    // Wait for a query and read its six times; the start of its computation, ms after the origin.
    double finish(Handle *events, Handle origin, std::vector<float> &spans) {
        static const int all[] = {H2D_START, H2D_END, COMPUTE_START, COMPUTE_END, D2H_START, D2H_END};
        static const int some[] = {COMPUTE_START, COMPUTE_START, COMPUTE_START, COMPUTE_END, COMPUTE_END, COMPUTE_END};
        TRY(cuEventSynchronize(events[transfers ? D2H_END : COMPUTE_END]));
        for (int place = 0; place < EVENTS; place++) {
            float ms = 0;
            TRY(cuEventElapsedTime(&ms, origin, events[transfers ? all[place] : some[place]]));
            spans.push_back(ms);
        }
        return spans[spans.size() - 4];
    }
};

int main(int argc, char **argv) {
    if (argc != 6) {
        std::fprintf(stderr, "usage: loop PTX|- COUNT SECONDS SLOTS TRANSFERS\n");
        return 2;
    }
    const double limit = 1e3 * std::atof(argv[3]);
    const int slots = std::atoi(argv[4]);
    Loop loop;
    loop.count = static_cast<unsigned>(std::atoi(argv[2]));
    loop.transfers = std::atoi(argv[5]) != 0;
    if (slots < 1 || loop.count < 1) return 2;
    open_driver();
    Handle context = nullptr, module = nullptr, origin = nullptr;
    TRY(cuInit(0));
    TRY(cuDevicePrimaryCtxRetain(&context, 0));
    TRY(cuCtxPushCurrent_v2(context));
    if (std::strcmp(argv[1], "-")) {
        std::ifstream file(argv[1]);
        std::stringstream text;
        text << file.rdbuf();
        TRY(cuModuleLoadData(&module, text.str().c_str()));
        TRY(cuModuleGetFunction(&loop.function, module, "vector_add"));
    }
    for (Handle &stream : loop.streams) TRY(cuStreamCreate(&stream, 0));
    for (Address *memory : {&loop.left, &loop.right, &loop.total}) TRY(cuMemAlloc_v2(memory, loop.bytes()));
    for (float **memory : {&loop.in[0], &loop.in[1], &loop.out})
        TRY(cuMemHostAlloc(reinterpret_cast<void **>(memory), loop.bytes(), 0));
    for (unsigned i = 0; i < loop.count; i++) loop.in[0][i] = static_cast<float>(i), loop.in[1][i] = 1;
    std::vector<std::vector<Handle>> events(slots, std::vector<Handle>(EVENTS));
    for (auto &slot : events)
        for (Handle &event : slot) TRY(cuEventCreate(&event, 1)); // blocking, as trtexec without --useSpinWait
    TRY(cuEventCreate(&origin, 0));

    loop.enqueue(events[0].data()); // once before it counts: what is made at first use is not timed
    TRY(cuEventSynchronize(events[0][loop.transfers ? D2H_END : COMPUTE_END]));
    std::vector<float> spans;
    int64_t enqueued = 0;
    long queries = 0, flying = 0;
    auto begun = std::chrono::steady_clock::now();
    TRY(cuEventRecord(origin, loop.streams[0]));
    for (int other = 1; other < 3; other++) TRY(cuStreamWaitEvent(loop.streams[other], origin, 0));
    TRY(cuEventSynchronize(origin));
    for (double elapsed = 0; queries < 10 || elapsed < limit; queries++) {
        enqueued += loop.enqueue(events[queries % slots].data());
        if (++flying == slots) {
            elapsed = loop.finish(events[(queries + 1) % slots].data(), origin, spans);
            flying--;
        }
    }
    for (; flying; flying--) loop.finish(events[(queries - flying) % slots].data(), origin, spans);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();

    bool right = true;
    for (unsigned i = 0; i < loop.count && loop.transfers; i++)
        right = right && loop.out[i] == loop.in[0][i] + (loop.function ? loop.in[1][i] : 0);
    std::printf("{\"queries\": %ld, \"seconds\": %.9f, \"us\": %.6f, \"enqueue_us\": %.6f, \"right\": %s}\n", queries,
                seconds, 1e6 * seconds / queries, enqueued / 1e3 / queries, right ? "true" : "false");

    TRY(cuEventDestroy_v2(origin));
    for (auto &slot : events)
        for (Handle event : slot) TRY(cuEventDestroy_v2(event));
    for (float *memory : {loop.in[0], loop.in[1], loop.out}) TRY(cuMemFreeHost(memory));
    for (Address memory : {loop.left, loop.right, loop.total}) TRY(cuMemFree_v2(memory));
    for (Handle stream : loop.streams) TRY(cuStreamDestroy_v2(stream));
    if (module) TRY(cuModuleUnload(module));
    TRY(cuCtxPopCurrent_v2(&context));
    TRY(cuDevicePrimaryCtxRelease_v2(0));
    return 0;
}
