/* The loop, the vCPUs' turns, and time.
 *
 * All vCPUs of a machine run in the one thread that calls ta_machine_run, each for a turn
 * whose length comes from the machine's seed. What a turn has left survives every return to
 * the caller, so that pausing, MMIO and the size of the budget do not change the order in
 * which the vCPUs' instructions interleave: the same seed gives the same run. One thread also
 * means that atomics need no host atomics, and that a harvest of the dirty log, which happens
 * between two calls, cannot fall between a store and its mark.
 *
 * The counter (CNTVCT_EL0) is the number of instructions that all vCPUs have executed, plus the
 * time that they waited: when all of them wait and a timer will end that, the counter jumps to it.
 * So time is exact at every instruction and part of the same deterministic run: a timer always
 * fires at the same instruction. The loop gets that for nothing: it never starts a slice that is
 * longer than the time to the next deadline. A machine that follows the host's clock looks at it
 * between two slices instead, and leaves waiting to the caller.
 *
 * Interrupts are taken between slices only, so that the fast path has one flag to look at
 * (slice_over). Whatever may let an interrupt through (MSR DAIF, ERET) sets that flag; a line that
 * another thread raises is seen when the present slice ends, 4096 instructions later at most. */
#include "memory.h"

enum { TURN_MIN = 2000, TURN_SPREAD = 8192, SLICE = 4096 };
enum { EVENT_TICKS = 62500 }; /* 1 ms: a vCPU that waits in WFE looks again after that */

static uint64_t next_random(struct ta_machine *machine)
{
    uint64_t x = machine->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return machine->random = x;
}

/* Returns `target`, but so that the processor guesses from the program's history that it is the next
 * instruction, and goes on with that, instead of waiting for what the handler has just stored: a
 * store and a load for each instruction, one after the other, were the loop's longest chain. */
ALWAYS_INLINE uint64_t follow(uint64_t next, uint64_t target)
{
    if (likely(next == target)) {
        __asm__("" : "+r"(next)); /* or the compiler sees that both are the same */
        return next;
    }
    return target;
}

/* Runs until `count` instructions are done or one of them ends the slice; returns how many were
 * executed. The cache of decoded instructions is indexed by address, but an entry is valid only
 * for the word that memory holds now: decoding is a pure function of the word. So a guest that
 * changes its code needs no invalidation here, whether by its own stores, the host's or a
 * migration's, and there is no coherence to get wrong; the price is one compare. */
uint64_t run_plainly(struct vcpu *cpu, uint64_t count)
{
    uint64_t start = cpu->instructions, now = start, end = start + count, pc = cpu->pc;
    cpu->slice_over = false;
    while (now != end) {
        if (unlikely((pc & (PAGE_MASK | 3)) != cpu->fetch_page) && !fetch_page(cpu)) {
            pc = cpu->pc = cpu->next_pc;
            cpu->instructions = ++now;
            continue;
        }
        uint32_t word;
        memcpy(&word, cpu->fetch_data + (pc & (PAGE_BYTES - 1)), 4);
        struct insn *insn = &cpu->cache[pc >> 2 & (INSN_CACHE_ENTRIES - 1)];
        if (unlikely(insn->raw != word))
            decode(word, insn);
        cpu->next_pc = pc + 4;
        insn->run(cpu, insn);
        pc = follow(pc + 4, cpu->next_pc);
        cpu->pc = pc;
        cpu->instructions = ++now; /* exact at each instruction: the counter needs it */
        if (unlikely(cpu->slice_over))
            break;
    }
    count_instructions(cpu);
    return now - start;
}

uint64_t run_slice(struct vcpu *cpu, uint64_t count)
{
    return unlikely(cpu->machine->is_plain) ? run_plainly(cpu, count) : run_threaded(cpu, count);
}

static void fill_exit(const struct vcpu *cpu, uint32_t reason, struct ta_exit *exit)
{
    *exit = (struct ta_exit){.reason = reason, .vcpu = cpu->index, .pc = cpu->pc};
    if (reason == TA_EXIT_MMIO) {
        exit->mmio_gpa = cpu->mmio.gpa;
        exit->mmio_size = cpu->mmio.size;
        exit->mmio_window = cpu->mmio.window;
        exit->mmio_data = cpu->mmio.data;
        exit->mmio_is_write = cpu->mmio.is_write;
    }
    if (reason == TA_EXIT_HVC || reason == TA_EXIT_UNSUPPORTED)
        exit->insn = cpu->exit_word;
}

/* An instruction that leaves for MMIO or is unsupported was not executed: it does not count. */
uint64_t leave_slice(struct vcpu *cpu, uint64_t done, struct ta_exit *exit)
{
    uint32_t reason = cpu->exit_reason;
    cpu->exit_reason = 0;
    if (reason != TA_EXIT_HVC) {
        cpu->instructions--;
        count_instructions(cpu);
        done--;
    }
    fill_exit(cpu, reason, exit);
    return done;
}

static bool is_runnable(const struct vcpu *cpu)
{
    return cpu->powered && (cpu->waiting != WAITING_FOR_INTERRUPT || interrupt_lines(cpu));
}

/* Gives the turn to the next vCPU that can run. False if there is none, or if all that can have
 * ended their last turn in WFE: nothing will happen before time passes or the caller changes
 * something. A turn that ended in WFI says nothing about the others, which may still run. */
static bool next_turn(struct ta_machine *machine)
{
    const struct vcpu *last = &machine->vcpus[machine->turn];
    uint32_t runnable = 0, next = machine->turn;
    if (last->waiting == WAITING_FOR_EVENT)
        machine->idle_turns++;
    else if (last->waiting == WAITING_FOR_NOTHING)
        machine->idle_turns = 0;
    for (uint32_t i = machine->vcpu_count; i >= 1; i--) {
        uint32_t candidate = (machine->turn + i) % machine->vcpu_count;
        if (is_runnable(&machine->vcpus[candidate])) {
            runnable++;
            next = candidate;
        }
    }
    bool idle = machine->idle_turns >= runnable; /* also if nothing is runnable */
    if (idle)
        machine->idle_turns = 0;
    if (runnable) {
        machine->turn = next;
        machine->turn_left = TURN_MIN + next_random(machine) % TURN_SPREAD;
    }
    return !idle;
}

/* How long the caller may sleep before it runs the machine again, if nothing else happens. */
static uint64_t idle_ticks(const struct ta_machine *machine)
{
    uint64_t now = machine_counter(machine), ticks = NO_DEADLINE;
    if (machine->next_deadline != NO_DEADLINE)
        ticks = machine->next_deadline > now ? machine->next_deadline - now : 0;
    for (uint32_t i = 0; i < machine->vcpu_count; i++)
        if (machine->vcpus[i].powered && machine->vcpus[i].waiting == WAITING_FOR_EVENT &&
            ticks > EVENT_TICKS)
            ticks = EVENT_TICKS;
    return ticks;
}

/* Lets the time pass that all vCPUs wait for a timer. False if it is the caller that has to wait. */
static bool skip_idle_time(struct ta_machine *machine)
{
    if (machine->follows_host_clock || machine->next_deadline == NO_DEADLINE)
        return false;
    ta_machine_advance(machine, idle_ticks(machine));
    return true;
}

static bool take_interruption(struct ta_machine *machine)
{
    return __atomic_load_n(&machine->interrupted, __ATOMIC_RELAXED) &&
           __atomic_exchange_n(&machine->interrupted, 0, __ATOMIC_ACQUIRE);
}

void take_events(struct ta_machine *machine)
{
    gic_take_inputs(machine);
    if (machine->next_deadline != NO_DEADLINE &&
        machine->next_deadline <= machine_counter(machine))
        update_all_timers(machine);
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Runs the vCPU for at most `count` instructions, to the next deadline at most; an interrupt that
 * is pending and not masked comes first. */
static uint64_t run_until(struct vcpu *cpu, uint64_t count)
{
    const struct ta_machine *machine = cpu->machine;
    cpu->waiting = WAITING_FOR_NOTHING;
    take_interrupt(cpu);
    if (unlikely(is_stepping(cpu)))
        return run_step(cpu);
    if (!machine->follows_host_clock)
        count = least(count, machine->next_deadline - machine_counter(machine));
    return run_slice(cpu, count);
}

void ta_machine_run(struct ta_machine *machine, uint64_t budget, struct ta_exit *exit)
{
    struct vcpu *cpu = &machine->vcpus[machine->turn];
    while (budget) {
        if (take_interruption(machine)) {
            fill_exit(cpu, TA_EXIT_INTERRUPTED, exit);
            return;
        }
        take_events(machine);
        cpu = &machine->vcpus[machine->turn];
        if (unlikely(alarm_is_due(machine))) {
            machine->alarm = NO_DEADLINE;
            fill_exit(cpu, TA_EXIT_ALARM, exit);
            return;
        }
        if (!machine->turn_left || !is_runnable(cpu)) {
            if (!next_turn(machine) && !skip_idle_time(machine)) {
                fill_exit(cpu, TA_EXIT_IDLE, exit);
                exit->idle_ticks = idle_ticks(machine);
                return;
            }
            continue;
        }
        uint64_t slice = least(machine->turn_left, least(SLICE, budget));
        uint64_t done = run_until(cpu, slice);
        bool leaves = cpu->exit_reason != 0;
        if (leaves)
            done = leave_slice(cpu, done, exit);
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
        take_events(machine);
        uint64_t done = run_until(cpu, least(count, SLICE));
        cpu->turn_over = false;
        cpu->waiting = WAITING_FOR_NOTHING;
        if (cpu->exit_reason) {
            leave_slice(cpu, done, exit);
            return;
        }
        count -= done;
    }
    fill_exit(cpu, TA_EXIT_BUDGET, exit);
}
