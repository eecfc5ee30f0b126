// Finds the task that a request message names, as the message arrives.
//
// A push parser over the protobuf wire format (https://protobuf.dev/programming-guides/encoding): it is given the
// bytes in pieces of any size, keeps a few numbers between them, and decides as soon as it can. It never allocates,
// looks at every byte at most once, and passes over what it does not need without looking.

#ifndef DL_ROUTE_KEY_H
#define DL_ROUTE_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Where a message names its task, by protobuf field numbers.
enum route_kind {
    ROUTE_NAME,     // 1: a name that ends in the task id, like textcnn-69
    ROUTE_SPEC,     // 1.1: the same in model_spec
    ROUTE_TASKS,    // 1.1.1: the same in the first of tasks[]
    ROUTE_META,     // 2.2: meta.tags["taskId"]
    ROUTE_FEEDBACK, // 1.2.2: request.meta.tags["taskId"]
};

enum route_verdict {
    ROUTE_MORE,        // undecided: give it the bytes that follow
    ROUTE_FOUND,       // .task is the task
    ROUTE_ABSENT,      // the message names none
    ROUTE_NOT_A_TASK,  // it names something, and that is no task id
    ROUTE_MALFORMED,   // it is no protobuf message
    ROUTE_TOO_COMPLEX, // more fields come before the name than are worth reading
};

enum {
    ROUTE_MAX_TASK = 2147483647, // task ids are positive 32-bit integers
    ROUTE_TAIL = 64,             // of a name, so many of its last bytes are kept: the id is among them
    ROUTE_MAX_FIELDS = 65536,    // read before giving up; a request that names its task has tens
    ROUTE_LEVELS = 5,            // Feedback, its request, meta, an entry of tags, that entry's value
};

// The state between two pieces. Only .task is for the caller.
struct route_key {
    uint32_t task;
    uint32_t at;                // bytes consumed
    uint32_t until;             // where the value being read or passed over ends
    uint32_t end[ROUTE_LEVELS]; // where each open message ends
    uint32_t fields_left;
    uint32_t field;  // the number of the field being read
    uint64_t varint; // as far as it was read
    uint8_t varint_bytes;
    uint8_t phase;
    uint8_t depth; // open messages below the outermost
    uint8_t kind;
    uint8_t verdict;
    bool tag_seen;    // an entry of tags had the key "taskId"
    bool key_matches; // the entry being read has it
    uint8_t tail_length;
    uint32_t value; // the task in the entry being read; 0 is none
    uint8_t tail[ROUTE_TAIL];
};

// Prepares for a message of `length` bytes.
void route_key_start(struct route_key *key, enum route_kind kind, uint32_t length);

// Reads the next `count` bytes. Bytes after the end of the message, or after a verdict, are ignored.
enum route_verdict route_key_feed(struct route_key *key, const uint8_t *bytes, size_t count);

// Writes what is wrong, for the caller of the RPC, as printable ASCII without a zero at the end. Returns its length,
// at most `size`.
size_t route_key_explain(const struct route_key *key, char *text, size_t size);

// The task that a string of digits names; 0 when it is no task id.
uint32_t route_task_of_digits(const uint8_t *text, size_t length);

#endif
