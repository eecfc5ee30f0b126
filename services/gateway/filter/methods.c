#include "methods.h"

#include "route_key.h"

#include <stdlib.h>

enum { MAX_METHODS = 128 };

struct methods {
    uint32_t limit;
    size_t count;
    struct method all[MAX_METHODS];
    char lines[]; // what they point into
};

static const struct {
    const char *name;
    int kind;
} KINDS[] = {
    {"name", ROUTE_NAME},         {"spec", ROUTE_SPEC},  {"tasks", ROUTE_TASKS},    {"meta", ROUTE_META},
    {"feedback", ROUTE_FEEDBACK}, {"header", BY_HEADER}, {"control", BY_GATEWAY}, {"either", BY_EITHER},
};

static int kind_of(struct text name) {
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        if (text_equal(name, text(KINDS[i].name))) return KINDS[i].kind;
    }
    return -1;
}

// Takes a word and the space or the line's end after it.
static struct text word(struct text *rest) {
    size_t length = 0;
    while (length < rest->length && rest->bytes[length] != ' ' && rest->bytes[length] != '\n') length++;
    struct text found = {rest->bytes, length};
    if (length < rest->length) length++;
    rest->bytes += length;
    rest->length -= length;
    return found;
}

// What is wrong with the next line, or NULL.
static const char *read_line(struct methods *methods, struct text *rest) {
    struct text first = word(rest);
    if (text_equal(first, text("limit"))) {
        struct text digits = word(rest);
        methods->limit = route_task_of_digits((const uint8_t *)digits.bytes, digits.length);
        return methods->limit > 0 ? NULL : "limit is not a positive number of bytes below 2 GiB";
    }
    if (!text_equal(first, text("method"))) return "a line is neither limit nor method";
    if (methods->count == MAX_METHODS) return "there are too many methods";
    struct method *method = &methods->all[methods->count++];
    method->kind = kind_of(word(rest));
    struct text call = word(rest);
    method->streaming = text_equal(call, text("streaming"));
    method->path = word(rest);
    method->target = word(rest);
    if (method->kind < 0) return "a method is of no known kind";
    if (!method->streaming && !text_equal(call, text("unary"))) return "a method is neither unary nor streaming";
    return method->target.length > 0 ? NULL : "a method has no target";
}

const struct methods *methods_new(struct text lines, const char **problem) {
    struct methods *methods = calloc(1, sizeof *methods + lines.length);
    if (methods == NULL) abort(); // as Envoy does without memory
    memcpy(methods->lines, lines.bytes, lines.length);
    struct text rest = {methods->lines, lines.length};
    *problem = NULL;
    while (*problem == NULL && rest.length > 0) *problem = read_line(methods, &rest);
    if (*problem == NULL && methods->limit == 0) *problem = "there is no limit";
    if (*problem == NULL) return methods;
    free(methods);
    return NULL;
}

void methods_free(const struct methods *methods) { free((void *)methods); }

const struct method *methods_find(const struct methods *methods, struct text path) {
    // A few dozen, of differing lengths: hashing the path takes longer.
    for (size_t i = 0; i < methods->count; i++) {
        if (text_equal(methods->all[i].path, path)) return &methods->all[i];
    }
    return NULL;
}

uint32_t methods_limit(const struct methods *methods) { return methods->limit; }
