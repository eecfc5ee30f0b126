// The call log: counts every call as it ends, by task and by instance, and keeps the last that failed, in memory that
// the control plane reads (call_memory.h).
//
// Runs on Envoy's worker threads after a call has ended. It never blocks and never allocates.

#include "call_memory.h"
#include "libs/native/envoy_abi.h"

#include <stdio.h>
#include <string.h>

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

ENVOY_HOOK const void *envoy_dynamic_module_on_access_logger_config_new(
    void *owner, struct text name, struct text given
);
ENVOY_HOOK void envoy_dynamic_module_on_access_logger_config_destroy(const void *config);
ENVOY_HOOK const void *envoy_dynamic_module_on_access_logger_new(const void *config, void *owner);
ENVOY_HOOK void envoy_dynamic_module_on_access_logger_destroy(const void *logger);
ENVOY_HOOK void envoy_dynamic_module_on_access_logger_log(void *call, const void *logger, int type);

const void *envoy_dynamic_module_on_access_logger_config_new(void *owner, struct text name, struct text given) {
    (void)owner, (void)name;
    static const char configured; // Envoy takes NULL for an error
    // A listener without counts is better than none: what is wrong is logged, and the configuration taken.
    char path[256] = "";
    const char *problem = "the path is too long";
    if (given.length < sizeof path) {
        memcpy(path, given.bytes, given.length);
        problem = call_memory_open(path);
    }
    if (problem != NULL) {
        char said[512];
        int length = snprintf(said, sizeof said, "calls are not counted: %s: %s", path, problem);
        envoy_dynamic_module_callback_log(ENVOY_LOG_WARN, (struct text){said, (size_t)length});
    }
    return &configured;
}

void envoy_dynamic_module_on_access_logger_config_destroy(const void *config) { (void)config; }

const void *envoy_dynamic_module_on_access_logger_new(const void *config, void *owner) {
    (void)owner;
    return config;
}

void envoy_dynamic_module_on_access_logger_destroy(const void *logger) { (void)logger; }

// --- a call ---

// gRPC's status codes.
enum {
    OK = 0, CANCELLED = 1, UNKNOWN = 2, DEADLINE_EXCEEDED = 4, PERMISSION_DENIED = 7, UNIMPLEMENTED = 12, INTERNAL = 13,
    UNAVAILABLE = 14, UNAUTHENTICATED = 16,
};

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
    bool routed = envoy_dynamic_module_callback_access_logger_get_route_name(call, &name);
    if ((flags & FLAG(24)) && !routed) return BY_GATEWAY;
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
    struct text name = {"", 0};
    // A call that matched no route has no name; what its caller wrote must not become a key.
    envoy_dynamic_module_callback_access_logger_get_route_name(call, &name);
    if (name.length > sizeof((struct task_key *)0)->name) name.length = 0;
    struct task_counts *counts = call_memory_task(block, name);
    if (counts == NULL) return;
    struct volume volume;
    envoy_dynamic_module_callback_access_logger_get_bytes_info(call, &volume);
    uint32_t attempts = envoy_dynamic_module_callback_access_logger_get_attempt_count(call);
    call_memory_add(&counts->duration_us, total_us);
    call_memory_add(&counts->received, volume.received);
    call_memory_add(&counts->sent, volume.sent);
    if (attempts > 1) call_memory_add(&counts->retries, attempts - 1);
    if (code != OK) call_memory_add(&counts->reasons[reason], 1);
    call_memory_add(&counts->codes[code], 1);
    call_memory_add(&counts->durations[bucket_of(total_us)], 1);
    call_memory_add_last(&counts->calls, 1);
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
    struct instance_counts *counts = call_memory_instance(block, (struct text){key, length});
    if (counts == NULL) return;
    if (timing->first_got_upstream >= 0 && timing->last_got_upstream >= timing->first_sent_upstream) {
        uint64_t latency_ns = (uint64_t)(timing->last_got_upstream - timing->first_sent_upstream);
        call_memory_add(&counts->answered, 1);
        call_memory_add(&counts->latency_us, latency_ns / 1000);
    }
    if (code != OK && !(flags & (FLAG(14) | FLAG(28)))) call_memory_add(&counts->failed, 1);
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
    struct failure *failure = call_memory_failure(block);
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
    for (int map = RESPONSE_HEADERS; map <= RESPONSE_TRAILERS; map++) {
        if (envoy_dynamic_module_callback_access_logger_get_header_value(call, map, name, &value, 0, NULL)) {
            keep(failure->message, sizeof failure->message, value);
        }
    }
    call_memory_publish(failure);
}

void envoy_dynamic_module_on_access_logger_log(void *call, const void *logger, int type) {
    (void)logger;
    char *block = type == DOWNSTREAM_END ? call_memory_block() : NULL;
    if (block == NULL) return;
    struct timing timing;
    envoy_dynamic_module_callback_access_logger_get_timing_info(call, &timing);
    uint64_t flags = envoy_dynamic_module_callback_access_logger_get_response_flags(call);
    unsigned code = code_of(call, flags);
    bool asked = timing.first_sent_upstream >= 0;
    enum reason reason = code != OK ? reason_of(call, code, flags, asked) : 0;
    count_task(block, call, code, reason, timing.total > 0 ? (uint64_t)timing.total / 1000 : 0);
    if (asked) count_instance(block, call, code, flags, &timing);
    if (code != OK) keep_failure(block, call, code, reason, flags, &timing);
}
