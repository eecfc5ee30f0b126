// The memory that the call log writes to: a file that the control plane makes and reads. What each word in it is says
// services/gateway/metrics_counters.py.
//
// Each thread has a block of its own, so nothing is locked or shared on the way; the keys alone are common to all.

#ifndef DL_CALL_MEMORY_H
#define DL_CALL_MEMORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libs/native/text.h"

// --- the file: a head, the keys of the tasks, the keys of the instances, the blocks, the last failures of each ---

#define MAGIC 0x31474f4c4c4143ull // "CALLOG1"
enum { HEAD_BYTES = 4096, MAX_BLOCKS = 960 };
enum { CODES = 17, REASONS = 11, BOUNDS = 50 };

// Who owns a slot: nobody yet, a thread that writes the key, its key.
enum { FREE, CLAIMED, TAKEN };

struct head {
    uint64_t magic, size;
    uint32_t blocks, task_slots, instance_slots, task_bytes, instance_bytes, failure_bytes;
    _Atomic uint64_t lost; // calls that found no room
    uint64_t spare[8];
    _Atomic uint32_t owners[MAX_BLOCKS]; // the process that writes to each block; 0 is none
};
_Static_assert(sizeof(struct head) <= HEAD_BYTES, "the head has its page");

struct task_key {
    _Atomic uint32_t state;
    uint32_t length;
    char name[24];
};

struct instance_key {
    _Atomic uint32_t state;
    uint32_t length;
    char name[120]; // pool, space, address
};

struct task_counts {
    uint64_t calls, duration_us, received, sent, retries;
    uint64_t reasons[REASONS];
    uint64_t codes[CODES];
    uint64_t durations[BOUNDS + 1];
    uint64_t spare[4];
};

struct instance_counts {
    uint64_t answered, latency_us, failed, spare;
};

// The last failed calls of a thread, round and round.
enum { FAILURES = 128 };
struct failure {
    uint64_t number; // counts up from 1; 0 while it is written
    uint64_t began_unix_ns, duration_us, flags;
    uint32_t code, reason;
    // Ended by a zero, cut where they are longer.
    char task[16], pool[64], instance[56], caller[56], details[64], message[216];
};
_Static_assert(sizeof(struct failure) == 512, "as metrics_counters.py has it");

// Maps the file, once for the life of the process: what is wrong, or NULL. Not to be called by two threads at once.
const char *call_memory_open(const char *path);

// This thread's block; NULL when there is no file, or no block is left.
char *call_memory_block(void);

// Where a task or an instance ("pool host:port") is counted; NULL when there is no room.
struct task_counts *call_memory_task(char *block, struct text name);
struct instance_counts *call_memory_instance(char *block, struct text key);

// The next failure to write. `call_memory_publish` ends that.
struct failure *call_memory_failure(char *block);
void call_memory_publish(struct failure *failure);

// Only the owner of a block writes to it. The reader must not see half a word.
static inline void call_memory_add(uint64_t *word, uint64_t value) {
    __atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + value, __ATOMIC_RELAXED);
}

// For the word that a reader looks at first: having seen it, it has seen all that was added before.
static inline void call_memory_add_last(uint64_t *word, uint64_t value) {
    __atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + value, __ATOMIC_RELEASE);
}

#endif
