#include "route_key.h"

#include <string.h>

// Wire types.
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

enum { MAX_VARINT_BYTES = 10 };

// What the next byte belongs to. From PASS on, the bytes up to `until` are one value.
enum phase { READ_TAG, READ_LENGTH, READ_VARINT, PASS, KEEP };

// tags is a map<string, google.protobuf.Value>: entries with 1 = key and 2 = value; a Value is a oneof of the
// fields 1 to 6, of which 2 is a double and 3 a string.
enum { META_TAGS = 2, ENTRY_KEY = 1, ENTRY_VALUE = 2 };
enum { VALUE_NULL = 1, VALUE_NUMBER = 2, VALUE_STRING = 3, VALUE_BOOL = 4, VALUE_STRUCT = 5, VALUE_LIST = 6 };
static const char TAG_KEY[6] = {'t', 'a', 's', 'k', 'I', 'd'};

static const struct place {
    uint8_t steps;   // length of `path`
    uint8_t path[3]; // to the name, or to meta
    bool tags;       // the task is in tags, below meta
    const char *what;
} PLACES[] = {
    [ROUTE_NAME] = {1, {1}, false, "model_name"},
    [ROUTE_SPEC] = {2, {1, 1}, false, "model_spec.name"},
    [ROUTE_TASKS] = {3, {1, 1, 1}, false, "tasks[0].model_spec.name"},
    [ROUTE_META] = {1, {2}, true, "meta.tags['taskId']"},
    [ROUTE_FEEDBACK] = {2, {1, 2}, true, "request.meta.tags['taskId']"},
};

void route_key_start(struct route_key *key, enum route_kind kind, uint32_t length) {
    *key = (struct route_key){.kind = (uint8_t)kind, .fields_left = ROUTE_MAX_FIELDS};
    key->end[0] = length;
}

uint32_t route_task_of_digits(const uint8_t *text, size_t length) {
    while (length > 0 && *text == '0') {
        text++;
        length--;
    }
    if (length > 10) return 0;
    uint64_t task = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') return 0;
        task = task * 10 + (uint64_t)(text[i] - '0');
    }
    return task <= ROUTE_MAX_TASK ? (uint32_t)task : 0;
}

static uint32_t task_of_double(const uint8_t little_endian[8]) {
    uint64_t bits = 0;
    for (int i = 7; i >= 0; i--) bits = bits << 8 | little_endian[i];
    double number;
    memcpy(&number, &bits, sizeof number);
    // Not a number fails every comparison.
    if (!(number >= 1.0 && number <= (double)ROUTE_MAX_TASK)) return 0;
    uint32_t whole = (uint32_t)number;
    return (double)whole == number ? whole : 0;
}

// The digits at the end of a name, when they are all of it or follow a dash.
static uint32_t task_of_name(const struct route_key *key, uint32_t length) {
    size_t digits = key->tail_length;
    while (digits > 0 && key->tail[digits - 1] >= '0' && key->tail[digits - 1] <= '9') digits--;
    bool whole = digits == 0 && length == key->tail_length;
    if (!whole && (digits == 0 || key->tail[digits - 1] != '-')) return 0;
    return route_task_of_digits(key->tail + digits, key->tail_length - digits);
}

static void open_message(struct route_key *key, uint32_t length) {
    key->depth++;
    key->end[key->depth] = key->at + length;
    key->phase = READ_TAG;
}

// All of the innermost message was read.
static void close_message(struct route_key *key) {
    const struct place *place = &PLACES[key->kind];
    if (key->depth < place->steps) {
        key->verdict = ROUTE_ABSENT;
    } else if (key->depth == place->steps) { // meta: of a repeated key the last entry counts, so only now
        key->verdict = !key->tag_seen ? ROUTE_ABSENT : key->task != 0 ? ROUTE_FOUND : ROUTE_NOT_A_TASK;
    } else {
        if (key->depth == place->steps + 1 && key->key_matches) {
            key->tag_seen = true;
            key->task = key->value;
        }
        key->depth--;
    }
}

static void pass(struct route_key *key, uint32_t length) {
    key->until = key->at + length;
    key->phase = PASS;
}

static void keep(struct route_key *key, uint32_t length) {
    key->until = key->at + length;
    key->tail_length = 0;
    key->varint = length; // its length, for the end of it
    key->phase = KEEP;
}

// A field's value begins; it is of `length` bytes, of wire type WIRE_BYTES or WIRE_FIXED64.
static void enter_value(struct route_key *key, bool bytes, uint32_t length) {
    const struct place *place = &PLACES[key->kind];
    int below = key->depth - place->steps; // 0 meta, 1 an entry of tags, 2 its value
    if (below < 0) {
        if (!bytes || key->field != place->path[key->depth]) {
            pass(key, length);
        } else if (below == -1 && !place->tags) {
            keep(key, length);
        } else {
            open_message(key, length);
        }
    } else if (below == 0 && bytes && key->field == META_TAGS) {
        key->key_matches = false;
        key->value = 0;
        open_message(key, length);
    } else if (below == 1 && bytes && key->field == ENTRY_KEY) {
        key->key_matches = false;
        length == sizeof TAG_KEY ? keep(key, length) : pass(key, length);
    } else if (below == 1 && bytes && key->field == ENTRY_VALUE) {
        open_message(key, length);
    } else if (below == 2 && key->field == (bytes ? VALUE_STRING : VALUE_NUMBER)) {
        keep(key, length);
    } else {
        // Of the oneof's fields the last counts, whichever it is.
        if (below == 2 && bytes && (key->field == VALUE_STRUCT || key->field == VALUE_LIST)) key->value = 0;
        pass(key, length);
    }
}

// A kept value is complete.
static void leave_value(struct route_key *key) {
    key->phase = READ_TAG;
    uint32_t length = (uint32_t)key->varint;
    key->varint = 0;
    const struct place *place = &PLACES[key->kind];
    if (key->depth < place->steps) {
        key->task = task_of_name(key, length);
        key->verdict = key->task != 0 ? ROUTE_FOUND : ROUTE_NOT_A_TASK;
    } else if (key->depth == place->steps + 1) {
        key->key_matches = memcmp(key->tail, TAG_KEY, sizeof TAG_KEY) == 0;
    } else {
        key->value = key->field == VALUE_NUMBER    ? task_of_double(key->tail)
                     : length == key->tail_length ? route_task_of_digits(key->tail, length)
                                                  : 0; // too long
    }
}

// Keeps, of the bytes of a value, those that are among its last ROUTE_TAIL.
static void keep_tail(struct route_key *key, const uint8_t *bytes, uint32_t count) {
    if (count == 0) return;
    uint32_t left = key->until - key->at; // of the value, these bytes included
    if (left > ROUTE_TAIL) {
        uint32_t early = left - ROUTE_TAIL;
        if (early >= count) return;
        bytes += early;
        count -= early;
    }
    memcpy(key->tail + key->tail_length, bytes, count);
    key->tail_length += (uint8_t)count;
}

static void varint_complete(struct route_key *key) {
    uint64_t value = key->varint;
    key->varint = 0;
    key->varint_bytes = 0;
    uint32_t left = key->end[key->depth] - key->at;
    if (key->phase == READ_VARINT) {
        key->phase = READ_TAG;
        const struct place *place = &PLACES[key->kind];
        bool other = key->field == VALUE_NULL || key->field == VALUE_BOOL;
        if (key->depth == place->steps + 2 && other) key->value = 0;
    } else if (key->phase == READ_LENGTH) {
        if (value > left) {
            key->verdict = ROUTE_MALFORMED;
            return;
        }
        enter_value(key, true, (uint32_t)value);
    } else {
        key->field = (uint32_t)(value >> 3);
        if (value > UINT32_MAX || key->field == 0) {
            key->verdict = ROUTE_MALFORMED;
            return;
        }
        if (key->fields_left-- == 0) {
            key->verdict = ROUTE_TOO_COMPLEX;
            return;
        }
        switch (value & 7) {
        case WIRE_VARINT: key->phase = READ_VARINT; break;
        case WIRE_BYTES: key->phase = READ_LENGTH; break;
        case WIRE_FIXED64: left >= 8 ? enter_value(key, false, 8) : (void)(key->verdict = ROUTE_MALFORMED); break;
        case WIRE_FIXED32: left >= 4 ? pass(key, 4) : (void)(key->verdict = ROUTE_MALFORMED); break;
        default: key->verdict = ROUTE_MALFORMED; // groups, which no message of ours has, and what nobody has
        }
    }
}

enum route_verdict route_key_feed(struct route_key *key, const uint8_t *bytes, size_t count) {
    while (key->verdict == ROUTE_MORE) {
        if (key->phase >= PASS) {
            uint32_t left = key->until - key->at;
            uint32_t now = count < left ? (uint32_t)count : left;
            if (key->phase == KEEP) keep_tail(key, bytes, now);
            key->at += now;
            bytes += now;
            count -= now;
            if (now < left) break;
            if (key->phase == KEEP) leave_value(key);
            key->phase = READ_TAG;
            continue;
        }
        if (key->at == key->end[key->depth]) {
            if (key->phase == READ_TAG && key->varint_bytes == 0) {
                close_message(key);
            } else {
                key->verdict = ROUTE_MALFORMED;
            }
            continue;
        }
        if (count == 0) break;
        uint8_t byte = *bytes++;
        count--;
        key->at++;
        key->varint |= (uint64_t)(byte & 0x7f) << (7 * key->varint_bytes);
        key->varint_bytes++;
        if (byte < 0x80) {
            varint_complete(key);
        } else if (key->varint_bytes == MAX_VARINT_BYTES) {
            key->verdict = ROUTE_MALFORMED;
        }
    }
    return key->verdict;
}

struct text {
    char *at;
    size_t left;
};

static void put(struct text *out, const char *bytes, size_t count) {
    if (count > out->left) count = out->left;
    memcpy(out->at, bytes, count);
    out->at += count;
    out->left -= count;
}

static void say(struct text *out, const char *words) { put(out, words, strlen(words)); }

size_t route_key_explain(const struct route_key *key, char *text, size_t size) {
    struct text out = {text, size};
    const struct place *place = &PLACES[key->kind];
    switch (key->verdict) {
    case ROUTE_ABSENT:
        say(&out, "the request has no ");
        say(&out, place->what);
        if (place->tags) say(&out, "; set it to the task's number");
        break;
    case ROUTE_NOT_A_TASK:
        say(&out, place->what);
        if (place->tags) {
            say(&out, " is not a task id; send a whole number or a string of digits");
            break;
        }
        say(&out, " '");
        for (size_t i = 0; i < key->tail_length; i++) {
            bool printable = key->tail[i] >= ' ' && key->tail[i] < 127;
            put(&out, printable ? (const char *)&key->tail[i] : "?", 1);
        }
        say(&out, "' does not end in a task id; name the model like textcnn-69");
        break;
    case ROUTE_MALFORMED: say(&out, "the request is not a valid protobuf message"); break;
    case ROUTE_TOO_COMPLEX:
        say(&out, "the request has too many fields before ");
        say(&out, place->what);
        say(&out, "; send the metadata x-dl-task: <task id>");
        break;
    default: break;
    }
    return size - out.left;
}
