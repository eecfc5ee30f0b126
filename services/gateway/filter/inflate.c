#include "inflate.h"

#include <stdbool.h>
#include <string.h>

// Canonical Huffman decoding, one bit at a time (RFC 1951 section 3.2.2). A table would be faster, but most keys are
// in the first kilobyte, and building a table takes longer than unpacking that.

enum {
    MAX_BITS = 15,
    LITERALS = 288, // 286 and 287 have codes and no meaning
    DISTANCES = 30,
    MAX_LITERALS = 286,
    LENGTH_CODES = 19,
    END_OF_BLOCK = 256,
    NO_SYMBOL = -1,
};

// RFC 1951 section 3.2.5: what the symbols from 257 on, and the distance symbols, stand for.
static const uint16_t LENGTH_BASE[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                         31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
static const uint8_t LENGTH_BITS[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint16_t DISTANCE_BASE[DISTANCES] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,
                                                  33,  49,  65,  97,  129, 193,  257,  385,  513,  769,
                                                  1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
static const uint8_t DISTANCE_BITS[DISTANCES] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                                 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
// Section 3.2.7: the order in which a block gives the lengths of the codes of its code lengths.
static const uint8_t CODE_ORDER[LENGTH_CODES] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};

struct code {
    uint16_t counts[MAX_BITS + 1]; // codes of each length
    uint16_t symbols[LITERALS];    // in order of their codes
};

struct stream {
    const uint8_t *source;
    size_t left; // of the source
    uint32_t bits; // read and not used, the lowest first
    unsigned bit_count;
    bool cut; // the source ended, and zeros were read in its place
    uint8_t *out;
    size_t written, room;
};

static unsigned take(struct stream *s, unsigned count) {
    while (s->bit_count < count) {
        if (s->left == 0) {
            s->cut = true;
            return 0;
        }
        s->bits |= (uint32_t)*s->source++ << s->bit_count;
        s->left--;
        s->bit_count += 8;
    }
    unsigned value = s->bits & ((1u << count) - 1);
    s->bits >>= count;
    s->bit_count -= count;
    return value;
}

static int symbol(struct stream *s, const struct code *code) {
    unsigned value = 0, first = 0, index = 0;
    for (int length = 1; length <= MAX_BITS; length++) {
        value |= take(s, 1);
        if (s->cut) return NO_SYMBOL;
        unsigned count = code->counts[length];
        if (value < first + count) return code->symbols[index + (value - first)];
        index += count;
        first = (first + count) << 1;
        value <<= 1;
    }
    return NO_SYMBOL;
}

// False when no code has these lengths, or when bits are left that stand for nothing. Of those, a single code of one
// bit is allowed where `lone` is set, and so is none at all: a block of literals has no use for distances.
static bool make_code(struct code *code, const uint8_t *lengths, unsigned count, bool lone) {
    memset(code->counts, 0, sizeof code->counts);
    for (unsigned i = 0; i < count; i++) code->counts[lengths[i]]++;
    unsigned used = count - code->counts[0];
    int free_codes = 1;
    unsigned longest = 0;
    for (unsigned length = 1; length <= MAX_BITS; length++) {
        free_codes = (free_codes << 1) - code->counts[length];
        if (free_codes < 0) return false;
        if (code->counts[length] > 0) longest = length;
    }
    if (free_codes > 0 && !(lone && (used == 0 || longest == 1))) return false;
    uint16_t next[MAX_BITS + 1];
    next[1] = 0;
    for (unsigned length = 1; length < MAX_BITS; length++) next[length + 1] = next[length] + code->counts[length];
    for (unsigned i = 0; i < count; i++) {
        if (lengths[i] != 0) code->symbols[next[lengths[i]]++] = (uint16_t)i;
    }
    code->counts[0] = 0;
    return true;
}

static void fixed_codes(struct code *literals, struct code *distances) {
    uint8_t lengths[LITERALS];
    for (unsigned i = 0; i < LITERALS; i++) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    make_code(literals, lengths, LITERALS, false);
    memset(lengths, 5, 32); // 30 and 31 have codes and no meaning
    make_code(distances, lengths, 32, false);
}

static bool dynamic_codes(struct stream *s, struct code *literals, struct code *distances) {
    unsigned literal_count = take(s, 5) + 257, distance_count = take(s, 5) + 1, code_count = take(s, 4) + 4;
    if (s->cut || literal_count > MAX_LITERALS || distance_count > DISTANCES) return false;
    uint8_t lengths[MAX_LITERALS + DISTANCES] = {0};
    for (unsigned i = 0; i < code_count; i++) lengths[CODE_ORDER[i]] = (uint8_t)take(s, 3);
    if (s->cut || !make_code(literals, lengths, LENGTH_CODES, false)) return false;
    unsigned total = literal_count + distance_count;
    for (unsigned i = 0; i < total;) {
        int next = symbol(s, literals);
        if (next == NO_SYMBOL) return false;
        if (next < 16) {
            lengths[i++] = (uint8_t)next;
            continue;
        }
        if (next == 16 && i == 0) return false;
        uint8_t value = next == 16 ? lengths[i - 1] : 0;
        unsigned times = next == 16 ? 3 + take(s, 2) : next == 17 ? 3 + take(s, 3) : 11 + take(s, 7);
        if (s->cut || i + times > total) return false;
        memset(lengths + i, value, times);
        i += times;
    }
    return lengths[END_OF_BLOCK] != 0 && make_code(literals, lengths, literal_count, true)
           && make_code(distances, lengths + literal_count, distance_count, true);
}

static enum inflate_end coded_block(struct stream *s, const struct code *literals, const struct code *distances) {
    for (;;) {
        int next = symbol(s, literals);
        if (next == NO_SYMBOL) return INFLATE_DAMAGED;
        if (next == END_OF_BLOCK) return INFLATE_WHOLE;
        if (next < END_OF_BLOCK) {
            if (s->written == s->room) return INFLATE_FULL;
            s->out[s->written++] = (uint8_t)next;
            continue;
        }
        next -= END_OF_BLOCK + 1;
        if (next >= 29) return INFLATE_DAMAGED;
        size_t length = LENGTH_BASE[next] + take(s, LENGTH_BITS[next]);
        if (s->cut) return INFLATE_DAMAGED;
        next = symbol(s, distances);
        if (next == NO_SYMBOL || next >= DISTANCES) return INFLATE_DAMAGED;
        size_t distance = DISTANCE_BASE[next] + take(s, DISTANCE_BITS[next]);
        if (s->cut || distance > s->written) return INFLATE_DAMAGED;
        bool fits = length <= s->room - s->written;
        if (!fits) length = s->room - s->written;
        // Byte by byte: source and target overlap where the distance is short, and that repeats a pattern.
        for (; length > 0; length--, s->written++) s->out[s->written] = s->out[s->written - distance];
        if (!fits) return INFLATE_FULL;
    }
}

static enum inflate_end stored_block(struct stream *s) {
    s->bits = 0; // fewer than eight are left of a byte: padding
    s->bit_count = 0;
    if (s->left < 4) return INFLATE_CUT;
    size_t length = s->source[0] | (size_t)s->source[1] << 8;
    if ((length ^ 0xffff) != (s->source[2] | (size_t)s->source[3] << 8)) return INFLATE_DAMAGED;
    s->source += 4;
    s->left -= 4;
    size_t now = length < s->left ? length : s->left;
    size_t space = s->room - s->written;
    bool full = now > space;
    if (full) now = space;
    memcpy(s->out + s->written, s->source, now);
    s->written += now;
    s->source += now;
    s->left -= now;
    return full ? INFLATE_FULL : now < length ? INFLATE_CUT : INFLATE_WHOLE;
}

static enum inflate_end all_blocks(struct stream *s) {
    struct code literals, distances;
    for (;;) {
        unsigned last = take(s, 1), kind = take(s, 2);
        if (s->cut) return INFLATE_CUT;
        enum inflate_end end;
        if (kind == 0) {
            end = stored_block(s);
        } else if (kind == 3) {
            return INFLATE_DAMAGED;
        } else {
            bool fine = true;
            if (kind == 1) {
                fixed_codes(&literals, &distances);
            } else {
                fine = dynamic_codes(s, &literals, &distances);
            }
            end = fine ? coded_block(s, &literals, &distances) : INFLATE_DAMAGED;
            if (end == INFLATE_DAMAGED && s->cut) end = INFLATE_CUT;
        }
        if (end != INFLATE_WHOLE || last) return end;
    }
}

// Passes over the header. INFLATE_WHOLE when it is fine.
static enum inflate_end zlib_header(struct stream *s) {
    if (s->left < 2) return INFLATE_CUT;
    unsigned method = s->source[0], flags = s->source[1];
    bool fine = (method & 15) == 8 && method >> 4 <= 7 && (method << 8 | flags) % 31 == 0 && (flags & 32) == 0;
    s->source += 2;
    s->left -= 2;
    return fine ? INFLATE_WHOLE : INFLATE_DAMAGED;
}

static enum inflate_end gzip_header(struct stream *s) {
    enum { CHECKSUM = 2, EXTRA = 4, NAME = 8, COMMENT = 16, RESERVED = 0xe0, FIXED = 10 };
    if (s->left < FIXED) return INFLATE_CUT;
    const uint8_t *at = s->source, *end = s->source + s->left;
    unsigned flags = at[3];
    if (at[0] != 31 || at[1] != 139 || at[2] != 8 || (flags & RESERVED)) return INFLATE_DAMAGED;
    at += FIXED;
    if (flags & EXTRA) {
        if (end - at < 2) return INFLATE_CUT;
        size_t length = 2 + (at[0] | (size_t)at[1] << 8);
        if ((size_t)(end - at) < length) return INFLATE_CUT;
        at += length;
    }
    for (unsigned text = NAME; text <= COMMENT; text <<= 1) {
        if (!(flags & text)) continue;
        at = memchr(at, 0, (size_t)(end - at));
        if (at == NULL) return INFLATE_CUT;
        at++;
    }
    if (flags & CHECKSUM) {
        if (end - at < 2) return INFLATE_CUT;
        at += 2;
    }
    s->source = at;
    s->left = (size_t)(end - at);
    return INFLATE_WHOLE;
}

size_t inflate_head(
    enum inflate_format format, const uint8_t *source, size_t length, uint8_t *out, size_t room, enum inflate_end *end
) {
    struct stream s = {.source = source, .left = length, .out = out, .room = room};
    *end = format == INFLATE_ZLIB ? zlib_header(&s) : format == INFLATE_GZIP ? gzip_header(&s) : INFLATE_WHOLE;
    if (*end == INFLATE_WHOLE) *end = all_blocks(&s);
    return s.written;
}
