/* ticks: interrupts and time, counted.
 *
 * Each vCPU has a timer that ticks: when its deadline is reached the interrupt comes, once, and the
 * next deadline is a period later. A tick sends an SGI to the next vCPU, which must have taken the
 * one before, and every few ticks vCPU 0 raises the console's interrupt, which goes to the last
 * vCPU. A vCPU that counts an interrupt without a cause, misses one for too long, or reads a
 * counter that went back, says so and ends the program. */
#include "boot.h"
#include "console.h"
#include "gic.h"
#include "layout.h"
#include "sysreg.h"
#include "vcpu.h"

#define VECTOR_EL1H_IRQ 5

#define UART_IMSC 0x38
#define UART_RIS 0x3c
#define UART_ICR 0x44
#define UART_TRANSMIT (1u << 5)

#define CTL_ENABLE 1
#define CTL_STATUS 4

#define TICKS_PER_SPI 4
#define TICKS_PER_LINE 64
#define LONGEST_WAIT_S 60 /* in the guest's time, which stands while the VM is paused */

struct counts {
    u64 armed, ticks;             /* deadlines set, and reached */
    u64 sgis_sent, sgis_received; /* to this vCPU */
    u64 sgi_sent_at;
} __attribute__((aligned(64)));

static struct counts counts[MAX_VCPUS];
static u64 spis_raised, spis_taken, spi_raised_at;
static u64 latest; /* what any vCPU read from the counter last */
static u64 vcpu_count, ticks_wanted, period, active_time, frequency;
static u32 failed;

static volatile u32 *uart(unsigned offset) {
    return (volatile u32 *)(UART_GPA + (u64)offset);
}

static u64 load(const u64 *place) {
    return __atomic_load_n(place, __ATOMIC_ACQUIRE);
}

static void store(u64 *place, u64 value) {
    __atomic_store_n(place, value, __ATOMIC_RELEASE);
}

_Noreturn static void fail(const char *what, u64 found, u64 expected) {
    if (!__atomic_exchange_n(&failed, 1, __ATOMIC_ACQ_REL)) {
        console_line("ticks: FAIL vCPU %lu: %s: %lu, expected %lu", this_vcpu()->index, what, found,
                     expected);
        guest_end(GUEST_FAILED);
    }
    for (;;)
        cpu_relax();
}

/* The time, which no vCPU may see earlier than another one has. */
static u64 time_now(void) {
    u64 before = load(&latest);
    barrier_all();
    u64 now = SYSREG_READ(cntvct_el0);
    if (now < before)
        fail("the counter went back", now, before);
    while (before < now && !__atomic_compare_exchange_n(&latest, &before, now, false,
                                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        cpu_relax();
    return now;
}

static void require_soon(const char *what, u64 since, u64 count, u64 expected) {
    if (time_now() - since > LONGEST_WAIT_S * frequency)
        fail(what, count, expected);
}

static void arm(struct counts *own) {
    own->armed++;
    SYSREG_WRITE(cntv_cval_el0, time_now() + period);
    SYSREG_WRITE(cntv_ctl_el0, CTL_ENABLE);
}

static void send_sgi(u64 vcpu) {
    struct counts *theirs = &counts[vcpu];
    u64 sent = load(&theirs->sgis_sent), received = load(&theirs->sgis_received);
    if (received != sent) { /* an SGI that is pending still would swallow another one */
        require_soon("SGIs received", load(&theirs->sgi_sent_at), received, sent);
        return;
    }
    store(&theirs->sgi_sent_at, time_now());
    store(&theirs->sgis_sent, sent + 1);
    gic_send(vcpu);
}

static void raise_spi(void) {
    u64 raised = load(&spis_raised), taken = load(&spis_taken);
    if (taken != raised) {
        require_soon("console interrupts taken", load(&spi_raised_at), taken, raised);
        return;
    }
    store(&spi_raised_at, time_now());
    store(&spis_raised, raised + 1);
    barrier_all();
    *uart(UART_IMSC) = UART_TRANSMIT;
}

static void report(const char *how) {
    u64 ticks = 0, sgis = 0;
    for (u64 vcpu = 0; vcpu < vcpu_count; vcpu++) {
        ticks += load(&counts[vcpu].ticks);
        sgis += load(&counts[vcpu].sgis_received);
    }
    console_line("ticks: %s%lu ticks, %lu SGIs, %lu console interrupts", how, ticks, sgis,
                 load(&spis_taken));
}

static void tick(u64 vcpu, struct counts *own) {
    u64 control = SYSREG_READ(cntv_ctl_el0), deadline = SYSREG_READ(cntv_cval_el0);
    if (own->ticks + 1 != own->armed || !(control & CTL_STATUS))
        fail("ticks without a deadline", own->ticks + 1, own->armed);
    if (time_now() < deadline)
        fail("time of a tick", time_now(), deadline);
    store(&own->ticks, own->ticks + 1);
    if (own->ticks == ticks_wanted) {
        SYSREG_WRITE(cntv_ctl_el0, 0);
        return;
    }
    arm(own);
    send_sgi((vcpu + 1) % vcpu_count);
    if (vcpu == 0 && own->ticks % TICKS_PER_SPI == 0)
        raise_spi();
}

/* Stays in the handler for a while: so a VM that is paused often has an active interrupt. */
static void stay_active(void) {
    for (u64 end = time_now() + active_time; time_now() < end;)
        cpu_relax();
}

static void take_sgi(struct counts *own) {
    u64 received = own->sgis_received + 1;
    stay_active();
    if (received > load(&own->sgis_sent))
        fail("SGIs received", received, load(&own->sgis_sent));
    store(&own->sgis_received, received);
}

static void take_spi(void) {
    u64 taken = load(&spis_taken) + 1;
    *uart(UART_IMSC) = 0;
    barrier_all();
    stay_active();
    if (taken > load(&spis_raised))
        fail("console interrupts taken", taken, load(&spis_raised));
    store(&spis_taken, taken);
}

void unexpected_exception(struct frame *frame) {
    u64 vcpu = this_vcpu()->index;
    if (frame->vector != VECTOR_EL1H_IRQ) {
        console_line("ticks: FAIL unexpected exception esr=%#lx far=%#lx elr=%#lx", frame->esr,
                     frame->far, frame->elr);
        guest_end(GUEST_FAILED);
    }
    u64 intid = gic_acknowledge();
    switch (intid) {
    case SGI_TURN:
        take_sgi(&counts[vcpu]);
        break;
    case PPI_TIMER:
        tick(vcpu, &counts[vcpu]);
        break;
    case SPI_UART:
        if (vcpu != vcpu_count - 1)
            fail("vCPU of the console's interrupt", vcpu, vcpu_count - 1);
        take_spi();
        break;
    default:
        if (intid < NO_INTERRUPT)
            fail("interrupt", intid, NO_INTERRUPT);
        return; /* it was withdrawn before it was taken */
    }
    gic_end(intid);
}

static bool is_done(u64 vcpu) {
    return ticks_wanted && load(&counts[vcpu].ticks) == ticks_wanted &&
           load(&counts[vcpu].sgis_received) == load(&counts[vcpu].sgis_sent);
}

/* Waits for an interrupt unless `wakes` is true; interrupts are masked around it. */
static void wait_unless(bool wakes) {
    if (!wakes)
        __asm__ volatile("wfi" : : : "memory");
    __asm__ volatile("msr daifclr, #2\n\tisb\n\tmsr daifset, #2" : : : "memory");
}

static void start(u64 vcpu) {
    gic_start_vcpu(vcpu);
    __asm__ volatile("msr daifset, #2" : : : "memory");
    arm(&counts[vcpu]);
}

static void secondary(u64 vcpu) {
    start(vcpu);
    for (;;) /* to the end: the others may have an SGI for it */
        wait_unless(false);
}

static bool all_done(void) {
    for (u64 vcpu = 0; vcpu < vcpu_count; vcpu++)
        if (!is_done(vcpu))
            return false;
    return load(&spis_taken) == load(&spis_raised);
}

static void require_progress(u64 *ticks_before, u64 *since) {
    for (u64 vcpu = 0; vcpu < vcpu_count; vcpu++) {
        u64 ticks = load(&counts[vcpu].ticks);
        if (ticks != ticks_before[vcpu] || ticks == ticks_wanted) {
            ticks_before[vcpu] = ticks;
            since[vcpu] = time_now();
        }
        require_soon("ticks of a vCPU", since[vcpu], ticks, ticks + 1);
    }
}

static void run(void) {
    u64 before[MAX_VCPUS], since[MAX_VCPUS], reported = 0;
    for (u64 vcpu = 0; vcpu < vcpu_count; vcpu++)
        before[vcpu] = ~0UL;
    for (bool done = false; !done; done = all_done()) {
        wait_unless(is_done(0));
        require_progress(before, since);
        u64 ticks = load(&counts[0].ticks);
        if (ticks / TICKS_PER_LINE > reported) {
            reported = ticks / TICKS_PER_LINE;
            report("");
        }
    }
}

void main(const struct boot *boot) {
    u64 period_us = 1000, active_us = 100;
    const struct knob knobs[] = {
        {"ticks", &ticks_wanted, 0, 1UL << 32, NULL},
        {"period-us", &period_us, 10, 1000000, NULL},
        {"active-us", &active_us, 0, 1000000, NULL},
    };
    knobs_read("ticks", boot->command_line, knobs, COUNT(knobs));
    if (!gic_present()) {
        console_line("ticks: this machine has no GICv3");
        guest_end(GUEST_MISUSED);
    }
    frequency = SYSREG_READ(cntfrq_el0);
    period = period_us * frequency / 1000000;
    active_time = active_us * frequency / 1000000;
    vcpu_count = boot->vcpu_count;
    /* The first output leaves the transmit interrupt pending in the UART, masked there. */
    console_line("ticks: %lu vCPUs, a tick per %lu us, a counter of %lu Hz", vcpu_count, period_us,
                 frequency);
    gic_start_distributor(vcpu_count - 1);
    start(0);
    u64 started = vcpus_start(vcpu_count, secondary);
    if (started != vcpu_count)
        fail("vCPUs that run", started, vcpu_count);
    run();
    report("PASS ");
}
