// The routing filter, as Envoy calls it: names the task of each call in the header x-dl-task, by which the routes are
// matched, and gives the call the path that the backends know. What it is told to do is in module.py.
//
// The headers of a call wait until its message has named its task, which its first frame nearly always does; then
// everything flows. Runs on Envoy's worker threads: it never blocks, and a hook's work is bounded by the bytes it got.

#include "body.h"
#include "libs/native/envoy_abi.h"
#include "inflate.h"
#include "methods.h"
#include "route_key.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GRPC_INVALID_ARGUMENT = 3, GRPC_RESOURCE_EXHAUSTED = 8, GRPC_UNIMPLEMENTED = 12 };

enum {
    PREFIX = 5, // a gRPC message comes behind a flag and four bytes of length, the highest first
    MAX_SAID = 512, // of what is wrong
    MAX_PATH_SAID = 200,
};

// How much of a compressed message is unpacked to find its task: first a little, which nearly always does.
static const size_t UNPACKED[] = {1024, 65536};
enum { LAST_UNPACKED = 65536, UNPACK_TRIES = 2 };
// Packed data is hardly ever longer than what it unpacks to; headers and tables of codes come on top.
enum { PACKED_EXTRA = 1024 };

// The values of x-dl-task are task ids, and this for calls that the gateway's own services answer.
static const struct text TASK_HEADER = {"x-dl-task", 9}, CONTROL = {"gateway", 7};
static const struct text NOTHING = {"", 0};
static const struct text PATH = {":path", 5}, CONTENT_TYPE = {"content-type", 12}, ENCODING = {"grpc-encoding", 13};

enum stage {
    AWAIT_PREFIX,
    AWAIT_KEY,    // reading the message
    AWAIT_PACKED, // gathering enough of a compressed one
    ROUTED,       // on its way: only its length is watched
    STREAMING,    // on its way
    REFUSED,
};

struct call {
    const struct methods *methods;
    const struct method *method;
    enum stage stage;
    bool given; // the caller said the task
    uint8_t prefix_length;
    uint8_t prefix[PREFIX];
    int format; // of a compressed message, enum inflate_format; negative when it cannot be read
    unsigned unpack_try;
    uint32_t length; // of the message
    uint64_t seen;   // bytes of the body
    struct route_key key;
};

// --- configuration ---

const char *envoy_dynamic_module_on_program_init(void) { return ENVOY_ABI_VERSION; }

const void *envoy_dynamic_module_on_http_filter_config_new(void *owner, struct text name, struct text given) {
    (void)owner, (void)name;
    const char *problem;
    const struct methods *methods = methods_new(given, &problem);
    if (methods == NULL) envoy_dynamic_module_callback_log(ENVOY_LOG_ERROR, text(problem));
    return methods;
}

void envoy_dynamic_module_on_http_filter_config_destroy(const void *config) { methods_free(config); }

// --- answers ---

enum { DECIMAL_SIZE = 10 };

static struct text decimal(uint32_t number, char digits[DECIMAL_SIZE]) {
    char *at = digits + DECIMAL_SIZE;
    do {
        *--at = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    return (struct text){at, (size_t)(digits + DECIMAL_SIZE - at)};
}

// Answers the call in the gateway's name. Nothing of the call may be touched after it.
static void refuse(void *stream, struct call *call, int grpc_status, struct text message, const char *reason) {
    call->stage = REFUSED;
    char digits[DECIMAL_SIZE];
    struct envoy_header status = {text("grpc-status"), decimal((uint32_t)grpc_status, digits)};
    uint32_t http = grpc_status == GRPC_UNIMPLEMENTED ? 501 : grpc_status == GRPC_RESOURCE_EXHAUSTED ? 413 : 400;
    envoy_dynamic_module_callback_http_send_response(stream, http, &status, 1, message, text(reason));
}

static void refuse_argument(void *stream, struct call *call, const char *message, const char *reason) {
    refuse(stream, call, GRPC_INVALID_ARGUMENT, text(message), reason);
}

static void refuse_key(void *stream, struct call *call) {
    char said[MAX_SAID];
    size_t length = route_key_explain(&call->key, said, sizeof said);
    refuse(stream, call, GRPC_INVALID_ARGUMENT, (struct text){said, length}, "dl_no_task");
}

static void refuse_length(void *stream, struct call *call) {
    char said[MAX_SAID];
    int length = snprintf(said, sizeof said, "the request is larger than %u bytes", methods_limit(call->methods));
    refuse(stream, call, GRPC_RESOURCE_EXHAUSTED, (struct text){said, (size_t)length}, "dl_request_too_large");
}

// --- headers ---

static struct text header(void *stream, struct text name, size_t *count) {
    struct text value = {NULL, 0};
    envoy_dynamic_module_callback_http_get_header(stream, ENVOY_REQUEST_HEADERS, name, &value, 0, count);
    return value;
}

static void set_header(void *stream, struct text name, struct text value) {
    envoy_dynamic_module_callback_http_set_header(stream, ENVOY_REQUEST_HEADERS, name, value);
}

// Sends the call on its way. `given` is what x-dl-task said. The route was chosen by the headers as they came, so it is
// chosen again when they change.
static void route(void *stream, const struct method *method, struct text task, struct text given) {
    bool other_task = !text_equal(task, given), other_path = !text_equal(method->path, method->target);
    if (other_task) set_header(stream, TASK_HEADER, task);
    if (other_path) set_header(stream, PATH, method->target);
    if (other_task || other_path) envoy_dynamic_module_callback_http_clear_route_cache(stream);
}

static void route_to_task(void *stream, const struct method *method, uint32_t task, struct text given) {
    char digits[DECIMAL_SIZE];
    route(stream, method, decimal(task, digits), given);
}

static bool is_grpc(struct text content_type) {
    struct text grpc = text("application/grpc");
    if (content_type.length < grpc.length || memcmp(content_type.bytes, grpc.bytes, grpc.length) != 0) return false;
    // application/grpc-web is another protocol, application/grpc+proto is not.
    return content_type.length == grpc.length || content_type.bytes[grpc.length] != '-';
}

const void *envoy_dynamic_module_on_http_filter_new(const void *config, void *stream) {
    (void)stream;
    struct call *call = malloc(sizeof *call);
    if (call == NULL) return NULL;
    call->methods = config;
    call->stage = AWAIT_PREFIX;
    call->given = false;
    call->prefix_length = 0;
    call->format = -1;
    call->unpack_try = 0;
    call->seen = 0;
    return call;
}

void envoy_dynamic_module_on_http_filter_destroy(const void *filter) { free((void *)filter); }

enum envoy_headers_status envoy_dynamic_module_on_http_filter_request_headers(
    void *stream, const void *filter, bool end_of_stream
) {
    struct call *call = (struct call *)filter;
    size_t count;
    if (!is_grpc(header(stream, CONTENT_TYPE, &count))) {
        call->stage = REFUSED;
        struct envoy_header type = {CONTENT_TYPE, text("text/plain")};
        envoy_dynamic_module_callback_http_send_response(
            stream, 415, &type, 1, text("this port speaks gRPC: send content-type application/grpc over HTTP/2\n"),
            text("dl_not_grpc")
        );
        return ENVOY_HEADERS_STOP;
    }
    struct text path = header(stream, PATH, &count);
    const struct method *method = call->method = methods_find(call->methods, path);
    if (method == NULL) {
        char said[MAX_SAID];
        int length = snprintf(
            said, sizeof said, "the gateway has no method %.*s; ask server reflection for the ones it has",
            (int)(path.length < MAX_PATH_SAID ? path.length : MAX_PATH_SAID), path.bytes
        );
        refuse(stream, call, GRPC_UNIMPLEMENTED, (struct text){said, (size_t)length}, "dl_unknown_method");
        return ENVOY_HEADERS_STOP;
    }
    struct text given = header(stream, TASK_HEADER, &count);
    if (method->kind == BY_GATEWAY || (method->kind == BY_EITHER && count == 0)) {
        route(stream, method, CONTROL, given);
        call->stage = STREAMING;
        return ENVOY_HEADERS_CONTINUE;
    }
    if (count > 0) {
        uint32_t task = count == 1 ? route_task_of_digits((const uint8_t *)given.bytes, given.length) : 0;
        if (task == 0) {
            refuse_argument(
                stream, call, "metadata x-dl-task is not a task id: send the task's number, like 69", "dl_bad_task_header"
            );
            return ENVOY_HEADERS_STOP;
        }
        route_to_task(stream, method, task, given);
        call->given = true;
        if (method->streaming) {
            call->stage = STREAMING;
            return ENVOY_HEADERS_CONTINUE;
        }
    } else if (method->kind >= BY_HEADER) {
        refuse_argument(
            stream, call, "this method's request names no model: send the metadata x-dl-task: <task id>", "dl_no_task"
        );
        return ENVOY_HEADERS_STOP;
    }
    if (end_of_stream) refuse_argument(stream, call, "the call carries no request message", "dl_no_message");
    return ENVOY_HEADERS_STOP;
}

// --- body ---

// A whole prefix was read. False when the call was refused.
static bool prefix_complete(void *stream, struct call *call) {
    const uint8_t *p = call->prefix;
    call->length = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
    if (p[0] > 1) {
        refuse_argument(stream, call, "the body is not a gRPC message", "dl_no_message");
        return false;
    }
    if (call->length > methods_limit(call->methods)) {
        refuse_length(stream, call);
        return false;
    }
    if (call->given) {
        call->stage = ROUTED;
    } else if (p[0] == 0) {
        call->stage = AWAIT_KEY;
        route_key_start(&call->key, (enum route_kind)call->method->kind, call->length);
    } else {
        size_t count;
        struct text encoding = header(stream, ENCODING, &count);
        if (text_equal(encoding, text("gzip"))) {
            call->format = INFLATE_GZIP;
        } else if (text_equal(encoding, text("deflate"))) {
            call->format = INFLATE_ZLIB;
        } else {
            char said[MAX_SAID];
            int length = snprintf(
                said, sizeof said,
                "the request is compressed with %.*s: use gzip, or send the metadata x-dl-task: <task id>",
                encoding.length < 40 ? (int)encoding.length : 40, encoding.length ? encoding.bytes : ""
            );
            refuse(stream, call, GRPC_INVALID_ARGUMENT, (struct text){said, (size_t)length}, "dl_no_task");
            return false;
        }
        call->stage = AWAIT_PACKED;
    }
    return true;
}

// The verdict is final. False when the call was refused.
static bool decide(void *stream, struct call *call, enum route_verdict verdict) {
    if (verdict != ROUTE_FOUND) {
        refuse_key(stream, call);
        return false;
    }
    route_to_task(stream, call->method, call->key.task, NOTHING);
    call->stage = ROUTED;
    return true;
}

// Reads the next bytes of a message. False when the call was refused.
static bool read_piece(void *stream, struct call *call, const uint8_t *bytes, size_t count) {
    if (call->stage == AWAIT_PREFIX) {
        while (call->prefix_length < PREFIX && count > 0) {
            call->prefix[call->prefix_length++] = *bytes++;
            count--;
        }
        if (call->prefix_length == PREFIX && !prefix_complete(stream, call)) return false;
    }
    if (call->stage != AWAIT_KEY) return true;
    enum route_verdict verdict = route_key_feed(&call->key, bytes, count);
    return verdict == ROUTE_MORE || decide(stream, call, verdict);
}

// Unpacks what arrived of a compressed message, when that is enough to be worth it. False when the call was refused.
static bool unpack(void *stream, struct call *call) {
    uint64_t arrived = call->seen - PREFIX;
    for (; call->unpack_try < UNPACK_TRIES; call->unpack_try++) {
        size_t room = UNPACKED[call->unpack_try];
        size_t wanted = room + PACKED_EXTRA < call->length ? room + PACKED_EXTRA : call->length;
        if (arrived < wanted) return true;
        uint8_t *packed = malloc(wanted + room);
        if (packed == NULL) abort();
        body_copy(stream, PREFIX, packed, wanted);
        enum inflate_end end;
        size_t unpacked = inflate_head((enum inflate_format)call->format, packed, wanted, packed + wanted, room, &end);
        // Of a message that goes on the length is not known: a field may reach beyond what was unpacked.
        uint32_t length = end == INFLATE_WHOLE ? (uint32_t)unpacked : UINT32_MAX;
        route_key_start(&call->key, (enum route_kind)call->method->kind, length);
        enum route_verdict verdict = route_key_feed(&call->key, packed + wanted, unpacked);
        free(packed);
        if (verdict != ROUTE_MORE) return decide(stream, call, verdict);
        if (end == INFLATE_DAMAGED || (end == INFLATE_CUT && wanted == call->length)) {
            refuse_argument(stream, call, "the compressed request is damaged", "dl_no_task");
            return false;
        }
    }
    char said[MAX_SAID];
    int length = snprintf(
        said, sizeof said,
        "no task in the first %d bytes of the compressed request; send the metadata x-dl-task: <task id>", LAST_UNPACKED
    );
    refuse(stream, call, GRPC_INVALID_ARGUMENT, (struct text){said, (size_t)length}, "dl_no_task");
    return false;
}

// Whether the body is right so far, or right when it ends here. False when the call was refused.
static bool check_length(void *stream, struct call *call, bool ended) {
    bool complete = call->prefix_length == PREFIX;
    if (complete && call->seen > PREFIX + (uint64_t)call->length) {
        refuse_argument(stream, call, "the call carries more than one request message", "dl_too_many_messages");
        return false;
    }
    if (!ended || (complete && call->seen == PREFIX + (uint64_t)call->length)) return true;
    if (call->seen == 0) {
        refuse_argument(stream, call, "the call carries no request message", "dl_no_message");
    } else {
        refuse_argument(stream, call, "the request message is cut short", "dl_cut_short");
    }
    return false;
}

enum envoy_body_status envoy_dynamic_module_on_http_filter_request_body(
    void *stream, const void *filter, bool end_of_stream
) {
    struct call *call = (struct call *)filter;
    if (call->stage == STREAMING) return ENVOY_BODY_CONTINUE;
    if (call->stage == REFUSED) return ENVOY_BODY_STOP_AND_DROP;
    bool fine = true;
    if (call->stage == ROUTED) {
        call->seen += envoy_dynamic_module_callback_http_get_body_size(stream, ENVOY_RECEIVED_REQUEST_BODY);
    } else {
        struct pieces pieces;
        pieces_get(&pieces, stream, ENVOY_RECEIVED_REQUEST_BODY);
        for (size_t i = 0; i < pieces.count && fine; i++) {
            call->seen += pieces.all[i].length;
            fine = read_piece(stream, call, (const uint8_t *)pieces.all[i].bytes, pieces.all[i].length);
        }
        pieces_free(&pieces);
        if (fine && call->stage == AWAIT_PACKED) fine = unpack(stream, call);
    }
    if (!fine || !check_length(stream, call, end_of_stream)) return ENVOY_BODY_STOP_AND_DROP;
    return call->stage == ROUTED ? ENVOY_BODY_CONTINUE : ENVOY_BODY_STOP_AND_BUFFER;
}

enum envoy_headers_status envoy_dynamic_module_on_http_filter_request_trailers(void *stream, const void *filter) {
    struct call *call = (struct call *)filter;
    if (call->stage == STREAMING) return ENVOY_HEADERS_CONTINUE;
    if (call->stage == REFUSED || !check_length(stream, call, true)) return ENVOY_HEADERS_STOP;
    return ENVOY_HEADERS_CONTINUE;
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

void envoy_dynamic_module_on_http_filter_stream_complete(void *stream, const void *filter) {
    (void)stream, (void)filter;
}

void envoy_dynamic_module_on_http_filter_scheduled(void *stream, const void *filter, uint64_t event) {
    (void)stream, (void)filter, (void)event;
}
