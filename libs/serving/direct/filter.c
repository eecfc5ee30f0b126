// The filter that gathers unary gRPC calls, as Envoy calls it. Runs on Envoy's I/O threads and never blocks.

#define _POSIX_C_SOURCE 200809L
#include "exchange.h"

#include <stdlib.h>
#include <time.h>

enum { PREFIX = 5, MAX_FIELDS = 128 };

// --- configuration: there is none ---

const char *envoy_dynamic_module_on_program_init(void) { return ENVOY_ABI_VERSION; }

const void *envoy_dynamic_module_on_http_filter_config_new(void *owner, struct text name, struct text given) {
    (void)owner, (void)name, (void)given;
    static const char configured; // Envoy takes NULL for an error
    return &configured;
}

void envoy_dynamic_module_on_http_filter_config_destroy(const void *config) { (void)config; }

// --- a stream ---

enum stage { PASSING, GATHERING, GIVEN, OVER };

struct stream {
    enum stage stage;
    int method;
    char *body; // what has come of it
    size_t size, room;
    struct call *call;
};

const void *envoy_dynamic_module_on_http_filter_new(const void *config, void *stream) {
    (void)config, (void)stream;
    struct stream *own = calloc(1, sizeof *own);
    if (own == NULL) abort();
    return own;
}

static void leave(struct stream *own) {
    if (own->call != NULL) exchange_leave(own->call);
    own->call = NULL;
    own->stage = OVER;
}

void envoy_dynamic_module_on_http_filter_destroy(const void *filter) {
    struct stream *own = (struct stream *)filter;
    leave(own);
    if (own->body != NULL) exchange_return(own->room);
    free(own->body);
    free(own);
}

void envoy_dynamic_module_on_http_filter_stream_complete(void *stream, const void *filter) {
    (void)stream;
    leave((struct stream *)filter);
}

static struct text header(void *stream, const char *name) {
    struct text value;
    if (!envoy_dynamic_module_callback_http_get_header(
            stream, ENVOY_REQUEST_HEADERS, text(name), &value, 0, NULL
        )) {
        return (struct text){"", 0};
    }
    return value;
}

static bool is_grpc(struct text kind) {
    static const struct text GRPC = {"application/grpc", 16};
    if (kind.length < GRPC.length || memcmp(kind.bytes, GRPC.bytes, GRPC.length) != 0) return false;
    return kind.length == GRPC.length || kind.bytes[GRPC.length] == '+' || kind.bytes[GRPC.length] == ';';
}

enum envoy_headers_status envoy_dynamic_module_on_http_filter_request_headers(
    void *stream, const void *filter, bool end_of_stream
) {
    struct stream *own = (struct stream *)filter;
    if (end_of_stream || !text_equal(header(stream, ":method"), text("POST"))) return ENVOY_HEADERS_CONTINUE;
    own->method = exchange_method(header(stream, ":path"));
    if (own->method < 0 || !is_grpc(header(stream, "content-type"))) return ENVOY_HEADERS_CONTINUE;
    own->stage = GATHERING;
    return ENVOY_HEADERS_STOP;
}

// Nanoseconds of a value of grpc-timeout: up to eight digits and a unit. False when it is none.
static bool read_timeout(struct text value, uint64_t *ns) {
    static const struct {
        char unit;
        uint64_t ns;
    } UNITS[] = {{'m', 1000000}, {'S', 1000000000}, {'u', 1000}, {'n', 1}, {'M', 60000000000}, {'H', 3600000000000}};
    if (value.length < 2 || value.length > 9) return false;
    uint64_t number = 0;
    for (size_t i = 0; i + 1 < value.length; i++) {
        if (value.bytes[i] < '0' || value.bytes[i] > '9') return false;
        number = number * 10 + (uint64_t)(value.bytes[i] - '0');
    }
    for (size_t i = 0; i < sizeof UNITS / sizeof *UNITS; i++) {
        if (value.bytes[value.length - 1] != UNITS[i].unit) continue;
        uint64_t most = (NO_TIMEOUT - 1) / UNITS[i].ns;
        *ns = (number < most ? number : most) * UNITS[i].ns;
        return true;
    }
    return false;
}

// What a message's frame announces: bytes of the body with it. 0 while that is not known or when it is no frame.
static uint64_t announced(const struct stream *own) {
    const unsigned char *prefix = (const unsigned char *)own->body;
    if (own->size < PREFIX || prefix[0] > 1) return 0;
    return PREFIX + ((uint64_t)prefix[1] << 24 | (uint64_t)prefix[2] << 16 | (uint64_t)prefix[3] << 8 | prefix[4]);
}

// Room grows with what has come, not with what is announced: announcing costs a caller nothing.
static bool make_room(struct stream *own, size_t more) {
    size_t needed = own->size + more;
    if (needed <= own->room) return true;
    uint64_t total = announced(own);
    size_t room = own->room * 4;
    if (total > 0 && room > total) room = total;
    if (room < needed) room = needed;
    if (!exchange_reserve(room - own->room)) return false;
    own->body = realloc(own->body, room);
    if (own->body == NULL) abort(); // as Envoy does without memory
    own->room = room;
    return true;
}

// Takes what has come of the body; false when there is no room for it. Envoy keeps none of it: its buffer ends at the
// window of an HTTP/2 stream.
static bool gather(void *stream, struct stream *own) {
    struct text few[16], *all = few;
    size_t count = envoy_dynamic_module_callback_http_get_body_chunks_size(stream, ENVOY_RECEIVED_REQUEST_BODY);
    if (count > sizeof few / sizeof *few && (all = malloc(count * sizeof *all)) == NULL) abort();
    if (count > 0) envoy_dynamic_module_callback_http_get_body_chunks(stream, ENVOY_RECEIVED_REQUEST_BODY, all);
    size_t more = 0;
    for (size_t i = 0; i < count; i++) more += all[i].length;
    bool room = make_room(own, more);
    for (size_t i = 0; i < count && room; i++) {
        if (all[i].length == 0) continue;
        memcpy(own->body + own->size, all[i].bytes, all[i].length);
        own->size += all[i].length;
    }
    if (all != few) free(all);
    return room;
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static char *put_field(char *to, struct text name, struct text value) {
    uint32_t lengths[2] = {(uint32_t)name.length, (uint32_t)value.length};
    memcpy(to, lengths, sizeof lengths);
    to += sizeof lengths;
    memcpy(to, name.bytes, name.length);
    to += name.length;
    if (value.length > 0) memcpy(to, value.bytes, value.length);
    return to + value.length;
}

static void pack_headers(void *stream, struct call *call) {
    struct envoy_header few[MAX_FIELDS], *fields = few;
    size_t count = envoy_dynamic_module_callback_http_get_headers_size(stream, ENVOY_REQUEST_HEADERS);
    if (count > MAX_FIELDS && (fields = malloc(count * sizeof *fields)) == NULL) abort();
    envoy_dynamic_module_callback_http_get_headers(stream, ENVOY_REQUEST_HEADERS, fields);
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) bytes += 8 + fields[i].name.length + fields[i].value.length;
    char *at = call->headers_memory = malloc(bytes);
    if (at == NULL) abort();
    for (size_t i = 0; i < count; i++) {
        // Those with a colon are HTTP/2's own.
        if (fields[i].name.length == 0 || fields[i].name.bytes[0] == ':') continue;
        at = put_field(at, fields[i].name, fields[i].value);
    }
    call->headers = (struct text){call->headers_memory, (size_t)(at - call->headers_memory)};
    if (fields != few) free(fields);
}

static void give(void *stream, struct stream *own, bool full) {
    struct call *call = calloc(1, sizeof *call);
    if (call == NULL) abort();
    call->references = 1;
    call->method = (uint32_t)own->method;
    call->arrived_ns = now_ns();
    pack_headers(stream, call);
    call->timeout_ns = NO_TIMEOUT;
    struct text timeout = header(stream, "grpc-timeout");
    bool understood = timeout.length == 0 || read_timeout(timeout, &call->timeout_ns);
    call->body_memory = own->body;
    call->body_room = own->room;
    call->body = (struct text){own->body, own->size};
    bool whole = understood && own->size >= PREFIX && own->body[0] == 0 && announced(own) == own->size &&
                 own->size <= PREFIX + exchange_limit();
    call->kind = full ? FULL : whole ? MESSAGE : BODY;
    if (whole) call->body = (struct text){own->body + PREFIX, own->size - PREFIX};
    own->body = NULL;
    call->scheduler = envoy_dynamic_module_callback_http_filter_scheduler_new(stream);
    own->call = call;
    own->stage = GIVEN;
    exchange_put(call);
}

enum envoy_body_status envoy_dynamic_module_on_http_filter_request_body(
    void *stream, const void *filter, bool end_of_stream
) {
    struct stream *own = (struct stream *)filter;
    if (own->stage == PASSING) return ENVOY_BODY_CONTINUE;
    if (own->stage == GATHERING) {
        bool full = !gather(stream, own);
        // What cannot be served is answered as soon as that is known.
        uint64_t total = announced(own);
        bool hopeless = own->size >= PREFIX && (total == 0 || total > PREFIX + exchange_limit() || own->size > total);
        if (end_of_stream || hopeless || full) give(stream, own, full);
    }
    return ENVOY_BODY_STOP_AND_DROP;
}

enum envoy_headers_status envoy_dynamic_module_on_http_filter_request_trailers(void *stream, const void *filter) {
    struct stream *own = (struct stream *)filter;
    if (own->stage == PASSING) return ENVOY_HEADERS_CONTINUE;
    if (own->stage == GATHERING) give(stream, own, false);
    return ENVOY_HEADERS_STOP;
}

static size_t get_fields(struct text given, struct envoy_header *fields) {
    size_t count = 0;
    for (size_t at = 0; at < given.length && count < MAX_FIELDS; count++) {
        uint32_t lengths[2];
        memcpy(lengths, given.bytes + at, sizeof lengths);
        at += sizeof lengths;
        fields[count].name = (struct text){given.bytes + at, lengths[0]};
        at += lengths[0];
        fields[count].value = (struct text){given.bytes + at, lengths[1]};
        at += lengths[1];
    }
    return count;
}

void envoy_dynamic_module_on_http_filter_scheduled(void *stream, const void *filter, uint64_t event) {
    (void)event;
    struct stream *own = (struct stream *)filter;
    struct answer *answer = own->stage == GIVEN ? exchange_answer(own->call) : NULL;
    if (answer == NULL) return;
    own->stage = OVER;
    struct envoy_header fields[MAX_FIELDS];
    size_t count = get_fields(answer->head, fields);
    bool ends = answer->trailers.length == 0;
    envoy_dynamic_module_callback_http_send_response_headers(stream, fields, count, ends);
    if (!ends) {
        envoy_dynamic_module_callback_http_send_response_data(stream, answer->body, false);
        count = get_fields(answer->trailers, fields);
        envoy_dynamic_module_callback_http_send_response_trailers(stream, fields, count);
    }
    free(answer);
}

// --- hooks that Envoy wants to find and that have nothing to do ---

ENVOY_UNUSED_HOOK(response_headers)
ENVOY_UNUSED_HOOK(response_body)
ENVOY_UNUSED_HOOK(response_trailers)
ENVOY_UNUSED_HOOK(http_callout_done)
ENVOY_UNUSED_HOOK(http_stream_headers)
ENVOY_UNUSED_HOOK(http_stream_data)
ENVOY_UNUSED_HOOK(http_stream_trailers)
ENVOY_UNUSED_HOOK(http_stream_complete)
ENVOY_UNUSED_HOOK(http_stream_reset)
ENVOY_UNUSED_HOOK(downstream_above_write_buffer_high_watermark)
ENVOY_UNUSED_HOOK(downstream_below_write_buffer_low_watermark)
