/* Exclusives, ordered accesses, CAS and the LSE atomics (DDI 0487 C4.1.94).
 *
 * The vCPUs take turns in one thread, so that every instruction is atomic by itself; only
 * the exclusive monitors need care. */
#include "memory.h"

enum { PAIR_32 = 2, PAIR_64 = 3 }; /* insn->size of a pair's elements */

/* Finds the bytes of an aligned access, which therefore lie within one page. */
static uint8_t *locate(struct vcpu *cpu, const struct insn *insn, uint32_t bytes, unsigned flags)
{
    struct access access;
    if (!stack_is_aligned(cpu, insn) ||
        !resolve_ram(cpu, cpu->x[insn->rn], bytes, bytes,
                     flags | insn->flags | ACCESS_ALIGNED, &access))
        return NULL;
    return access.spans[0].data;
}

static void arm_monitor(struct vcpu *cpu, const uint8_t *data, uint32_t bytes)
{
    drop_monitor(cpu);
    cpu->monitor.data = data;
    cpu->monitor.bytes = bytes;
    cpu->machine->armed_monitors++;
}

static void run_load_exclusive(struct vcpu *cpu, const struct insn *insn)
{
    uint32_t bytes = 1u << insn->size;
    const uint8_t *data = locate(cpu, insn, bytes, ACCESS_READ);
    uint64_t value = 0;
    if (!data)
        return;
    arm_monitor(cpu, data, bytes);
    copy_small(&value, data, bytes);
    cpu->x[insn->rd] = value;
}

static void run_load_exclusive_pair(struct vcpu *cpu, const struct insn *insn)
{
    uint32_t bytes = 1u << insn->size;
    const uint8_t *data = locate(cpu, insn, 2 * bytes, ACCESS_READ);
    uint64_t first = 0, second = 0;
    if (!data)
        return;
    arm_monitor(cpu, data, 2 * bytes);
    copy_small(&first, data, bytes);
    copy_small(&second, data + bytes, bytes);
    cpu->x[insn->rd] = first;
    cpu->x[insn->ra] = second;
}

static void store_exclusive(struct vcpu *cpu, const struct insn *insn, const void *value,
                            uint32_t bytes)
{
    uint8_t *data = locate(cpu, insn, bytes, ACCESS_WRITE);
    if (!data)
        return;
    bool passes = cpu->monitor.data == data && cpu->monitor.bytes == bytes;
    drop_monitor(cpu);
    if (passes) {
        clear_monitors(cpu, data);
        copy_small(data, value, bytes);
    }
    cpu->x[insn->rm] = !passes;
}

static void run_store_exclusive(struct vcpu *cpu, const struct insn *insn)
{
    store_exclusive(cpu, insn, &cpu->x[insn->rd], 1u << insn->size);
}

static void run_store_exclusive_pair(struct vcpu *cpu, const struct insn *insn)
{
    uint32_t bytes = 1u << insn->size;
    uint8_t buffer[16];
    copy_small(buffer, &cpu->x[insn->rd], bytes);
    copy_small(buffer + bytes, &cpu->x[insn->ra], bytes);
    store_exclusive(cpu, insn, buffer, 2 * bytes);
}

static void run_load_ordered(struct vcpu *cpu, const struct insn *insn)
{
    uint32_t bytes = 1u << insn->size;
    uint64_t value = 0;
    if (stack_is_aligned(cpu, insn) &&
        read_memory(cpu, cpu->x[insn->rn], bytes, bytes, insn->flags | ACCESS_ALIGNED, &value))
        cpu->x[insn->rd] = value;
}

static void run_store_ordered(struct vcpu *cpu, const struct insn *insn)
{
    uint32_t bytes = 1u << insn->size;
    if (stack_is_aligned(cpu, insn))
        write_memory(cpu, cpu->x[insn->rn], bytes, bytes, insn->flags | ACCESS_ALIGNED,
                     &cpu->x[insn->rd]);
}

static void compare_and_swap(struct vcpu *cpu, uint8_t *data, const void *expected,
                             const void *desired, uint32_t bytes)
{
    if (memcmp(data, expected, bytes))
        return;
    clear_monitors(cpu, data);
    copy_small(data, desired, bytes);
}

static void run_cas(struct vcpu *cpu, const struct insn *insn)
{
    uint32_t bytes = 1u << insn->size;
    uint64_t old = 0, expected = cpu->x[insn->rm], desired = cpu->x[insn->rd];
    uint8_t *data = locate(cpu, insn, bytes, ACCESS_READ | ACCESS_WRITE);
    if (!data)
        return;
    copy_small(&old, data, bytes);
    compare_and_swap(cpu, data, &expected, &desired, bytes);
    cpu->x[insn->ra] = old;
}

/* Rs and Rt name even registers; each pair is that one and the next (31 is XZR). */
static void run_casp(struct vcpu *cpu, const struct insn *insn)
{
    uint32_t bytes = 1u << insn->size;
    unsigned s = BITS(insn->raw, 20, 16), t = BITS(insn->raw, 4, 0);
    uint8_t expected[16], desired[16], old[16];
    uint8_t *data = locate(cpu, insn, 2 * bytes, ACCESS_READ | ACCESS_WRITE);
    if (!data)
        return;
    for (unsigned i = 0; i < 2; i++) {
        copy_small(expected + i * bytes, &cpu->x[slot_source(s + i)], bytes);
        copy_small(desired + i * bytes, &cpu->x[slot_source(t + i)], bytes);
    }
    copy_small(old, data, 2 * bytes);
    compare_and_swap(cpu, data, expected, desired, 2 * bytes);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t value = 0;
        copy_small(&value, old + i * bytes, bytes);
        cpu->x[slot_target(s + i)] = value;
    }
}

static uint64_t combine(const struct insn *insn, uint64_t old, uint64_t operand)
{
    unsigned bits = 8u << insn->size;
    int64_t a = sign_extend(old, bits), b = sign_extend(operand, bits);
    uint64_t mask = bits == 64 ? ~0ull : (1ull << bits) - 1;
    switch (insn->shift) {
    case 0:
        return old + operand;
    case 1:
        return old & ~operand;
    case 2:
        return old ^ operand;
    case 3:
        return old | operand;
    case 4:
        return a > b ? old : operand;
    case 5:
        return a < b ? old : operand;
    case 6:
        return (old & mask) > (operand & mask) ? old : operand;
    case 7:
        return (old & mask) < (operand & mask) ? old : operand;
    default:
        return operand; /* SWP */
    }
}

static void run_atomic(struct vcpu *cpu, const struct insn *insn)
{
    uint32_t bytes = 1u << insn->size;
    uint64_t old = 0, operand = cpu->x[insn->rm], updated;
    uint8_t *data = locate(cpu, insn, bytes, ACCESS_READ | ACCESS_WRITE);
    if (!data)
        return;
    copy_small(&old, data, bytes);
    updated = combine(insn, old, operand);
    clear_monitors(cpu, data);
    copy_small(data, &updated, bytes);
    cpu->x[insn->rd] = old;
}

bool decode_atomic(uint32_t word, struct insn *insn)
{
    unsigned operation = BITS(word, 15, 12); /* o3:opc */
    insn->size = (uint8_t)BITS(word, 31, 30);
    insn->rn = slot_or_sp(BITS(word, 9, 5));
    insn->rd = slot_target(BITS(word, 4, 0));
    insn->rm = slot_source(BITS(word, 20, 16));
    if (operation == 12) { /* LDAPR */
        insn->flags = insn->rn == SLOT_SP ? ACCESS_UNCHECKED : 0;
        insn->run = run_load_ordered;
        return BITS(word, 23, 22) == 2 && BITS(word, 20, 16) == 31;
    }
    if (operation > 8)
        return false;
    insn->shift = (uint8_t)operation;
    insn->flags = insn->rn == SLOT_SP ? ACCESS_UNCHECKED : 0;
    insn->run = run_atomic;
    return true;
}

static bool decode_casp(uint32_t word, struct insn *insn)
{
    insn->size = BIT(word, 30) ? PAIR_64 : PAIR_32;
    insn->run = run_casp;
    return BITS(word, 14, 10) == 31 && !BIT(word, 16) && !BIT(word, 0);
}

/* By o2 (bit 23), L (22) and o1 (21); o0 and L of the others only order, which one thread
 * gives for nothing. */
bool decode_exclusive_and_ordered(uint32_t word, struct insn *insn)
{
    unsigned status = BITS(word, 20, 16), second = BITS(word, 14, 10), target = BITS(word, 4, 0);
    bool is_load = BIT(word, 22);
    insn->size = (uint8_t)BITS(word, 31, 30);
    insn->rn = slot_or_sp(BITS(word, 9, 5));
    insn->flags = insn->rn == SLOT_SP ? ACCESS_UNCHECKED : 0; /* [SP] is [SP, #0] */
    insn->rd = is_load ? slot_target(target) : slot_source(target);
    insn->ra = is_load ? slot_target(second) : slot_source(second);
    insn->rm = slot_target(status);
    switch (BIT(word, 23) << 1 | BIT(word, 21)) {
    case 0:
        insn->run = is_load ? run_load_exclusive : run_store_exclusive;
        return true;
    case 1:
        if (insn->size < PAIR_32)
            return decode_casp(word, insn);
        insn->run = is_load ? run_load_exclusive_pair : run_store_exclusive_pair;
        return true;
    case 2:
        insn->run = is_load ? run_load_ordered : run_store_ordered;
        return true;
    default:
        insn->rd = slot_source(target);
        insn->rm = slot_source(status);
        insn->ra = slot_target(status);
        insn->run = run_cas;
        return second == 31;
    }
}
