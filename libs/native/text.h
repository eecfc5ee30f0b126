// Bytes somewhere, and how many. Not ended by a zero, and owned by somebody else.

#ifndef DL_TEXT_H
#define DL_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct text {
    const char *bytes;
    size_t length;
};

static inline struct text text(const char *words) { return (struct text){words, strlen(words)}; }

static inline bool text_equal(struct text a, struct text b) {
    return a.length == b.length && (a.length == 0 || memcmp(a.bytes, b.bytes, a.length) == 0);
}

#endif
