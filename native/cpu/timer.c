/* The timers of EL1: the virtual and the physical one of each vCPU (DDI 0487 D11.2).
 *
 * A timer's line is a function of its registers and the counter. It is computed when a register is
 * written and when the counter reaches the next deadline, the earliest time at which any timer will
 * assert its line: run.c ends a slice there, so an interrupt comes at the exact instruction. */
#define _POSIX_C_SOURCE 199309L /* clock_gettime() */

#include <time.h>

#include "timer.h"

#define CTL_ENABLE 1ull
#define CTL_IMASK 2ull
#define CTL_ISTATUS 4ull

enum { HOST_NS_PER_TICK = 16 }; /* 62.5 MHz */

uint64_t host_ticks(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return ((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec) / HOST_NS_PER_TICK;
}

uint64_t timer_count(const struct vcpu *cpu, enum timer_kind kind)
{
    return counter(cpu) + (kind == TIMER_PHYSICAL ? cpu->machine->physical_ahead : 0);
}

uint64_t timer_control(const struct vcpu *cpu, enum timer_kind kind)
{
    const struct timer *timer = &cpu->timers[kind];
    bool is_met = (timer->control & CTL_ENABLE) && timer_count(cpu, kind) >= timer->compare;
    return timer->control | (is_met ? CTL_ISTATUS : 0);
}

/* When, in ticks of CNTVCT_EL0, the timer will assert its line by itself. */
static uint64_t deadline_of(const struct vcpu *cpu, enum timer_kind kind)
{
    const struct timer *timer = &cpu->timers[kind];
    uint64_t count = timer_count(cpu, kind), now = counter(cpu), left = timer->compare - count;
    if (timer->control != CTL_ENABLE || count >= timer->compare)
        return NO_DEADLINE;
    return left < NO_DEADLINE - now ? now + left : NO_DEADLINE;
}

/* An alarm that is due is not a deadline: run.c has yet to tell the caller. */
static void update_next_deadline(struct ta_machine *machine)
{
    machine->next_deadline = alarm_is_due(machine) ? NO_DEADLINE : machine->alarm;
    for (uint32_t i = 0; i < machine->vcpu_count; i++)
        for (unsigned kind = 0; kind < TIMERS; kind++) {
            uint64_t deadline = deadline_of(&machine->vcpus[i], kind);
            if (deadline < machine->next_deadline)
                machine->next_deadline = deadline;
        }
}

static void update_lines(struct vcpu *cpu)
{
    static const uint8_t intids[] = {[TIMER_VIRTUAL] = GIC_TIMER_VIRTUAL,
                                     [TIMER_PHYSICAL] = GIC_TIMER_PHYSICAL};
    for (unsigned kind = 0; cpu->machine->gic && kind < TIMERS; kind++)
        gic_set_private_level(cpu, intids[kind],
                              timer_control(cpu, kind) == (CTL_ENABLE | CTL_ISTATUS));
}

void update_timers(struct vcpu *cpu)
{
    update_next_deadline(cpu->machine); /* first: the host's clock goes on, and none may be lost */
    update_lines(cpu);
    cpu->slice_over = true; /* the present slice may be longer than the new deadline allows */
}

void update_all_timers(struct ta_machine *machine)
{
    update_next_deadline(machine);
    for (uint32_t i = 0; i < machine->vcpu_count; i++)
        update_lines(&machine->vcpus[i]);
}

/* --- the registers --- */

uint64_t read_counter(const struct vcpu *cpu, const struct sysreg *reg)
{
    (void)reg;
    return counter(cpu);
}

uint64_t read_physical_counter(const struct vcpu *cpu, const struct sysreg *reg)
{
    (void)reg;
    return timer_count(cpu, TIMER_PHYSICAL);
}

/* CRm is 2 in the encodings of the physical timer, 3 in those of the virtual one. */
static enum timer_kind timer_of(const struct sysreg *reg)
{
    return reg->encoding & 1u << 3 ? TIMER_VIRTUAL : TIMER_PHYSICAL;
}

uint64_t read_timer_control(const struct vcpu *cpu, const struct sysreg *reg)
{
    return timer_control(cpu, timer_of(reg));
}

void write_timer_control(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    cpu->timers[timer_of(reg)].control = value & (CTL_ENABLE | CTL_IMASK);
    update_timers(cpu);
}

uint64_t read_timer_compare(const struct vcpu *cpu, const struct sysreg *reg)
{
    return cpu->timers[timer_of(reg)].compare;
}

void write_timer_compare(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    cpu->timers[timer_of(reg)].compare = value;
    update_timers(cpu);
}

/* TVAL: what is left to the compare value, in 32 bits. */
uint64_t read_timer_value(const struct vcpu *cpu, const struct sysreg *reg)
{
    enum timer_kind kind = timer_of(reg);
    return (uint32_t)(cpu->timers[kind].compare - timer_count(cpu, kind));
}

void write_timer_value(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    enum timer_kind kind = timer_of(reg);
    write_timer_compare(cpu, reg, timer_count(cpu, kind) + (uint64_t)sign_extend(value, 32));
}

/* --- the library's entry points --- */

void ta_machine_follow_host_clock(struct ta_machine *machine, uint32_t follows)
{
    uint64_t now = machine_counter(machine);
    machine->follows_host_clock = follows != 0;
    machine->counter_offset += now - machine_counter(machine);
}

uint64_t ta_machine_counter(const struct ta_machine *machine)
{
    return machine_counter(machine);
}

void ta_machine_advance(struct ta_machine *machine, uint64_t ticks)
{
    machine->counter_offset += ticks;
}

bool alarm_is_due(const struct ta_machine *machine)
{
    return machine->alarm != NO_DEADLINE && machine->alarm <= machine_counter(machine);
}

void ta_machine_set_alarm(struct ta_machine *machine, uint64_t at)
{
    machine->alarm = at;
    update_all_timers(machine); /* by the host's clock a deadline may have passed meanwhile */
}
