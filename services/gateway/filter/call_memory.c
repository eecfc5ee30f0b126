#define _GNU_SOURCE // O_CLOEXEC, kill
#include "call_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_PROBES = 64 };
#define GONE UINT32_MAX // owns a block that was used, and is no process

struct region {
    struct head *head;
    struct task_key *tasks;
    struct instance_key *instances;
    char *blocks;
    size_t block_bytes;
    char path[256];
};

// One file a process, for as long as it lives: listeners come and go, and threads keep their blocks.
static struct region region;
static _Thread_local char *own_block;
static _Thread_local bool no_block;
static _Thread_local uint64_t failures; // that this thread has written

const char *call_memory_open(const char *path) {
    if (region.head != NULL) return strcmp(path, region.path) == 0 ? NULL : "another file is in use";
    if (strlen(path) >= sizeof region.path) return "the path is too long";
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return strerror(errno);
    struct stat found;
    const char *problem = fstat(file, &found) < 0 ? strerror(errno) : NULL;
    size_t size = problem == NULL ? (size_t)found.st_size : 0;
    void *memory = MAP_FAILED;
    if (problem == NULL && size < HEAD_BYTES) problem = "too short";
    if (problem == NULL) {
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (memory == MAP_FAILED) problem = strerror(errno);
    }
    close(file);
    if (problem != NULL) return problem;
    struct head *head = memory;
    uint64_t keys = (uint64_t)head->task_slots * sizeof(struct task_key) +
                    (uint64_t)head->instance_slots * sizeof(struct instance_key);
    uint64_t block = (uint64_t)head->task_slots * sizeof(struct task_counts) +
                     (uint64_t)head->instance_slots * sizeof(struct instance_counts) +
                     FAILURES * sizeof(struct failure);
    bool powers = head->task_slots > 0 && (head->task_slots & (head->task_slots - 1)) == 0 &&
                  head->instance_slots > 0 && (head->instance_slots & (head->instance_slots - 1)) == 0;
    if (head->magic != MAGIC || head->size != size || !powers || head->blocks > MAX_BLOCKS ||
        head->task_bytes != sizeof(struct task_counts) || head->instance_bytes != sizeof(struct instance_counts) ||
        head->failure_bytes != FAILURES * sizeof(struct failure) || HEAD_BYTES + keys + head->blocks * block != size) {
        munmap(memory, size);
        return "it was made for another version";
    }
    region.head = head;
    region.tasks = (struct task_key *)((char *)memory + HEAD_BYTES);
    region.instances = (struct instance_key *)(region.tasks + head->task_slots);
    region.blocks = (char *)memory + HEAD_BYTES + keys;
    region.block_bytes = block;
    strcpy(region.path, path);
    // A process that is gone may have had our number.
    for (uint32_t i = 0; i < head->blocks; i++) {
        uint32_t owner = (uint32_t)getpid();
        atomic_compare_exchange_strong(&head->owners[i], &owner, GONE);
    }
    return NULL;
}

// The number of the last failure that whoever had the block before wrote.
static uint64_t last_failure(char *block) {
    struct failure *all = (struct failure *)(block + region.block_bytes) - FAILURES;
    uint64_t last = 0;
    for (unsigned i = 0; i < FAILURES; i++) last = all[i].number > last ? all[i].number : last;
    return last;
}

// A block that no living process writes to.
static char *claim_block(void) {
    uint32_t self = (uint32_t)getpid();
    for (uint32_t i = 0; i < region.head->blocks; i++) {
        uint32_t owner = atomic_load_explicit(&region.head->owners[i], memory_order_relaxed);
        if (owner == self || (owner != 0 && owner != GONE && (kill((pid_t)owner, 0) == 0 || errno != ESRCH))) continue;
        if (atomic_compare_exchange_strong(&region.head->owners[i], &owner, self)) {
            return region.blocks + i * region.block_bytes;
        }
    }
    return NULL;
}

char *call_memory_block(void) {
    if (own_block == NULL && !no_block && region.head != NULL) {
        own_block = claim_block();
        no_block = own_block == NULL;
        if (own_block != NULL) failures = last_failure(own_block);
    }
    return own_block;
}

static uint64_t hash(const char *bytes, size_t length) {
    uint64_t value = 0;
    for (; length >= 8; bytes += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        value = (value ^ word) * 0x9e3779b97f4a7c15ull;
        value ^= value >> 32;
    }
    uint64_t word = 0;
    memcpy(&word, bytes, length);
    value = (value ^ word ^ ((uint64_t)length << 56)) * 0x9e3779b97f4a7c15ull;
    return value ^ value >> 29;
}

// The slot of a key, made when it is new; -1 when there is no room. Keys begin alike: state, length, name.
static int32_t slot_of(void *keys, size_t key_bytes, uint32_t slots, const char *name, size_t length) {
    if (length > key_bytes - offsetof(struct task_key, name)) return -1;
    uint64_t at = hash(name, length);
    for (unsigned probe = 0; probe < MAX_PROBES; probe++, at++) {
        uint32_t slot = (uint32_t)at & (slots - 1);
        struct task_key *key = (struct task_key *)((char *)keys + slot * key_bytes);
        uint32_t state = atomic_load_explicit(&key->state, memory_order_acquire);
        if (state == FREE && atomic_compare_exchange_strong(&key->state, &state, CLAIMED)) {
            key->length = (uint32_t)length;
            memcpy(key->name, name, length);
            atomic_store_explicit(&key->state, TAKEN, memory_order_release);
            return (int32_t)slot;
        }
        // Another thread is at it, for some nanoseconds unless it was killed in them: then the slot stays unused.
        for (unsigned turn = 0; state == CLAIMED && turn < 1000; turn++) {
            state = atomic_load_explicit(&key->state, memory_order_acquire);
        }
        if (state == TAKEN && key->length == length && memcmp(key->name, name, length) == 0) return (int32_t)slot;
    }
    return -1;
}

struct task_counts *call_memory_task(char *block, struct text name) {
    int32_t slot =
        slot_of(region.tasks, sizeof(struct task_key), region.head->task_slots, name.bytes, name.length);
    if (slot < 0) {
        atomic_fetch_add_explicit(&region.head->lost, 1, memory_order_relaxed);
        return NULL;
    }
    return (struct task_counts *)block + slot;
}

struct instance_counts *call_memory_instance(char *block, struct text key) {
    int32_t slot =
        slot_of(region.instances, sizeof(struct instance_key), region.head->instance_slots, key.bytes, key.length);
    if (slot < 0) return NULL;
    return (struct instance_counts *)(block + region.head->task_slots * sizeof(struct task_counts)) + slot;
}

struct failure *call_memory_failure(char *block) {
    struct failure *all = (struct failure *)(block + region.block_bytes) - FAILURES;
    struct failure *failure = &all[failures % FAILURES];
    __atomic_store_n(&failure->number, 0, __ATOMIC_RELAXED);
    atomic_thread_fence(memory_order_release);
    memset(&failure->began_unix_ns, 0, sizeof *failure - sizeof failure->number);
    return failure;
}

void call_memory_publish(struct failure *failure) {
    __atomic_store_n(&failure->number, ++failures, __ATOMIC_RELEASE);
}
