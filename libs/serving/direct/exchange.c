#define _GNU_SOURCE
#include "exchange.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { MAX_METHODS = 64 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct call *first, **last = &first; // what the event loop has not seen
static int wake = -1;
static bool woken;

static size_t held; // calls that are not freed

static struct text methods[MAX_METHODS];
static atomic_size_t method_count;
static uint64_t limit, most_bytes;
static atomic_uint_fast64_t bytes;

int exchange_method(struct text path) {
    size_t count = atomic_load_explicit(&method_count, memory_order_acquire);
    for (size_t i = 0; i < count; i++) {
        if (text_equal(methods[i], path)) return (int)i;
    }
    return -1;
}

uint64_t exchange_limit(void) { return limit; }

bool exchange_reserve(size_t more) {
    if (atomic_fetch_add_explicit(&bytes, more, memory_order_relaxed) + more <= most_bytes) return true;
    exchange_return(more);
    return false;
}

void exchange_return(size_t less) { atomic_fetch_sub_explicit(&bytes, less, memory_order_relaxed); }

static void release(struct call *call) { // under the lock
    if (--call->references > 0) return;
    envoy_dynamic_module_callback_http_filter_scheduler_delete(call->scheduler);
    free(call->headers_memory);
    free(call->body_memory);
    exchange_return(call->body_room);
    free(call->answer);
    free(call);
    held--;
}

static bool append(struct call *call) { // under the lock; whether to wake the event loop
    call->next = NULL;
    call->queued = true;
    *last = call;
    last = &call->next;
    if (woken) return false;
    return woken = true;
}

static void wake_up(void) {
    uint64_t one = 1;
    if (write(wake, &one, sizeof one) < 0) {} // full: it is awake
}

void exchange_put(struct call *call) {
    pthread_mutex_lock(&lock);
    call->references++;
    held++;
    bool asleep = append(call);
    pthread_mutex_unlock(&lock);
    if (asleep) wake_up();
}

void exchange_leave(struct call *call) {
    bool asleep = false;
    pthread_mutex_lock(&lock);
    call->gone = true;
    // Who has taken it is told. Else its record will say it.
    if (call->taken && !call->answered && !call->queued) {
        call->references++;
        asleep = append(call);
    }
    release(call);
    pthread_mutex_unlock(&lock);
    if (asleep) wake_up();
}

struct answer *exchange_answer(struct call *call) {
    pthread_mutex_lock(&lock);
    struct answer *answer = call->answer;
    call->answer = NULL;
    pthread_mutex_unlock(&lock);
    return answer;
}

int dl_direct_open(const char *paths, size_t length, uint64_t max_message_bytes, uint64_t max_held_bytes) {
    if (wake >= 0) return wake;
    char *copy = malloc(length);
    if (copy == NULL) return -1;
    memcpy(copy, paths, length);
    size_t count = 0;
    for (size_t at = 0; at < length;) {
        char *end = memchr(copy + at, '\n', length - at);
        size_t size = end == NULL ? length - at : (size_t)(end - copy) - at;
        if (count == MAX_METHODS) return -1;
        methods[count++] = (struct text){copy + at, size};
        at += size + 1;
    }
    limit = max_message_bytes;
    most_bytes = max_held_bytes;
    wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (wake >= 0) atomic_store_explicit(&method_count, count, memory_order_release);
    return wake;
}

size_t dl_direct_take(struct record *records, size_t room) {
    uint64_t count;
    if (read(wake, &count, sizeof count) < 0) {} // nothing: somebody took it all already
    size_t taken = 0;
    pthread_mutex_lock(&lock);
    while (first != NULL && taken < room) {
        struct call *call = first;
        first = call->next;
        if (first == NULL) last = &first;
        call->queued = false;
        bool told = call->taken; // of its coming: now it is gone
        if (call->gone && (!told || call->answered)) {
            release(call); // of the queue
            continue;
        }
        records[taken++] = (struct record){
            .call = (uint64_t)(uintptr_t)call,
            .kind = call->gone ? GONE : call->kind,
            .method = call->method,
            .timeout_ns = call->timeout_ns,
            .arrived_ns = call->arrived_ns,
            .headers = (uint64_t)(uintptr_t)call->headers.bytes,
            .headers_length = call->headers.length,
            .body = (uint64_t)(uintptr_t)call->body.bytes,
            .body_length = call->body.length,
        };
        call->taken = true;
        if (told) release(call);
    }
    woken = first != NULL;
    pthread_mutex_unlock(&lock);
    if (woken) wake_up();
    return taken;
}

static char *put_text(char *to, struct text *out, const char *bytes, size_t length) {
    if (length > 0) memcpy(to, bytes, length);
    *out = (struct text){to, length};
    return to + length;
}

void dl_direct_answer(
    struct call *call, const char *head, size_t head_length, const char *body, size_t body_length,
    const char *trailers, size_t trailers_length
) {
    bool framed = trailers_length > 0;
    struct answer *answer = NULL;
    if (!call->gone) {
        answer = malloc(sizeof *answer + head_length + 5 + body_length + trailers_length);
        if (answer == NULL) abort(); // as Envoy does without memory
        char *at = put_text((char *)(answer + 1), &answer->head, head, head_length);
        answer->body = (struct text){at, 0};
        if (framed) {
            *at++ = 0;
            for (int shift = 24; shift >= 0; shift -= 8) *at++ = (char)(body_length >> shift);
            if (body_length > 0) memcpy(at, body, body_length);
            at += body_length;
            answer->body.length = 5 + body_length;
        }
        put_text(at, &answer->trailers, trailers, trailers_length);
    }
    pthread_mutex_lock(&lock);
    call->answered = true;
    call->answer = answer;
    // Under the lock: the I/O thread, and all that a commit needs, are there as long as the stream is.
    if (!call->gone) envoy_dynamic_module_callback_http_filter_scheduler_commit(call->scheduler, 0);
    release(call);
    pthread_mutex_unlock(&lock);
}

void dl_direct_drop(struct call *call) {
    pthread_mutex_lock(&lock);
    call->answered = true;
    release(call);
    pthread_mutex_unlock(&lock);
}

size_t dl_direct_held(void) {
    pthread_mutex_lock(&lock);
    size_t count = held;
    pthread_mutex_unlock(&lock);
    return count;
}
