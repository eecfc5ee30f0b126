// The part of Envoy's interface for dynamic modules that this filter uses, of Envoy 1.39:
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

// Hooks that do something. Of the others Envoy wants some to exist; they are at the end of filter.c.

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

#endif
