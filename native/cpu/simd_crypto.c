/* AES, SHA-1 and SHA-256 (FIPS 197 and 180-4; DDI 0487 C4.1.96). */
#include "simd.h"

/* --- AES: the state's byte of row r and column c is byte 4 * c + r ---------------------- */

static const uint8_t substitute[256] = {
    0x63, 0x7c, 0x77, 0x7b, 0xf2, 0x6b, 0x6f, 0xc5, 0x30, 0x01, 0x67, 0x2b, 0xfe, 0xd7, 0xab, 0x76,
    0xca, 0x82, 0xc9, 0x7d, 0xfa, 0x59, 0x47, 0xf0, 0xad, 0xd4, 0xa2, 0xaf, 0x9c, 0xa4, 0x72, 0xc0,
    0xb7, 0xfd, 0x93, 0x26, 0x36, 0x3f, 0xf7, 0xcc, 0x34, 0xa5, 0xe5, 0xf1, 0x71, 0xd8, 0x31, 0x15,
    0x04, 0xc7, 0x23, 0xc3, 0x18, 0x96, 0x05, 0x9a, 0x07, 0x12, 0x80, 0xe2, 0xeb, 0x27, 0xb2, 0x75,
    0x09, 0x83, 0x2c, 0x1a, 0x1b, 0x6e, 0x5a, 0xa0, 0x52, 0x3b, 0xd6, 0xb3, 0x29, 0xe3, 0x2f, 0x84,
    0x53, 0xd1, 0x00, 0xed, 0x20, 0xfc, 0xb1, 0x5b, 0x6a, 0xcb, 0xbe, 0x39, 0x4a, 0x4c, 0x58, 0xcf,
    0xd0, 0xef, 0xaa, 0xfb, 0x43, 0x4d, 0x33, 0x85, 0x45, 0xf9, 0x02, 0x7f, 0x50, 0x3c, 0x9f, 0xa8,
    0x51, 0xa3, 0x40, 0x8f, 0x92, 0x9d, 0x38, 0xf5, 0xbc, 0xb6, 0xda, 0x21, 0x10, 0xff, 0xf3, 0xd2,
    0xcd, 0x0c, 0x13, 0xec, 0x5f, 0x97, 0x44, 0x17, 0xc4, 0xa7, 0x7e, 0x3d, 0x64, 0x5d, 0x19, 0x73,
    0x60, 0x81, 0x4f, 0xdc, 0x22, 0x2a, 0x90, 0x88, 0x46, 0xee, 0xb8, 0x14, 0xde, 0x5e, 0x0b, 0xdb,
    0xe0, 0x32, 0x3a, 0x0a, 0x49, 0x06, 0x24, 0x5c, 0xc2, 0xd3, 0xac, 0x62, 0x91, 0x95, 0xe4, 0x79,
    0xe7, 0xc8, 0x37, 0x6d, 0x8d, 0xd5, 0x4e, 0xa9, 0x6c, 0x56, 0xf4, 0xea, 0x65, 0x7a, 0xae, 0x08,
    0xba, 0x78, 0x25, 0x2e, 0x1c, 0xa6, 0xb4, 0xc6, 0xe8, 0xdd, 0x74, 0x1f, 0x4b, 0xbd, 0x8b, 0x8a,
    0x70, 0x3e, 0xb5, 0x66, 0x48, 0x03, 0xf6, 0x0e, 0x61, 0x35, 0x57, 0xb9, 0x86, 0xc1, 0x1d, 0x9e,
    0xe1, 0xf8, 0x98, 0x11, 0x69, 0xd9, 0x8e, 0x94, 0x9b, 0x1e, 0x87, 0xe9, 0xce, 0x55, 0x28, 0xdf,
    0x8c, 0xa1, 0x89, 0x0d, 0xbf, 0xe6, 0x42, 0x68, 0x41, 0x99, 0x2d, 0x0f, 0xb0, 0x54, 0xbb, 0x16,
};

static const uint8_t substitute_inverse[256] = {
    0x52, 0x09, 0x6a, 0xd5, 0x30, 0x36, 0xa5, 0x38, 0xbf, 0x40, 0xa3, 0x9e, 0x81, 0xf3, 0xd7, 0xfb,
    0x7c, 0xe3, 0x39, 0x82, 0x9b, 0x2f, 0xff, 0x87, 0x34, 0x8e, 0x43, 0x44, 0xc4, 0xde, 0xe9, 0xcb,
    0x54, 0x7b, 0x94, 0x32, 0xa6, 0xc2, 0x23, 0x3d, 0xee, 0x4c, 0x95, 0x0b, 0x42, 0xfa, 0xc3, 0x4e,
    0x08, 0x2e, 0xa1, 0x66, 0x28, 0xd9, 0x24, 0xb2, 0x76, 0x5b, 0xa2, 0x49, 0x6d, 0x8b, 0xd1, 0x25,
    0x72, 0xf8, 0xf6, 0x64, 0x86, 0x68, 0x98, 0x16, 0xd4, 0xa4, 0x5c, 0xcc, 0x5d, 0x65, 0xb6, 0x92,
    0x6c, 0x70, 0x48, 0x50, 0xfd, 0xed, 0xb9, 0xda, 0x5e, 0x15, 0x46, 0x57, 0xa7, 0x8d, 0x9d, 0x84,
    0x90, 0xd8, 0xab, 0x00, 0x8c, 0xbc, 0xd3, 0x0a, 0xf7, 0xe4, 0x58, 0x05, 0xb8, 0xb3, 0x45, 0x06,
    0xd0, 0x2c, 0x1e, 0x8f, 0xca, 0x3f, 0x0f, 0x02, 0xc1, 0xaf, 0xbd, 0x03, 0x01, 0x13, 0x8a, 0x6b,
    0x3a, 0x91, 0x11, 0x41, 0x4f, 0x67, 0xdc, 0xea, 0x97, 0xf2, 0xcf, 0xce, 0xf0, 0xb4, 0xe6, 0x73,
    0x96, 0xac, 0x74, 0x22, 0xe7, 0xad, 0x35, 0x85, 0xe2, 0xf9, 0x37, 0xe8, 0x1c, 0x75, 0xdf, 0x6e,
    0x47, 0xf1, 0x1a, 0x71, 0x1d, 0x29, 0xc5, 0x89, 0x6f, 0xb7, 0x62, 0x0e, 0xaa, 0x18, 0xbe, 0x1b,
    0xfc, 0x56, 0x3e, 0x4b, 0xc6, 0xd2, 0x79, 0x20, 0x9a, 0xdb, 0xc0, 0xfe, 0x78, 0xcd, 0x5a, 0xf4,
    0x1f, 0xdd, 0xa8, 0x33, 0x88, 0x07, 0xc7, 0x31, 0xb1, 0x12, 0x10, 0x59, 0x27, 0x80, 0xec, 0x5f,
    0x60, 0x51, 0x7f, 0xa9, 0x19, 0xb5, 0x4a, 0x0d, 0x2d, 0xe5, 0x7a, 0x9f, 0x93, 0xc9, 0x9c, 0xef,
    0xa0, 0xe0, 0x3b, 0x4d, 0xae, 0x2a, 0xf5, 0xb0, 0xc8, 0xeb, 0xbb, 0x3c, 0x83, 0x53, 0x99, 0x61,
    0x17, 0x2b, 0x04, 0x7e, 0xba, 0x77, 0xd6, 0x26, 0xe1, 0x69, 0x14, 0x63, 0x55, 0x21, 0x0c, 0x7d,
};

/* AddRoundKey, SubBytes and ShiftRows. */
static void run_aese(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct vector *state = &cpu->v[insn->rd], key = cpu->v[insn->rn], result;
    for (unsigned i = 0; i < 16; i++) {
        unsigned from = (i + 4 * (i % 4)) % 16;
        result.u8[i] = substitute[state->u8[from] ^ key.u8[from]];
    }
    *state = result;
}

static void run_aesd(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct vector *state = &cpu->v[insn->rd], key = cpu->v[insn->rn], result;
    for (unsigned i = 0; i < 16; i++) {
        unsigned from = (i + 16 - 4 * (i % 4)) % 16;
        result.u8[i] = substitute_inverse[state->u8[from] ^ key.u8[from]];
    }
    *state = result;
}

/* In GF(2^8), by a factor below 16. */
static uint8_t multiply(uint8_t value, unsigned factor)
{
    uint8_t product = 0;
    for (; factor; factor >>= 1) {
        if (factor & 1)
            product ^= value;
        value = (uint8_t)(value << 1 ^ (value & 0x80 ? 0x1b : 0));
    }
    return product;
}

/* MixColumns: row r of a column is the sum of its bytes times the factors, rotated by r. */
static void mix_columns(struct vcpu *cpu, const struct insn *insn, const uint8_t factors[4])
{
    if (!fp_enabled(cpu))
        return;
    struct vector state = cpu->v[insn->rn], result = {0};
    for (unsigned i = 0; i < 16; i++)
        for (unsigned k = 0; k < 4; k++)
            result.u8[i] ^= multiply(state.u8[(i & ~3u) | ((i + k) & 3)], factors[k]);
    cpu->v[insn->rd] = result;
}

static void run_aesmc(struct vcpu *cpu, const struct insn *insn)
{
    static const uint8_t factors[4] = {2, 3, 1, 1};
    mix_columns(cpu, insn, factors);
}

static void run_aesimc(struct vcpu *cpu, const struct insn *insn)
{
    static const uint8_t factors[4] = {14, 11, 13, 9};
    mix_columns(cpu, insn, factors);
}

bool decode_crypto_aes(uint32_t word, struct insn *insn)
{
    static insn_handler *const handlers[4] = {run_aese, run_aesd, run_aesmc, run_aesimc};
    unsigned opcode = BITS(word, 16, 12);
    insn->run = handlers[opcode & 3];
    return !BITS(word, 23, 22) && opcode >= 4 && opcode <= 7;
}

/* --- SHA -------------------------------------------------------------------------------- */

static uint32_t rotate_left(uint32_t value, unsigned amount)
{
    return value << amount | value >> (32 - amount);
}
static uint32_t rotate_right(uint32_t value, unsigned amount)
{
    return value >> amount | value << (32 - amount);
}
static uint32_t choose(uint32_t x, uint32_t y, uint32_t z)
{
    return ((y ^ z) & x) ^ z;
}
static uint32_t parity(uint32_t x, uint32_t y, uint32_t z)
{
    return x ^ y ^ z;
}
static uint32_t majority(uint32_t x, uint32_t y, uint32_t z)
{
    return (x & y) | ((x | y) & z);
}

/* Four rounds: a to d are in rd, e is in rn, what the rounds add in rm. */
static void sha1_rounds(struct vcpu *cpu, const struct insn *insn,
                        uint32_t mix(uint32_t x, uint32_t y, uint32_t z))
{
    if (!fp_enabled(cpu))
        return;
    struct vector x = cpu->v[insn->rd], w = cpu->v[insn->rm];
    uint32_t y = cpu->v[insn->rn].u32[0];
    for (unsigned e = 0; e < 4; e++) {
        uint32_t sum = y + rotate_left(x.u32[0], 5) + mix(x.u32[1], x.u32[2], x.u32[3]) + w.u32[e];
        y = x.u32[3];
        x = (struct vector){.u32 = {sum, x.u32[0], rotate_left(x.u32[1], 30), x.u32[2]}};
    }
    cpu->v[insn->rd] = x;
}

static void run_sha1c(struct vcpu *cpu, const struct insn *insn)
{
    sha1_rounds(cpu, insn, choose);
}
static void run_sha1p(struct vcpu *cpu, const struct insn *insn)
{
    sha1_rounds(cpu, insn, parity);
}
static void run_sha1m(struct vcpu *cpu, const struct insn *insn)
{
    sha1_rounds(cpu, insn, majority);
}

static void run_sha1su0(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct vector *d = &cpu->v[insn->rd], n = cpu->v[insn->rn], m = cpu->v[insn->rm];
    uint64_t low = d->u64[0] ^ d->u64[1] ^ m.u64[0], high = d->u64[1] ^ n.u64[0] ^ m.u64[1];
    *d = (struct vector){.u64 = {low, high}};
}

static void run_sha1su1(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct vector *d = &cpu->v[insn->rd], n = cpu->v[insn->rn], t = *d;
    for (unsigned e = 0; e < 4; e++) {
        t.u32[e] ^= e < 3 ? n.u32[e + 1] : 0;
        d->u32[e] = rotate_left(t.u32[e], 1);
    }
    d->u32[3] ^= rotate_left(t.u32[0], 2);
}

static void run_sha1h(struct vcpu *cpu, const struct insn *insn)
{
    if (fp_enabled(cpu))
        cpu->v[insn->rd] =
            (struct vector){.u32 = {rotate_left(cpu->v[insn->rn].u32[0], 30)}};
}

/* Four rounds on a to d in x, e to h in y. */
static void sha256_rounds(struct vector *x, struct vector *y, const struct vector *w)
{
    for (unsigned e = 0; e < 4; e++) {
        uint32_t a = x->u32[0], f = y->u32[0];
        uint32_t sum1 = rotate_right(f, 6) ^ rotate_right(f, 11) ^ rotate_right(f, 25);
        uint32_t sum0 = rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22);
        uint32_t t = y->u32[3] + sum1 + choose(f, y->u32[1], y->u32[2]) + w->u32[e];
        uint32_t first = t + sum0 + majority(a, x->u32[1], x->u32[2]);
        uint32_t fifth = t + x->u32[3];
        *x = (struct vector){.u32 = {first, a, x->u32[1], x->u32[2]}};
        *y = (struct vector){.u32 = {fifth, f, y->u32[1], y->u32[2]}};
    }
}

static void run_sha256h(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct vector x = cpu->v[insn->rd], y = cpu->v[insn->rn];
    sha256_rounds(&x, &y, &cpu->v[insn->rm]);
    cpu->v[insn->rd] = x;
}

static void run_sha256h2(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct vector x = cpu->v[insn->rn], y = cpu->v[insn->rd];
    sha256_rounds(&x, &y, &cpu->v[insn->rm]);
    cpu->v[insn->rd] = y;
}

static void run_sha256su0(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct vector *d = &cpu->v[insn->rd], old = *d;
    uint32_t next = cpu->v[insn->rn].u32[0];
    for (unsigned e = 0; e < 4; e++) {
        uint32_t t = e < 3 ? old.u32[e + 1] : next;
        d->u32[e] = old.u32[e] + (rotate_right(t, 7) ^ rotate_right(t, 18) ^ t >> 3);
    }
}

static void run_sha256su1(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct vector *d = &cpu->v[insn->rd], n = cpu->v[insn->rn], m = cpu->v[insn->rm];
    for (unsigned e = 0; e < 4; e++) {
        uint32_t t = e < 2 ? m.u32[e + 2] : d->u32[e - 2];
        d->u32[e] += (rotate_right(t, 17) ^ rotate_right(t, 19) ^ t >> 10) +
                     (e < 3 ? n.u32[e + 1] : m.u32[0]);
    }
}

bool decode_crypto_three(uint32_t word, struct insn *insn)
{
    static insn_handler *const handlers[8] = {run_sha1c,   run_sha1p,    run_sha1m,    run_sha1su0,
                                              run_sha256h, run_sha256h2, run_sha256su1, NULL};
    insn->run = handlers[BITS(word, 14, 12)];
    return insn->run && !BITS(word, 23, 22);
}

bool decode_crypto_two(uint32_t word, struct insn *insn)
{
    static insn_handler *const handlers[3] = {run_sha1h, run_sha1su1, run_sha256su0};
    unsigned opcode = BITS(word, 16, 12);
    if (opcode > 2 || BITS(word, 23, 22))
        return false;
    insn->run = handlers[opcode];
    return true;
}
