// A stand-in for NCCL, for ranks in threads of one process on the stand-in driver. It does what the library's documents
// say of communicators that do not block: everything is in progress for a while, and a group is on its stream only after
// that. Misuse ends the program. It records the calls of every rank.
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION 22304
#endif
enum { SUCCESS = 0, INVALID_ARGUMENT = 4, IN_PROGRESS = 7, BYTES = 1, RANKS = 16, OPS = 256 };

static void must(int ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "stand-in NCCL: %s\n", what);
    abort();
}

typedef struct {
    char bytes[128];
} Id;
typedef struct {
    size_t size;
    unsigned magic, version;
    int blocking, cluster, least, most;
    const char *net;
    int split;
} Config;
typedef struct Message {
    struct Message *next;
    int from, to;
    size_t bytes;
    char data[];
} Message;
typedef struct World {
    struct World *next;
    Id id;
    int ranks, present;
    Message *messages;
} World;
typedef struct {
    World *world;
    int rank, alive, finalized;
    // Answers "in progress" that are still to be given.
    int busy;
    volatile int aborted;
} Comm;
typedef struct {
    enum { SEND, RECEIVE } kind;
    int peer, done;
    size_t bytes;
    char *at;
} Op;
typedef struct {
    Comm *comm;
    void *stream;
    int count, sent;
    Op ops[OPS];
} Group;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static World *worlds;
static char calls[RANKS][1 << 14];
static char last_error[256];
static __thread int depth;
static __thread Group *group;
static __thread char inside[4096];

// What goes wrong from now on: a code that each rank's state has, that sending gives, that a start ends with; seconds
// that an abort takes.
static int fails[RANKS], send_fails, start_fails, abort_takes;
void stand_in_reset(void) {
    memset(calls, 0, sizeof calls);
    memset(fails, 0, sizeof fails);
    send_fails = start_fails = abort_takes = last_error[0] = 0;
}
void stand_in_fail(int rank, int code, const char *text) {
    fails[rank] = code;
    snprintf(last_error, sizeof last_error, "%s", text);
}
void stand_in_fail_send(int code) { send_fails = code; }
void stand_in_fail_start(int code, const char *text) {
    start_fails = code;
    snprintf(last_error, sizeof last_error, "%s", text);
}
void stand_in_slow_abort(int seconds) { abort_takes = seconds; }
const char *stand_in_calls(int rank) { return calls[rank]; }

static void record(int rank, const char *text) {
    pthread_mutex_lock(&lock);
    size_t length = strlen(calls[rank]);
    snprintf(calls[rank] + length, sizeof calls[rank] - length, "%s\n", text);
    pthread_mutex_unlock(&lock);
}

int ncclGetVersion(int *version) { *version = VERSION; return 0; }
const char *ncclGetErrorString(int code) {
    return code == 1   ? "unhandled cuda error"
           : code == 2 ? "unhandled system error"
           : code == 6 ? "remote process exited or there was a network error"
                       : "an error of the stand-in";
}
const char *ncclGetLastError(Comm *comm) { return last_error; }
int ncclGetUniqueId(Id *id) {
    static int next;
    memset(id, 0, sizeof *id);
    snprintf(id->bytes, sizeof id->bytes, "group %d", __sync_fetch_and_add(&next, 1));
    return 0;
}

int ncclCommInitRankConfig(Comm **comm, int ranks, Id id, int rank, Config *config) {
    char text[256];
    snprintf(text, sizeof text, "start %d of %d, blocking %d, version %u, %zu bytes", rank, ranks, config->blocking,
             config->version, config->size);
    record(rank, text);
    int unset = config->cluster == INT_MIN && config->least == INT_MIN && config->most == INT_MIN &&
                config->split == INT_MIN && !config->net;
    must(config->magic == 0xcafebeef && unset, "the configuration is not as nccl.h initializes it");
    must(!depth && rank >= 0 && rank < ranks && ranks <= RANKS, "starts a rank that cannot be");
    *comm = 0;
    if (start_fails == 1) return 1;
    pthread_mutex_lock(&lock);
    World *world = worlds;
    while (world && memcmp(&world->id, &id, sizeof id)) world = world->next;
    if (!world) {
        world = calloc(1, sizeof *world);
        *world = (World){.next = worlds, .id = id, .ranks = ranks};
        worlds = world;
    }
    must(world->ranks == ranks, "ranks disagree about their number");
    world->present++;
    pthread_mutex_unlock(&lock);
    *comm = calloc(1, sizeof **comm);
    **comm = (Comm){.world = world, .rank = rank, .alive = 1, .busy = 3};
    return IN_PROGRESS;
}
int ncclCommGetAsyncError(Comm *comm, int *state) {
    must(comm->alive, "asks a communicator that has ended");
    if (start_fails) *state = start_fails;
    else if (fails[comm->rank]) *state = fails[comm->rank];
    else if (comm->world->present < comm->world->ranks) *state = IN_PROGRESS;
    else *state = comm->busy > 0 ? comm->busy--, IN_PROGRESS : SUCCESS;
    return 0;
}
static void ready(Comm *comm, const char *what) {
    must(comm->alive, "uses a communicator that has ended");
    must(!comm->busy && comm->world->present == comm->world->ranks, what);
}
int ncclCommFinalize(Comm *comm) {
    ready(comm, "finalizes before the last call is done");
    must(!comm->finalized, "finalizes twice");
    record(comm->rank, "finalize");
    comm->finalized = 1, comm->busy = 5;
    return IN_PROGRESS;
}
int ncclCommDestroy(Comm *comm) {
    ready(comm, "destroys before the last call is done");
    must(comm->finalized, "destroys what was not finalized");
    record(comm->rank, "destroy");
    comm->alive = 0;
    return 0;
}
int ncclCommAbort(Comm *comm) {
    must(comm->alive, "aborts a communicator that has ended");
    record(comm->rank, "abort");
    comm->alive = 0;
    if (abort_takes) sleep(abort_takes);
    comm->aborted = 1;
    return 0;
}

int ncclGroupStart(void) {
    must(!depth++, "groups in groups");
    inside[0] = 0;
    return 0;
}
static void add(Comm *comm, void *stream, int kind, const void *at, size_t bytes, int peer) {
    if (!group) {
        group = calloc(1, sizeof *group);
        group->comm = comm, group->stream = stream;
    }
    must(group->comm == comm && group->stream == stream, "a group of two communicators or streams");
    must(group->count < OPS && peer != comm->rank && peer >= 0 && peer < comm->world->ranks, "a peer that is none");
    group->ops[group->count++] = (Op){kind, peer, 0, bytes, (char *)at};
}
static void begin(Comm *comm, int type, const char *text) {
    must(depth, "a call without a group");
    must(type == BYTES, "a type other than bytes");
    ready(comm, "a call before the last group is on its stream");
    size_t length = strlen(inside);
    snprintf(inside + length, sizeof inside - length, "%s%s", length ? ", " : "", text);
    // A call without transfers is of the group too.
    if (!group) {
        group = calloc(1, sizeof *group);
        group->comm = comm;
    }
}
int ncclSend(const void *from, size_t count, int type, int peer, Comm *comm, void *stream) {
    char text[64];
    snprintf(text, sizeof text, "send %zu to %d", count, peer);
    begin(comm, type, text);
    if (send_fails) return send_fails;
    if (!group->stream) group->stream = stream;
    add(comm, stream, SEND, from, count, peer);
    return 0;
}
int ncclRecv(void *to, size_t count, int type, int peer, Comm *comm, void *stream) {
    char text[64];
    snprintf(text, sizeof text, "receive %zu from %d", count, peer);
    begin(comm, type, text);
    if (!group->stream) group->stream = stream;
    add(comm, stream, RECEIVE, to, count, peer);
    return 0;
}
int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, Comm *comm, void *stream) {
    char text[64];
    snprintf(text, sizeof text, "broadcast %zu of %d", count, root);
    begin(comm, type, text);
    must(from == to, "a broadcast that is not in place");
    if (!group->stream) group->stream = stream;
    for (int peer = 0; comm->rank == root && peer < comm->world->ranks; peer++)
        if (peer != root) add(comm, stream, SEND, from, count, peer);
    if (comm->rank != root) add(comm, stream, RECEIVE, to, count, root);
    return 0;
}
int ncclAllGather(const void *from, void *to, size_t count, int type, Comm *comm, void *stream) {
    char text[64];
    snprintf(text, sizeof text, "gather %zu", count);
    begin(comm, type, text);
    must((char *)from == (char *)to + comm->rank * count, "a gather that is not in place");
    if (!group->stream) group->stream = stream;
    for (int peer = 0; peer < comm->world->ranks; peer++) {
        if (peer == comm->rank) continue;
        add(comm, stream, SEND, from, count, peer);
        add(comm, stream, RECEIVE, (char *)to + peer * count, count, peer);
    }
    return 0;
}

// Sends all, then receives what has come; 0 if something has not.
static int attempt(void *data) {
    Group *g = data;
    World *world = g->comm->world;
    int left = 0, rank = g->comm->rank;
    if (g->comm->aborted) return 1;
    if (fails[rank]) return 0;
    pthread_mutex_lock(&lock);
    for (Op *op = g->ops; op < g->ops + g->count; op++) {
        if (op->kind != SEND || g->sent) continue;
        Message *message = malloc(sizeof *message + op->bytes), **end = &world->messages;
        *message = (Message){0, rank, op->peer, op->bytes};
        memcpy(message->data, op->at, op->bytes);
        while (*end) end = &(*end)->next;
        *end = message;
    }
    g->sent = 1;
    for (Op *op = g->ops; op < g->ops + g->count; op++) {
        if (op->kind != RECEIVE || op->done) continue;
        Message **at = &world->messages;
        while (*at && ((*at)->from != op->peer || (*at)->to != rank)) at = &(*at)->next;
        Message *message = *at;
        if (!message) {
            left++;
            continue;
        }
        must(message->bytes == op->bytes, "a piece of another length than was sent");
        memcpy(op->at, message->data, op->bytes);
        *at = message->next;
        op->done = 1;
        free(message);
    }
    pthread_mutex_unlock(&lock);
    return !left;
}
int ncclGroupEnd(void) {
    must(depth-- == 1, "a group ends that did not start");
    Group *g = group;
    group = 0;
    if (!g) return 0;
    char text[4200];
    snprintf(text, sizeof text, "group: %s", inside);
    record(g->comm->rank, text);
    if (send_fails) return send_fails;
    int (*queue)(void *, int (*)(void *), void *) = dlsym(dlopen("libcuda.so", RTLD_NOW), "stand_in_try");
    must(queue != 0, "the stand-in driver is not there");
    if (queue(g->stream, attempt, g)) return 1;
    g->comm->busy = 120;
    return IN_PROGRESS;
}
