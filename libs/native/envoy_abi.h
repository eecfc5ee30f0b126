// The part of Envoy's interface for dynamic modules that our filters use, of Envoy 1.39:
// https://www.envoyproxy.io/docs/envoy/v1.39.0/intro/arch_overview/advanced/dynamic_modules
//
// Envoy resolves the hooks by their names when it loads the module, and the callbacks are symbols of the Envoy binary.
// Every enumeration travels as an int. What Envoy hands out stays its own, and is good until the hook returns or the
// thing it points into is changed.

#ifndef DL_ENVOY_ABI_H
#define DL_ENVOY_ABI_H

#include "text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Envoy warns when a module was built for another version than its own.
#define ENVOY_ABI_VERSION "v0.1.0"

#define ENVOY_HOOK __attribute__((visibility("default")))

// Where it has strings it has pairs of a pointer and a length, which is what struct text is.
struct envoy_header {
    struct text name, value;
};

enum { ENVOY_REQUEST_HEADERS = 0 };
enum { ENVOY_RECEIVED_REQUEST_BODY = 0, ENVOY_BUFFERED_REQUEST_BODY = 1 };
enum { ENVOY_LOG_ERROR = 4 };

// What a hook for headers or trailers answers, and one for a piece of the body.
enum envoy_headers_status { ENVOY_HEADERS_CONTINUE = 0, ENVOY_HEADERS_STOP = 1 };
enum envoy_body_status { ENVOY_BODY_CONTINUE = 0, ENVOY_BODY_STOP_AND_BUFFER = 1, ENVOY_BODY_STOP_AND_DROP = 3 };

// Callbacks. `stream` is what a hook was given for its stream.

void envoy_dynamic_module_callback_log(int level, struct text message);

size_t envoy_dynamic_module_callback_http_get_headers_size(void *stream, int map);
// Fills as many as get_headers_size says.
bool envoy_dynamic_module_callback_http_get_headers(void *stream, int map, struct envoy_header *headers);
// The value number `index` of a header, and how many values it has. False when there is no such value.
bool envoy_dynamic_module_callback_http_get_header(
    void *stream, int map, struct text name, struct text *value, size_t index, size_t *count
);
// Replaces every value of a header.
bool envoy_dynamic_module_callback_http_set_header(void *stream, int map, struct text name, struct text value);

size_t envoy_dynamic_module_callback_http_get_body_size(void *stream, int body);
size_t envoy_dynamic_module_callback_http_get_body_chunks_size(void *stream, int body);
// Fills as many pieces as get_body_chunks_size says.
bool envoy_dynamic_module_callback_http_get_body_chunks(void *stream, int body, struct text *pieces);

// The route was chosen by the headers as they came: have it chosen again.
void envoy_dynamic_module_callback_http_clear_route_cache(void *stream);

// Answers the call. The stream, and what on_http_filter_new made for it, may be gone when this returns.
void envoy_dynamic_module_callback_http_send_response(
    void *stream, uint32_t status, struct envoy_header *headers, size_t header_count, struct text body, struct text details
);

// Answers the call piece by piece.
void envoy_dynamic_module_callback_http_send_response_headers(
    void *stream, struct envoy_header *headers, size_t count, bool end_of_stream
);
void envoy_dynamic_module_callback_http_send_response_data(void *stream, struct text data, bool end_of_stream);
void envoy_dynamic_module_callback_http_send_response_trailers(
    void *stream, struct envoy_header *trailers, size_t count
);

// A scheduler outlives its stream: a commit for one that is gone does nothing. Any thread may commit and delete.
void *envoy_dynamic_module_callback_http_filter_scheduler_new(void *stream);
void envoy_dynamic_module_callback_http_filter_scheduler_commit(void *scheduler, uint64_t event);
void envoy_dynamic_module_callback_http_filter_scheduler_delete(void *scheduler);

// Hooks. Envoy wants some to exist even where they have nothing to do.

ENVOY_HOOK const char *envoy_dynamic_module_on_program_init(void);
// NULL rejects the configuration.
ENVOY_HOOK const void *envoy_dynamic_module_on_http_filter_config_new(void *owner, struct text name, struct text config);
ENVOY_HOOK void envoy_dynamic_module_on_http_filter_config_destroy(const void *config);
ENVOY_HOOK const void *envoy_dynamic_module_on_http_filter_new(const void *config, void *stream);
ENVOY_HOOK void envoy_dynamic_module_on_http_filter_destroy(const void *filter);
ENVOY_HOOK enum envoy_headers_status envoy_dynamic_module_on_http_filter_request_headers(
    void *stream, const void *filter, bool end_of_stream
);
ENVOY_HOOK enum envoy_body_status envoy_dynamic_module_on_http_filter_request_body(
    void *stream, const void *filter, bool end_of_stream
);
ENVOY_HOOK enum envoy_headers_status envoy_dynamic_module_on_http_filter_request_trailers(
    void *stream, const void *filter
);
ENVOY_HOOK void envoy_dynamic_module_on_http_filter_stream_complete(void *stream, const void *filter);
// On the stream's thread, after a commit.
ENVOY_HOOK void envoy_dynamic_module_on_http_filter_scheduled(void *stream, const void *filter, uint64_t event);

#define ENVOY_UNUSED_HOOK(name)                                                                                        \
    ENVOY_HOOK int envoy_dynamic_module_on_http_filter_##name(void);                                                   \
    int envoy_dynamic_module_on_http_filter_##name(void) { return 0; }

#endif
