#include "body.h"

#include <stdlib.h>

void pieces_get(struct pieces *pieces, void *stream, int body) {
    pieces->all = pieces->few;
    pieces->count = envoy_dynamic_module_callback_http_get_body_chunks_size(stream, body);
    if (pieces->count > sizeof pieces->few / sizeof *pieces->few) {
        pieces->all = malloc(pieces->count * sizeof *pieces->all);
        if (pieces->all == NULL) abort(); // as Envoy does without memory
    }
    if (pieces->count > 0) envoy_dynamic_module_callback_http_get_body_chunks(stream, body, pieces->all);
}

void pieces_free(struct pieces *pieces) {
    if (pieces->all != pieces->few) free(pieces->all);
}

void body_copy(void *stream, size_t from, uint8_t *out, size_t size) {
    for (int body = ENVOY_BUFFERED_REQUEST_BODY; body >= ENVOY_RECEIVED_REQUEST_BODY && size > 0; body--) {
        struct pieces pieces;
        pieces_get(&pieces, stream, body);
        for (size_t i = 0; i < pieces.count && size > 0; i++) {
            struct text piece = pieces.all[i];
            size_t skipped = from < piece.length ? from : piece.length;
            from -= skipped;
            size_t copied = piece.length - skipped < size ? piece.length - skipped : size;
            memcpy(out, piece.bytes + skipped, copied);
            out += copied;
            size -= copied;
        }
        pieces_free(&pieces);
    }
}
