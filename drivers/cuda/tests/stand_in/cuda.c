// A stand-in for the driver of an NVIDIA GPU, to run the engine on a machine without one. Work of a stream is done when
// somebody waits for it and not before, so that a missing wait shows; memory is the host's, filled with ones; of
// kernels it computes those of `transpose.cu`, and `rmsnorm_f32`, which does something that depends on all of its operands;
// of those of decoding it knows how large their arguments are.
// Calls without a context end the program.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef uint64_t Address;
enum {
    INVALID = 1,
    OUT_OF_MEMORY = 2,
    INVALID_IMAGE = 200,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    CAPTURE_INVALID = 901
};

static __thread void *context;
static int lost;  // a kernel failed: everything fails from now on

static void must(int ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "stand-in driver: %s\n", what);
    abort();
}
#define HERE must(context != 0, __func__)

typedef struct {
    char name[64];
    size_t bytes;
} Function;
typedef struct Stream Stream;
typedef struct {
    Stream *stream;
    size_t until;
    double time;
} Event;
typedef struct {
    enum { KERNEL, COPY, WAIT, CALL, TRY } kind;
    void (*call)(void *);
    int (*attempt)(void *);
    Function *function;
    unsigned grid[3], threads, shared;
    unsigned char argument[512];
    void *to;
    const void *from;
    size_t bytes;
    Event event;
} Work;
typedef struct {
    Work **list;
    size_t count;
} Graph;
struct Stream {
    Work **list;
    size_t count, done;
    Graph *capture;
};

// Sizes of arguments, by what a kernel's name begins with; the first that fits counts.
static const struct {
    const char *begin;
    size_t bytes;
} arguments[] = {
    {"transpose_", 64}, {"pad_f32", 64}, {"rmsnorm_", 136}, {"fill", 40}, {"unary", 48}, {"random_normal", 56},
    {"binary", 72}, {"cast", 72}, {"copy_", 72}, {"gather_columns_", 112}, {"gather_cast", 120}, {"gather_", 96},
    {"combine_", 120}, {"scatter_add_", 112}, {"rope_", 128}, {"route_", 192}, {"top_k_", 72}, {"sort_offsets", 48},
    {"sort_", 112}, {"swiglu_", 128}, {"gemv_", 232}, {"absorb_query_", 184}, {"store_latent", 160}, {"load_latent", 160},
    {"latent_", 320}, {"sample_", 200},
};
static size_t argument_of(const char *name) {
    for (size_t i = 0; i < sizeof arguments / sizeof *arguments; i++)
        if (!strncmp(name, arguments[i].begin, strlen(arguments[i].begin))) return arguments[i].bytes;
    return 136;
}
static int reorders(const char *name) {
    return !strcmp(name, "transpose_bytes") || !strcmp(name, "transpose_f32") || !strcmp(name, "pad_f32");
}
static void until(Stream *stream, size_t count);
// Runs work; 0 if it must be tried again.
static int work(Work *w) {
    if (w->kind == COPY) memcpy(w->to, w->from, w->bytes);
    if (w->kind == WAIT && w->event.stream) until(w->event.stream, w->event.until);
    if (w->kind == CALL) w->call(w->to);
    if (w->kind == TRY) return w->attempt(w->to);
    if (w->kind != KERNEL) return 1;
    if (reorders(w->function->name)) {
        int across = w->function->name[0] == 't', size = strcmp(w->function->name, "transpose_bytes") ? 4 : 1;
        char *x = *(char **)w->argument, *y = *(char **)(w->argument + 32);
        int64_t from = *(int64_t *)(w->argument + 8), to = *(int64_t *)(w->argument + 40);
        int xrows = *(int *)(w->argument + 16), xcols = *(int *)(w->argument + 20);
        int rows = *(int *)(w->argument + 48), cols = *(int *)(w->argument + 52);
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < cols; c++) {
                char *at = y + (r * to + c) * size;
                if (c < (across ? xrows : xcols)) memcpy(at, x + (across ? c * from + r : r * from + c) * size, size);
                else memset(at, 0, size);
            }
    }
    if (strcmp(w->function->name, "rmsnorm_f32")) return 1;
    // Mat: address, stride, rows, columns, type. The argument: x, weight, y, rstd, eps.
    const unsigned char *a = w->argument;
    float *x = *(float **)a, *weight = *(float **)(a + 32), *y = *(float **)(a + 64), eps = *(float *)(a + 128);
    int rows = *(int *)(a + 16), cols = *(int *)(a + 20);
    if (eps > 600) lost = 1;
    for (int i = 0; i < rows * cols; i++) y[i] = x[i] * (0.5f + weight[i % cols]) + eps * 1e5f;
    return 1;
}
static void until(Stream *stream, size_t count) {
    while (stream->done < count && !lost) {
        if (work(stream->list[stream->done])) stream->done++;
        else usleep(100);
    }
}
static int add(Stream *stream, Work w) {
    if (lost) return ILLEGAL_ADDRESS;
    Work ***list = stream->capture ? &stream->capture->list : &stream->list;
    size_t *count = stream->capture ? &stream->capture->count : &stream->count;
    *list = realloc(*list, (*count + 1) * sizeof **list);
    (*list)[(*count)++] = memcpy(malloc(sizeof w), &w, sizeof w);
    return 0;
}

// What the stand-in for cuBLASLt asks a stream for.
int stand_in_call(Stream *stream, void (*call)(void *), void *data) {
    return add(stream, (Work){.kind = CALL, .call = call, .to = data});
}

// What the stand-in for NCCL asks a stream for: `attempt` is called until it does not give 0.
int stand_in_try(Stream *stream, int (*attempt)(void *), void *data) {
    return add(stream, (Work){.kind = TRY, .attempt = attempt, .to = data});
}

int cuInit(unsigned flags) { return flags; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? 101 : 0; }
int cuDeviceGetName(char *name, int n, int device) { snprintf(name, n, "stand-in"); return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    *value = which == 75 ? 9 : which == 76 ? 0 : which == 16 ? 132 : which == 97 ? 232448 : -1;
    return *value < 0 ? INVALID : 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)80 << 30; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int device) { *c = &lost; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxSetCurrent(void *c) { context = c; return 0; }
int cuGetErrorName(int code, const char **name) {
    *name = code == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_OTHER";
    return 0;
}
int cuGetErrorString(int code, const char **text) { *text = "of the stand-in"; return 0; }

int cuMemAlloc_v2(Address *address, size_t bytes) {
    HERE;
    if (bytes > (size_t)1 << 36) return OUT_OF_MEMORY;
    *address = (Address)aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset((void *)*address, 0xff, bytes);
    return 0;
}
int cuMemFree_v2(Address address) { HERE; free((void *)address); return 0; }
int cuMemHostAlloc(void **p, size_t bytes, unsigned flags) {
    HERE;
    *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    return 0;
}
int cuMemFreeHost(void *p) { HERE; free(p); return 0; }
int cuMemHostGetDevicePointer_v2(Address *address, void *p, unsigned flags) { *address = (Address)p; return 0; }

int cuStreamCreate(Stream **stream, unsigned flags) {
    HERE;
    *stream = calloc(1, sizeof **stream);
    return flags == 1 ? 0 : INVALID;
}
int cuStreamDestroy_v2(Stream *stream) { HERE; until(stream, stream->count); return 0; }
int cuStreamSynchronize(Stream *stream) {
    HERE;
    must(!stream->capture, "waits during a capture");
    until(stream, stream->count);
    return lost ? ILLEGAL_ADDRESS : 0;
}
// Does the work up to the first that must be tried again.
static int query(Stream *stream, size_t count) {
    must(!stream->capture, "asks during a capture");
    while (stream->done < count && !lost) {
        if (!work(stream->list[stream->done])) return NOT_READY;
        stream->done++;
    }
    return lost ? ILLEGAL_ADDRESS : 0;
}
int cuStreamQuery(Stream *stream) { HERE; return query(stream, stream->count); }
int cuEventQuery(Event *event) { HERE; return event->stream ? query(event->stream, event->until) : 0; }
int cuEventCreate(Event **event, unsigned flags) { HERE; *event = calloc(1, sizeof **event); return 0; }
int cuEventDestroy_v2(Event *event) { free(event); return 0; }
int cuEventRecord(Event *event, Stream *stream) {
    static double clock;
    HERE;
    *event = (Event){stream, stream->count, clock += 0.5};
    return 0;
}
int cuEventSynchronize(Event *event) {
    if (event->stream) until(event->stream, event->until);
    return lost ? ILLEGAL_ADDRESS : 0;
}
int cuEventElapsedTime_v2(float *ms, Event *a, Event *b) { *ms = (float)(b->time - a->time); return 0; }
int cuStreamWaitEvent(Stream *stream, Event *event, unsigned flags) {
    HERE;
    return add(stream, (Work){.kind = WAIT, .event = *event});
}
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, Stream *stream) {
    HERE;
    return add(stream, (Work){.kind = COPY, .to = (void *)to, .from = from, .bytes = bytes});
}
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, Stream *stream) {
    HERE;
    return add(stream, (Work){.kind = COPY, .to = to, .from = (void *)from, .bytes = bytes});
}
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Stream *stream) {
    HERE;
    return add(stream, (Work){.kind = COPY, .to = (void *)to, .from = (void *)from, .bytes = bytes});
}

int cuModuleLoadData(void **module, const void *image) {
    HERE;
    *module = &lost;
    return memcmp(image, "\177ELF", 4) ? INVALID_IMAGE : 0;
}
int cuModuleUnload(void *module) { return 0; }
int cuModuleGetFunction(Function **function, void *module, const char *name) {
    HERE;
    *function = calloc(1, sizeof **function);
    snprintf((*function)->name, sizeof (*function)->name, "%s", name);
    (*function)->bytes = argument_of(name);
    return 0;
}
int cuFuncGetParamInfo(Function *function, size_t i, size_t *offset, size_t *bytes) {
    *offset = 0, *bytes = function->bytes;
    return i ? INVALID : 0;
}
int cuFuncSetAttribute(Function *function, int attribute, int value) { HERE; return attribute == 8 ? 0 : INVALID; }
int cuLaunchKernel(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, Stream *stream, void **parameters, void **extra) {
    HERE;
    if (by != 1 || bz != 1 || extra) return INVALID;
    Work w = {.kind = KERNEL, .function = f, .grid = {gx, gy, gz}, .threads = bx, .shared = shared};
    memcpy(w.argument, parameters[0], f->bytes);
    return add(stream, w);
}

int cuStreamBeginCapture_v2(Stream *stream, int mode) {
    HERE;
    if (mode != 2 || stream->capture) return INVALID;
    stream->capture = calloc(1, sizeof(Graph));
    return 0;
}
int cuStreamGetCaptureInfo_v3(Stream *stream, int *status, uint64_t *id, void *graph, Work *const **nodes,
                              const void **edges, size_t *count) {
    HERE;
    *status = stream->capture ? 1 : 0, *count = 1;
    *nodes = stream->capture->list + stream->capture->count - 1;
    if (edges) *edges = 0;
    return 0;
}
int cuStreamEndCapture(Stream *stream, Graph **graph) {
    HERE;
    *graph = stream->capture;
    stream->capture = 0;
    return getenv("STAND_IN_REFUSES") ? CAPTURE_INVALID : 0;
}
// An executable graph holds copies of the nodes, and which node each is of.
typedef struct {
    Graph nodes;
    Work *copies;
} Executable;
int cuGraphInstantiateWithFlags(Executable **executable, Graph *graph, uint64_t flags) {
    HERE;
    *executable = malloc(sizeof **executable);
    **executable = (Executable){*graph, malloc(graph->count * sizeof(Work))};
    for (size_t i = 0; i < graph->count; i++) (*executable)->copies[i] = *graph->list[i];
    return 0;
}
int cuGraphLaunch(Executable *executable, Stream *stream) {
    HERE;
    int code = 0;
    for (size_t i = 0; i < executable->nodes.count; i++) code |= add(stream, executable->copies[i]);
    return code;
}
typedef struct {
    Function *function;
    unsigned grid[3], block[3], shared;
    void **parameters, **extra;
    void *kernel, *context;
} Parameters;
int cuGraphExecKernelNodeSetParams_v2(Executable *executable, Work *node, const Parameters *p) {
    HERE;
    for (size_t i = 0; i < executable->nodes.count; i++) {
        Work *w = &executable->copies[i];
        if (executable->nodes.list[i] != node) continue;
        if (w->kind != KERNEL || w->function != p->function || memcmp(w->grid, p->grid, sizeof w->grid) ||
            w->threads != p->block[0] || w->shared != p->shared || p->extra || p->kernel || p->context)
            return INVALID;
        memcpy(w->argument, p->parameters[0], w->function->bytes);
        return 0;
    }
    return INVALID;
}
int cuGraphExecDestroy(Executable *executable) { return 0; }
int cuGraphDestroy(Graph *graph) { return 0; }
