// Where whole calls change hands: Envoy's I/O threads put them in and the event loop takes them out, many at a time,
// and gives an answer for each back.

#ifndef DL_DIRECT_EXCHANGE_H
#define DL_DIRECT_EXCHANGE_H

#include "libs/native/envoy_abi.h"

#include <stdatomic.h>

#define EXPORTED __attribute__((visibility("default")))

#define NO_TIMEOUT UINT64_MAX

enum kind {
    MESSAGE = 0, // the body is one message that is not compressed
    BODY = 1,    // it is something else
    GONE = 2,    // no call: the caller of an earlier one has left
    FULL = 3,    // there was no memory for the body
};

// A response, in one block of memory. Fields are (length of name, length of value, name, value), lengths of 32 bits.
struct answer {
    struct text head, body, trailers; // without body and trailers the head ends the response
};

struct call {
    struct call *next; // in the exchange
    unsigned references; // one of the stream's, one of the event loop's; guarded by the exchange's lock
    bool taken, queued, answered; // likewise
    atomic_bool gone; // set under the lock
    void *scheduler;
    struct answer *answer;
    uint32_t method;
    enum kind kind;
    uint64_t timeout_ns; // or NO_TIMEOUT
    uint64_t arrived_ns; // on the monotonic clock
    char *headers_memory, *body_memory;
    size_t body_room;
    struct text headers, body;
};

// What the event loop gets of a call. The memory is the call's, and good until it is answered.
struct record {
    uint64_t call;
    uint32_t kind; // enum kind
    uint32_t method;
    uint64_t timeout_ns, arrived_ns;
    uint64_t headers, headers_length;
    uint64_t body, body_length;
};

// The number of the method with this path, negative when the event loop does not serve it here.
int exchange_method(struct text path);
uint64_t exchange_limit(void);

// Takes so much of the memory that bodies may have together; false when there is no more. What is taken is given back.
bool exchange_reserve(size_t bytes);
void exchange_return(size_t bytes);

void exchange_put(struct call *call);
// The stream is over. It gives its reference back.
void exchange_leave(struct call *call);
// What the event loop answered; the caller owns it.
struct answer *exchange_answer(struct call *call);

// For the event loop.
EXPORTED int dl_direct_open(
    const char *paths, size_t length, uint64_t max_message_bytes, uint64_t max_held_bytes
);
EXPORTED size_t dl_direct_take(struct record *records, size_t room);
EXPORTED void dl_direct_answer(
    struct call *call, const char *head, size_t head_length, const char *body, size_t body_length,
    const char *trailers, size_t trailers_length
);
EXPORTED void dl_direct_drop(struct call *call);
EXPORTED size_t dl_direct_held(void);

#endif
