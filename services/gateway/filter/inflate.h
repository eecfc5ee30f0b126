// Unpacks the beginning of a compressed message: enough of it to find its routing key.

#ifndef DL_INFLATE_H
#define DL_INFLATE_H

#include <stddef.h>
#include <stdint.h>

enum inflate_format {
    INFLATE_RAW,  // RFC 1951
    INFLATE_ZLIB, // RFC 1950: what gRPC calls deflate
    INFLATE_GZIP, // RFC 1952
};

enum inflate_end {
    INFLATE_WHOLE,   // all of it was unpacked
    INFLATE_FULL,    // there is more than the room given
    INFLATE_CUT,     // the source ends early
    INFLATE_DAMAGED, // it is not of the format
};

// Unpacks up to `room` bytes of `source` into `out`. Returns how many, and why it stopped in `end`; what comes before
// a cut or a fault is good. The checksums are not verified: the backend unpacks the whole message and checks it.
// Takes time in proportion to `length` and `room`, and no memory but 4 KiB of the stack.
size_t inflate_head(
    enum inflate_format format, const uint8_t *source, size_t length, uint8_t *out, size_t room, enum inflate_end *end
);

#endif
