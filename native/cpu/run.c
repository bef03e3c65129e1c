/* The loop, and whose turn it is.
 *
 * All vCPUs of a machine run in the one thread that calls ta_machine_run, each for a turn
 * whose length comes from the machine's seed. What a turn has left survives every return to
 * the caller, so that pausing, MMIO and the size of the budget do not change the order in
 * which the vCPUs' instructions interleave: the same seed gives the same run. */
#include "cpu.h"

enum { TURN_MIN = 2000, TURN_SPREAD = 8192, SLICE = 4096 };

static uint64_t next_random(struct ta_machine *machine)
{
    uint64_t x = machine->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return machine->random = x;
}

/* Runs until `count` instructions are done or the vCPU has a reason to leave; returns how
 * many were executed. Instructions are kept decoded by their address and checked against
 * the word that memory holds now: code that changes needs no invalidation. */
uint64_t run_slice(struct vcpu *cpu, uint64_t count)
{
    uint64_t start = cpu->instructions; /* exact at each instruction: it is the counter too */
    for (; cpu->instructions - start < count; cpu->instructions++) {
        uint64_t pc = cpu->pc;
        if (unlikely((pc & (PAGE_MASK | 3)) != cpu->fetch_page) && !fetch_page(cpu)) {
            cpu->pc = cpu->next_pc;
            continue;
        }
        uint32_t word;
        memcpy(&word, cpu->fetch_data + (pc & (PAGE_BYTES - 1)), 4);
        struct insn *insn = &cpu->cache[pc >> 2 & (INSN_CACHE_ENTRIES - 1)];
        if (unlikely(insn->raw != word))
            decode(word, insn);
        cpu->next_pc = pc + 4;
        insn->run(cpu, insn);
        cpu->pc = cpu->next_pc;
        if (unlikely(cpu->exit_reason || cpu->turn_over)) {
            cpu->instructions++;
            break;
        }
    }
    return cpu->instructions - start;
}

static void fill_exit(const struct vcpu *cpu, uint32_t reason, struct ta_exit *exit)
{
    *exit = (struct ta_exit){.reason = reason, .vcpu = cpu->index, .pc = cpu->pc};
    if (reason == TA_EXIT_MMIO) {
        exit->mmio_gpa = cpu->mmio.gpa;
        exit->mmio_size = cpu->mmio.size;
        exit->mmio_data = cpu->mmio.data;
        exit->mmio_is_write = cpu->mmio.is_write;
    }
    uint64_t at = reason == TA_EXIT_HVC ? cpu->pc - 4 : cpu->pc;
    if ((reason == TA_EXIT_HVC || reason == TA_EXIT_UNSUPPORTED) &&
        (at & PAGE_MASK) == cpu->fetch_page)
        memcpy(&exit->insn, cpu->fetch_data + (at & (PAGE_BYTES - 1)), 4);
}

/* An instruction that leaves for MMIO or is unsupported was not executed: it does not count. */
static uint64_t leave(struct vcpu *cpu, uint64_t done, struct ta_exit *exit)
{
    uint32_t reason = cpu->exit_reason;
    cpu->exit_reason = 0;
    if (reason != TA_EXIT_HVC) {
        cpu->instructions--;
        done--;
    }
    fill_exit(cpu, reason, exit);
    return done;
}

/* Gives the turn to the next vCPU that is on. False if all of them are waiting: nothing will
 * happen before the caller has slept a little or changed something. */
static bool next_turn(struct ta_machine *machine)
{
    struct vcpu *last = &machine->vcpus[machine->turn];
    uint32_t powered = 0;
    machine->idle_turns = last->waiting ? machine->idle_turns + 1 : 0;
    last->waiting = false;
    for (uint32_t i = 0; i < machine->vcpu_count; i++)
        powered += machine->vcpus[i].powered;
    for (uint32_t i = 1; i <= machine->vcpu_count; i++) {
        uint32_t candidate = (machine->turn + i) % machine->vcpu_count;
        if (machine->vcpus[candidate].powered) {
            machine->turn = candidate;
            break;
        }
    }
    machine->turn_left = TURN_MIN + next_random(machine) % TURN_SPREAD;
    if (machine->idle_turns < powered)
        return true;
    machine->idle_turns = 0;
    return false;
}

static bool take_interrupt(struct ta_machine *machine)
{
    return __atomic_load_n(&machine->interrupted, __ATOMIC_RELAXED) &&
           __atomic_exchange_n(&machine->interrupted, 0, __ATOMIC_ACQUIRE);
}

void ta_machine_run(struct ta_machine *machine, uint64_t budget, struct ta_exit *exit)
{
    struct vcpu *cpu = &machine->vcpus[machine->turn];
    while (budget) {
        if (take_interrupt(machine)) {
            fill_exit(cpu, TA_EXIT_INTERRUPTED, exit);
            return;
        }
        cpu = &machine->vcpus[machine->turn];
        if (!machine->turn_left || !cpu->powered) {
            if (!next_turn(machine)) {
                fill_exit(cpu, TA_EXIT_IDLE, exit);
                return;
            }
            continue;
        }
        uint64_t slice = machine->turn_left < SLICE ? machine->turn_left : SLICE;
        uint64_t done = run_slice(cpu, slice < budget ? slice : budget);
        bool leaves = cpu->exit_reason != 0;
        if (leaves)
            done = leave(cpu, done, exit);
        budget -= done;
        machine->turn_left -= cpu->turn_over ? machine->turn_left : done;
        cpu->turn_over = false;
        if (leaves)
            return;
    }
    fill_exit(cpu, TA_EXIT_BUDGET, exit);
}

void ta_vcpu_step(struct ta_machine *machine, uint32_t index, uint64_t count,
                  struct ta_exit *exit)
{
    *exit = (struct ta_exit){.reason = TA_EXIT_IDLE, .vcpu = index};
    if (index >= machine->vcpu_count || !machine->vcpus[index].powered)
        return;
    struct vcpu *cpu = &machine->vcpus[index];
    while (count) {
        uint64_t done = run_slice(cpu, count);
        cpu->turn_over = cpu->waiting = false;
        if (cpu->exit_reason) {
            leave(cpu, done, exit);
            return;
        }
        count -= done;
    }
    fill_exit(cpu, TA_EXIT_BUDGET, exit);
}
