// The methods that callers may use, as the control plane gives them to the filter.

#ifndef DL_METHODS_H
#define DL_METHODS_H

#include "libs/native/text.h"

#include <stdbool.h>
#include <stdint.h>

// How a method's task is found: by one of enum route_kind, or
enum {
    BY_HEADER = 16, // only x-dl-task can say it
    BY_GATEWAY,     // there is none: the gateway answers
    BY_EITHER,      // with x-dl-task a backend answers, without it the gateway
};

struct method {
    struct text path;   // as called
    struct text target; // as the backends know it
    int kind;
    bool streaming; // of more than one request message
};

struct methods;

// Reads a line `limit BYTES`, the largest message, and one `method KIND CALL PATH TARGET` for each method: KIND is a
// value of Key in methods.py, CALL is unary or streaming. NULL, and what is wrong in `problem`, when that is not what it is given.
const struct methods *methods_new(struct text lines, const char **problem);
void methods_free(const struct methods *methods);

// NULL when there is no such method.
const struct method *methods_find(const struct methods *methods, struct text path);

uint32_t methods_limit(const struct methods *methods);

#endif
