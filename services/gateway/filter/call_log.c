// The call log: counts every call as it ends, by task and by instance, and keeps the last that failed, in memory that
// the control plane reads.
// services/gateway/metrics_counters.py makes the file, says what each word in it is, and reads it.
//
// Runs on Envoy's worker threads after a call has ended. It never blocks and never allocates. Each thread writes to a
// block of its own, so nothing is locked or shared on the way; the keys alone are common to all threads.

#define _GNU_SOURCE // O_CLOEXEC, kill
#include "envoy_abi.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

// Envoy's interface for access loggers, as far as it is used here.

enum { REQUEST_HEADERS = 0, RESPONSE_HEADERS = 2, RESPONSE_TRAILERS = 3 };
enum { DOWNSTREAM_END = 6 };
enum { ENVOY_LOG_WARN = 3 };

// Nanoseconds since the call began; negative where it did not come to that.
struct timing {
    int64_t began_unix, total;
    int64_t first_sent_upstream, last_sent_upstream, first_got_upstream, last_got_upstream;
    int64_t first_sent_downstream, last_sent_downstream;
};

struct volume {
    uint64_t received, sent; // bytes of message bodies
    uint64_t upstream_received, upstream_sent;
};

bool envoy_dynamic_module_callback_access_logger_get_header_value(
    void *call, int map, struct text name, struct text *value, size_t index, size_t *count
);
void envoy_dynamic_module_callback_access_logger_get_timing_info(void *call, struct timing *timing);
void envoy_dynamic_module_callback_access_logger_get_bytes_info(void *call, struct volume *volume);
bool envoy_dynamic_module_callback_access_logger_get_route_name(void *call, struct text *name);
bool envoy_dynamic_module_callback_access_logger_get_upstream_cluster(void *call, struct text *name);
bool envoy_dynamic_module_callback_access_logger_get_upstream_remote_address(
    void *call, struct text *host, uint32_t *port
);
bool envoy_dynamic_module_callback_access_logger_get_downstream_remote_address(
    void *call, struct text *host, uint32_t *port
);
bool envoy_dynamic_module_callback_access_logger_get_response_code_details(void *call, struct text *details);
uint32_t envoy_dynamic_module_callback_access_logger_get_response_code(void *call);
uint64_t envoy_dynamic_module_callback_access_logger_get_response_flags(void *call);
uint32_t envoy_dynamic_module_callback_access_logger_get_attempt_count(void *call);

ENVOY_HOOK const void *envoy_dynamic_module_on_access_logger_config_new(void *owner, struct text name, struct text path);
ENVOY_HOOK void envoy_dynamic_module_on_access_logger_config_destroy(const void *config);
ENVOY_HOOK const void *envoy_dynamic_module_on_access_logger_new(const void *config, void *owner);
ENVOY_HOOK void envoy_dynamic_module_on_access_logger_destroy(const void *logger);
ENVOY_HOOK void envoy_dynamic_module_on_access_logger_log(void *call, const void *logger, int type);

// --- the file: a head, the keys of the tasks, the keys of the instances, the blocks, the last failures of each ---

#define MAGIC 0x31474f4c4c4143ull // "CALLOG1"
enum { HEAD_BYTES = 4096, MAX_BLOCKS = 960, MAX_PROBES = 64 };
enum { CODES = 17, REASONS = 11, BOUNDS = 50 };

// Who owns a slot: nobody yet, a thread that writes the key, its key.
enum { FREE, CLAIMED, TAKEN };

struct head {
    uint64_t magic, size;
    uint32_t blocks, task_slots, instance_slots, task_bytes, instance_bytes, failure_bytes;
    _Atomic uint64_t lost; // calls that found no room
    uint64_t spare[8];
    _Atomic uint32_t owners[MAX_BLOCKS]; // the process that writes to each block; 0 is none
};
_Static_assert(sizeof(struct head) <= HEAD_BYTES, "the head has its page");

struct task_key {
    _Atomic uint32_t state;
    uint32_t length;
    char name[24];
};

struct instance_key {
    _Atomic uint32_t state;
    uint32_t length;
    char name[120]; // pool, space, address
};

struct task_counts {
    uint64_t calls, duration_us, received, sent, retries;
    uint64_t reasons[REASONS];
    uint64_t codes[CODES];
    uint64_t durations[BOUNDS + 1];
    uint64_t spare[4];
};

struct instance_counts {
    uint64_t answered, latency_us, failed, spare;
};

struct region {
    struct head *head;
    struct task_key *tasks;
    struct instance_key *instances;
    char *blocks;
    size_t block_bytes;
    char path[256];
};

// The last failed calls of a thread, round and round.
enum { FAILURES = 128 };
struct failure {
    uint64_t number; // counts up from 1; 0 while it is written
    uint64_t began_unix_ns, duration_us, flags;
    uint32_t code, reason;
    // Ended by a zero, cut where they are longer.
    char task[16], pool[64], instance[56], caller[56], details[64], message[216];
};
_Static_assert(sizeof(struct failure) == 512, "as metrics_counters.py has it");

// One file a process, for as long as it lives: listeners come and go, and threads keep their blocks.
static struct region region;
static _Thread_local char *own_block;
static _Thread_local bool no_block;
static _Thread_local uint64_t failures; // that this thread has written

static void warn(const char *what, const char *path) {
    char said[512];
    int length = snprintf(said, sizeof said, "calls are not counted: %s: %s", path, what);
    if (length >= (int)sizeof said) length = sizeof said - 1;
    envoy_dynamic_module_callback_log(ENVOY_LOG_WARN, (struct text){said, (size_t)length});
}

// What is wrong with the file, or NULL.
static const char *map_file(const char *path) {
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return strerror(errno);
    struct stat found;
    const char *problem = fstat(file, &found) < 0 ? strerror(errno) : NULL;
    size_t size = problem == NULL ? (size_t)found.st_size : 0;
    void *memory = MAP_FAILED;
    if (problem == NULL && size < HEAD_BYTES) problem = "too short";
    if (problem == NULL) {
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (memory == MAP_FAILED) problem = strerror(errno);
    }
    close(file);
    if (problem != NULL) return problem;
    struct head *head = memory;
    uint64_t keys = (uint64_t)head->task_slots * sizeof(struct task_key) +
                    (uint64_t)head->instance_slots * sizeof(struct instance_key);
    uint64_t block = (uint64_t)head->task_slots * sizeof(struct task_counts) +
                     (uint64_t)head->instance_slots * sizeof(struct instance_counts) +
                     FAILURES * sizeof(struct failure);
    bool powers = head->task_slots > 0 && (head->task_slots & (head->task_slots - 1)) == 0 &&
                  head->instance_slots > 0 && (head->instance_slots & (head->instance_slots - 1)) == 0;
    if (head->magic != MAGIC || head->size != size || !powers || head->blocks > MAX_BLOCKS ||
        head->task_bytes != sizeof(struct task_counts) || head->instance_bytes != sizeof(struct instance_counts) ||
        head->failure_bytes != FAILURES * sizeof(struct failure) || HEAD_BYTES + keys + head->blocks * block != size) {
        munmap(memory, size);
        return "it was made for another version";
    }
    region.head = head;
    region.tasks = (struct task_key *)((char *)memory + HEAD_BYTES);
    region.instances = (struct instance_key *)(region.tasks + head->task_slots);
    region.blocks = (char *)memory + HEAD_BYTES + keys;
    region.block_bytes = block;
    return NULL;
}

const void *envoy_dynamic_module_on_access_logger_config_new(void *owner, struct text name, struct text path) {
    (void)owner, (void)name;
    // A listener without counts is better than none: what is wrong is logged, and the configuration taken.
    char text[sizeof region.path] = "";
    if (path.length >= sizeof text) {
        warn("the path is too long", "");
        return &region;
    }
    memcpy(text, path.bytes, path.length);
    if (region.head == NULL) {
        const char *problem = map_file(text);
        if (problem != NULL) warn(problem, text);
        else memcpy(region.path, text, sizeof text);
    } else if (strcmp(region.path, text) != 0) {
        warn("another file is in use", text);
    }
    return &region;
}

void envoy_dynamic_module_on_access_logger_config_destroy(const void *config) { (void)config; }

const void *envoy_dynamic_module_on_access_logger_new(const void *config, void *owner) {
    (void)owner;
    return config;
}

void envoy_dynamic_module_on_access_logger_destroy(const void *logger) { (void)logger; }

// The number of the last failure that whoever had the block before wrote.
static uint64_t last_failure(char *block) {
    struct failure *all = (struct failure *)(block + region.block_bytes) - FAILURES;
    uint64_t last = 0;
    for (unsigned i = 0; i < FAILURES; i++) last = all[i].number > last ? all[i].number : last;
    return last;
}

// A block that no living process writes to.
static char *claim_block(void) {
    uint32_t self = (uint32_t)getpid();
    for (uint32_t i = 0; i < region.head->blocks; i++) {
        uint32_t owner = atomic_load_explicit(&region.head->owners[i], memory_order_relaxed);
        if (owner == self || (owner != 0 && (kill((pid_t)owner, 0) == 0 || errno != ESRCH))) continue;
        if (atomic_compare_exchange_strong(&region.head->owners[i], &owner, self)) {
            return region.blocks + i * region.block_bytes;
        }
    }
    return NULL;
}

static uint64_t hash(uint64_t seed, const char *bytes, size_t length) {
    uint64_t value = seed;
    for (; length >= 8; bytes += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        value = (value ^ word) * 0x9e3779b97f4a7c15ull;
        value ^= value >> 32;
    }
    uint64_t word = 0;
    memcpy(&word, bytes, length);
    value = (value ^ word ^ ((uint64_t)length << 56)) * 0x9e3779b97f4a7c15ull;
    return value ^ value >> 29;
}

// The slot of a key, made when it is new; -1 when there is no room. Keys begin alike: state, length, name.
static int32_t slot_of(void *keys, size_t key_bytes, uint32_t slots, const char *name, size_t length) {
    uint64_t at = hash(0, name, length);
    for (unsigned probe = 0; probe < MAX_PROBES; probe++, at++) {
        uint32_t slot = (uint32_t)at & (slots - 1);
        struct task_key *key = (struct task_key *)((char *)keys + slot * key_bytes);
        uint32_t state = atomic_load_explicit(&key->state, memory_order_acquire);
        if (state == FREE && atomic_compare_exchange_strong(&key->state, &state, CLAIMED)) {
            key->length = (uint32_t)length;
            memcpy(key->name, name, length);
            atomic_store_explicit(&key->state, TAKEN, memory_order_release);
            return (int32_t)slot;
        }
        // Another thread is at it, for some nanoseconds unless it was killed in them: then the slot stays unused.
        for (unsigned turn = 0; state == CLAIMED && turn < 1000; turn++) {
            state = atomic_load_explicit(&key->state, memory_order_acquire);
        }
        if (state == TAKEN && key->length == length && memcmp(key->name, name, length) == 0) return (int32_t)slot;
    }
    return -1;
}

// --- a call ---

// Only the owner of a block writes to it. The reader must not see half a word.
static void add(uint64_t *word, uint64_t value) {
    __atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + value, __ATOMIC_RELAXED);
}

enum { OK = 0, CANCELLED = 1, UNKNOWN = 2, DEADLINE_EXCEEDED = 4, PERMISSION_DENIED = 7, UNIMPLEMENTED = 12, INTERNAL = 13, UNAVAILABLE = 14,
       UNAUTHENTICATED = 16 };

// Why a call failed. In the order of metrics_counters.py.
enum reason {
    TIMEOUT, NO_INSTANCE, OVERFLOW_, RATE_LIMITED, CONNECT_FAILED, BROKEN_OFF, CALLER_LEFT, DENIED, OVERLOAD,
    BY_INSTANCE, BY_GATEWAY,
};

// Envoy's response flags, by number.
#define FLAG(number) (1ull << (number))
static const struct {
    uint64_t flags;
    enum reason reason;
} FLAGS[] = {
    {FLAG(11) | FLAG(13), RATE_LIMITED},
    {FLAG(7), OVERFLOW_},
    {FLAG(1) | FLAG(24), NO_INSTANCE},
    {FLAG(2) | FLAG(16) | FLAG(19) | FLAG(22), TIMEOUT},
    {FLAG(5) | FLAG(26), CONNECT_FAILED},
    {FLAG(3) | FLAG(4) | FLAG(6) | FLAG(23), BROKEN_OFF},
    {FLAG(14) | FLAG(28), CALLER_LEFT},
    {FLAG(12), DENIED},
    {FLAG(25) | FLAG(27) | FLAG(29), OVERLOAD},
};

static bool status_in(void *call, int map, unsigned *code) {
    struct text value;
    if (!envoy_dynamic_module_callback_access_logger_get_header_value(
            call, map, (struct text){"grpc-status", 11}, &value, 0, NULL
        )) {
        return false;
    }
    unsigned found = 0;
    for (size_t i = 0; i < value.length && i < 3; i++) found = found * 10 + (unsigned char)(value.bytes[i] - '0');
    *code = value.length > 0 && value.length < 3 && found < CODES ? found : UNKNOWN;
    return true;
}

static unsigned code_of(void *call, uint64_t flags) {
    unsigned code;
    if (status_in(call, RESPONSE_TRAILERS, &code) || status_in(call, RESPONSE_HEADERS, &code)) return code;
    if (flags & (FLAG(14) | FLAG(28))) return CANCELLED;
    switch (envoy_dynamic_module_callback_access_logger_get_response_code(call)) {
    case 400: return INTERNAL;
    case 401: return UNAUTHENTICATED;
    case 403: return PERMISSION_DENIED;
    case 404: return UNIMPLEMENTED;
    case 429: case 502: case 503: case 504: return UNAVAILABLE;
    default: return UNKNOWN;
    }
}

static enum reason reason_of(void *call, unsigned code, uint64_t flags, bool asked) {
    struct text name;
    // The call is of no task: that there was no cluster for it says nothing about instances.
    if ((flags & FLAG(24)) && !envoy_dynamic_module_callback_access_logger_get_route_name(call, &name)) return BY_GATEWAY;
    for (size_t i = 0; i < sizeof FLAGS / sizeof *FLAGS; i++) {
        if (flags & FLAGS[i].flags) return FLAGS[i].reason;
    }
    // Instances know the deadline too, and are sometimes the first to notice.
    if (code == DEADLINE_EXCEEDED) return TIMEOUT;
    if (asked) return BY_INSTANCE;
    return code == UNAUTHENTICATED || code == PERMISSION_DENIED ? DENIED : BY_GATEWAY;
}

// Microseconds: ten a decade from 100 us to 8 s and 10 s; what is longer counts in the last.
static const uint32_t UPPER[BOUNDS + 1] = {
    100,     125,     160,     200,     250,     315,     400,     500,     630,     800,
    1000,    1250,    1600,    2000,    2500,    3150,    4000,    5000,    6300,    8000,
    10000,   12500,   16000,   20000,   25000,   31500,   40000,   50000,   63000,   80000,
    100000,  125000,  160000,  200000,  250000,  315000,  400000,  500000,  630000,  800000,
    1000000, 1250000, 1600000, 2000000, 2500000, 3150000, 4000000, 5000000, 6300000, 10000000,
    UINT32_MAX,
};

static unsigned bucket_of(uint64_t us) {
    unsigned low = 0, high = BOUNDS;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (us <= UPPER[middle]) high = middle;
        else low = middle + 1;
    }
    return low;
}

static void count_task(char *block, void *call, unsigned code, enum reason reason, uint64_t total_us) {
    struct text name = {NULL, 0};
    // A call that matched no route has no name; what its caller wrote must not become a key.
    envoy_dynamic_module_callback_access_logger_get_route_name(call, &name);
    if (name.length > sizeof((struct task_key *)0)->name) name.length = 0;
    int32_t slot = slot_of(region.tasks, sizeof(struct task_key), region.head->task_slots, name.bytes, name.length);
    if (slot < 0) {
        atomic_fetch_add_explicit(&region.head->lost, 1, memory_order_relaxed);
        return;
    }
    struct task_counts *counts = (struct task_counts *)block + slot;
    struct volume volume;
    envoy_dynamic_module_callback_access_logger_get_bytes_info(call, &volume);
    uint32_t attempts = envoy_dynamic_module_callback_access_logger_get_attempt_count(call);
    add(&counts->duration_us, total_us);
    add(&counts->received, volume.received);
    add(&counts->sent, volume.sent);
    if (attempts > 1) add(&counts->retries, attempts - 1);
    if (code != OK) add(&counts->reasons[reason], 1);
    add(&counts->codes[code], 1);
    add(&counts->durations[bucket_of(total_us)], 1);
    // Last: a reader that has seen this one has seen the others.
    __atomic_store_n(&counts->calls, __atomic_load_n(&counts->calls, __ATOMIC_RELAXED) + 1, __ATOMIC_RELEASE);
}

// Writes "host:port", for which there is room where the host has at most size - 7 bytes. Its length.
static size_t write_address(char *out, struct text host, uint32_t port) {
    memcpy(out, host.bytes, host.length);
    size_t length = host.length;
    out[length++] = ':';
    char digits[6];
    size_t count = 0;
    do digits[count++] = (char)('0' + port % 10);
    while ((port /= 10) > 0 && count < sizeof digits);
    while (count > 0) out[length++] = digits[--count];
    return length;
}

static void count_instance(char *block, void *call, unsigned code, uint64_t flags, const struct timing *timing) {
    struct text pool, host;
    uint32_t port;
    char key[sizeof((struct instance_key *)0)->name];
    if (!envoy_dynamic_module_callback_access_logger_get_upstream_cluster(call, &pool) ||
        !envoy_dynamic_module_callback_access_logger_get_upstream_remote_address(call, &host, &port) ||
        pool.length + host.length + 8 > sizeof key) {
        return;
    }
    memcpy(key, pool.bytes, pool.length);
    key[pool.length] = ' ';
    size_t length = pool.length + 1 + write_address(key + pool.length + 1, host, port);
    int32_t slot =
        slot_of(region.instances, sizeof(struct instance_key), region.head->instance_slots, key, length);
    if (slot < 0) return;
    struct instance_counts *counts =
        (struct instance_counts *)(block + region.head->task_slots * sizeof(struct task_counts)) + slot;
    if (timing->first_got_upstream >= 0 && timing->last_got_upstream >= timing->first_sent_upstream) {
        add(&counts->answered, 1);
        add(&counts->latency_us, (uint64_t)(timing->last_got_upstream - timing->first_sent_upstream) / 1000);
    }
    if (code != OK && !(flags & (FLAG(14) | FLAG(28)))) add(&counts->failed, 1);
}

static void keep(char *out, size_t size, struct text value) {
    size_t length = value.length < size ? value.length : size - 1;
    memcpy(out, value.bytes, length);
    memset(out + length, 0, size - length);
}

static void keep_address(char *out, size_t size, struct text host, uint32_t port) {
    if (host.length + 7 > size) return;
    out[write_address(out, host, port)] = 0;
}

static void keep_failure(char *block, void *call, unsigned code, enum reason reason, uint64_t flags,
                         const struct timing *timing) {
    struct failure *all = (struct failure *)(block + region.block_bytes) - FAILURES;
    struct failure *failure = &all[failures++ % FAILURES];
    __atomic_store_n(&failure->number, 0, __ATOMIC_RELAXED);
    atomic_thread_fence(memory_order_release);
    memset(&failure->began_unix_ns, 0, sizeof *failure - sizeof failure->number);
    failure->began_unix_ns = (uint64_t)timing->began_unix;
    failure->duration_us = timing->total > 0 ? (uint64_t)timing->total / 1000 : 0;
    failure->flags = flags;
    failure->code = code;
    failure->reason = reason;
    struct text value;
    uint32_t port;
    if (envoy_dynamic_module_callback_access_logger_get_header_value(
            call, REQUEST_HEADERS, text("x-dl-task"), &value, 0, NULL
        )) {
        keep(failure->task, sizeof failure->task, value);
    }
    if (envoy_dynamic_module_callback_access_logger_get_upstream_cluster(call, &value)) {
        keep(failure->pool, sizeof failure->pool, value);
    }
    if (envoy_dynamic_module_callback_access_logger_get_upstream_remote_address(call, &value, &port)) {
        keep_address(failure->instance, sizeof failure->instance, value, port);
    }
    if (envoy_dynamic_module_callback_access_logger_get_downstream_remote_address(call, &value, &port)) {
        keep_address(failure->caller, sizeof failure->caller, value, port);
    }
    if (envoy_dynamic_module_callback_access_logger_get_response_code_details(call, &value)) {
        keep(failure->details, sizeof failure->details, value);
    }
    const struct text name = text("grpc-message");
    if (envoy_dynamic_module_callback_access_logger_get_header_value(call, RESPONSE_TRAILERS, name, &value, 0, NULL) ||
        envoy_dynamic_module_callback_access_logger_get_header_value(call, RESPONSE_HEADERS, name, &value, 0, NULL)) {
        keep(failure->message, sizeof failure->message, value);
    }
    __atomic_store_n(&failure->number, failures, __ATOMIC_RELEASE);
}

void envoy_dynamic_module_on_access_logger_log(void *call, const void *logger, int type) {
    (void)logger;
    if (region.head == NULL || type != DOWNSTREAM_END || no_block) return;
    if (own_block == NULL) {
        own_block = claim_block();
        no_block = own_block == NULL;
        if (no_block) {
            warn("every block is in use", region.path);
            return;
        }
        failures = last_failure(own_block);
    }
    struct timing timing;
    envoy_dynamic_module_callback_access_logger_get_timing_info(call, &timing);
    uint64_t flags = envoy_dynamic_module_callback_access_logger_get_response_flags(call);
    unsigned code = code_of(call, flags);
    bool asked = timing.first_sent_upstream >= 0;
    enum reason reason = code != OK ? reason_of(call, code, flags, asked) : 0;
    count_task(own_block, call, code, reason, timing.total > 0 ? (uint64_t)timing.total / 1000 : 0);
    if (asked) count_instance(own_block, call, code, flags, &timing);
    if (code != OK) keep_failure(own_block, call, code, reason, flags, &timing);
}
