// A request's body as Envoy holds it: what earlier filters or this one had it keep, and what has just arrived.

#ifndef DL_BODY_H
#define DL_BODY_H

#include "libs/native/envoy_abi.h"

// The pieces that one of the two is in. Few as a rule; a filter before this one can make them many.
struct pieces {
    struct text few[16];
    struct text *all;
    size_t count;
};

// `body` is ENVOY_RECEIVED_REQUEST_BODY or ENVOY_BUFFERED_REQUEST_BODY. What it gets is good until the hook returns.
void pieces_get(struct pieces *pieces, void *stream, int body);
void pieces_free(struct pieces *pieces);

// Copies `size` bytes from the position `from` on. All of them must have arrived.
void body_copy(void *stream, size_t from, uint8_t *out, size_t size);

#endif
