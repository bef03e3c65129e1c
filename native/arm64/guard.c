/* Runs the routines of routines.S so that a fault in them is a value.
 *
 * One handler for SIGSEGV and SIGBUS, for the whole process; it passes other faults on to the
 * previous handler. A thread in a guarded call (guard.S) has a struct guard; if it faults in a
 * routine, the handler records the signal and makes the thread continue at the end of the guarded
 * call, with SP and PSTATE.TCO as they were. Nothing is unwound and no lock is held, so this works
 * in any thread and at any instruction.
 *
 * What a call switches (the thread's prctl, its signal mask, its alternate stack) is switched and
 * restored here in C, around the guarded part: a Python exception could otherwise come between
 * the two and leave the thread switched.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <ucontext.h>

#include "tagalong.h"

#define HWCAP2_MTE_BIT (1UL << 18)
#define PSTATE_TCO (1UL << 25)
#define AUX_MINSIGSTKSZ 51

#define SET_TAGGED_ADDR_CTRL 55
#define GET_TAGGED_ADDR_CTRL 56
#define TCF_MASK (3UL << 1)

/* A signal frame holds all of the CPU's vector state; the handler itself needs little. */
#define FRAME_BYTES_AT_LEAST 8192
#define HANDLER_BYTES 16384

struct guard {
    uint64_t sp, landing; /* set by ta_guard_enter: keep them first */
    uint64_t tco;
    struct ta_call *call;
};

extern uint64_t ta_guard_enter(struct guard *guard, const void *routine,
                               const uint64_t *arguments);
extern const char ta_guard_end[], ta_routines_start[], ta_routines_end[];

static const int signals[] = {SIGSEGV, SIGBUS};
static struct sigaction previous[2];
static pthread_mutex_t installing = PTHREAD_MUTEX_INITIALIZER;

/* initial-exec: reading it in a handler allocates nothing. */
static __thread struct guard *volatile current __attribute__((tls_model("initial-exec")));

const void *ta_routines(void) {
    return ta_routines_start;
}

uint64_t ta_routines_bytes(void) {
    return ta_routines_end - ta_routines_start;
}

static bool has_mte(void) {
    return getauxval(AT_HWCAP2) & HWCAP2_MTE_BIT;
}

static uint64_t read_tco(void) {
    uint64_t tco = 0;
    if (has_mte())
        __asm__ volatile(".arch armv8.5-a+memtag\n\tmrs %0, tco" : "=r"(tco));
    return tco;
}

/* Only faults of the routines and of ta_guard_enter count: not those of a signal handler that
 * interrupts them, and not a signal that a process sent (si_code <= 0). */
static bool is_ours(const siginfo_t *info, uint64_t pc) {
    uint64_t routines = (uint64_t)ta_routines();
    bool in_routines = pc - routines < ta_routines_bytes();
    uint64_t entry = (uint64_t)ta_guard_enter;
    bool in_entry = pc - entry < (uint64_t)ta_guard_end - entry;
    return current && info->si_code > 0 && (in_routines || in_entry);
}

static void note(struct ta_call *call, int number, const siginfo_t *info,
                 const mcontext_t *context) {
    uint64_t routines = (uint64_t)ta_routines();
    uint64_t pc = context->pc;
    call->signal = number;
    call->code = info->si_code;
    call->address = (uint64_t)info->si_addr;
    call->pc = pc - routines < ta_routines_bytes() ? pc - routines : pc;
    call->sp = context->sp;
    call->pstate = context->pstate;
}

static void pass_on(int number, siginfo_t *info, void *context) {
    const struct sigaction *other = &previous[number == SIGBUS];
    if (other->sa_flags & SA_SIGINFO) {
        other->sa_sigaction(number, info, context);
    } else if (other->sa_handler != SIG_DFL && other->sa_handler != SIG_IGN) {
        other->sa_handler(number);
    } else if (info->si_code > 0 || other->sa_handler == SIG_DFL) {
        /* The kernel's own faults cannot be ignored. It is pending until we return. */
        signal(number, SIG_DFL);
        raise(number);
    }
}

static void on_fault(int number, siginfo_t *info, void *context) {
    mcontext_t *machine = &((ucontext_t *)context)->uc_mcontext;
    int saved = errno;
    if (!is_ours(info, machine->pc)) {
        pass_on(number, info, context);
        errno = saved;
        return;
    }
    struct guard *guard = current;
    note(guard->call, number, info, machine);
    machine->pc = guard->landing;
    machine->sp = guard->sp;
    machine->regs[0] = 0;
    machine->pstate = (machine->pstate & ~PSTATE_TCO) | guard->tco;
}

/* Other code installs handlers too (Python's faulthandler), so this looks each time. Its system
 * calls also report an asynchronous fault of what ran before, outside the guarded call. */
static int install(struct ta_call *call) {
    int error = 0;
    for (int i = 0; i < 2 && !error; i++) {
        struct sigaction now;
        call->system_calls++;
        if (sigaction(signals[i], NULL, &now))
            return errno;
        if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_fault)
            continue;
        struct sigaction ours = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
        sigemptyset(&ours.sa_mask);
        pthread_mutex_lock(&installing);
        call->system_calls++;
        previous[i] = now;
        if (sigaction(signals[i], &ours, NULL))
            error = errno;
        pthread_mutex_unlock(&installing);
    }
    return error;
}

static void enter(struct ta_call *call) {
    struct guard guard = {.tco = read_tco(), .call = call};
    const char *routine = (const char *)ta_routines() + call->routine;
    current = &guard;
    __asm__ volatile("" ::: "memory");
    call->value = ta_guard_enter(&guard, routine, call->arguments);
    __asm__ volatile("" ::: "memory");
    current = NULL;
    call->system_calls++; /* ta_guard_enter's own */
}

/* The routine moves SP off the stack, so the fault handler needs a stack of its own. */
static int enter_with_stack_apart(struct ta_call *call) {
    size_t frame_bytes = getauxval(AUX_MINSIGSTKSZ);
    if (frame_bytes < FRAME_BYTES_AT_LEAST)
        frame_bytes = FRAME_BYTES_AT_LEAST;
    size_t bytes = frame_bytes + HANDLER_BYTES;
    stack_t ours = {.ss_sp = __builtin_alloca(bytes), .ss_size = bytes}, before;
    call->system_calls += 2;
    if (sigaltstack(&ours, &before))
        return errno;
    enter(call);
    return sigaltstack(&before, NULL) ? errno : 0;
}

/* The kernel ends a process that faults while it blocks the signal, and a thread may come
 * here with all signals blocked. With SP apart every other signal has to wait. */
static int enter_with_mask(struct ta_call *call) {
    sigset_t faults, others, before;
    sigemptyset(&faults);
    sigfillset(&others);
    for (int i = 0; i < 2; i++) {
        sigaddset(&faults, signals[i]);
        sigdelset(&others, signals[i]);
    }
    bool apart = call->flags & TA_CALL_STACK_APART;
    call->system_calls += 2;
    int error = pthread_sigmask(apart ? SIG_SETMASK : SIG_UNBLOCK, apart ? &others : &faults,
                                &before);
    if (error)
        return error;
    if (apart)
        error = enter_with_stack_apart(call);
    else
        enter(call);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static int enter_unchecked(struct ta_call *call) {
    long before = prctl(GET_TAGGED_ADDR_CTRL, 0, 0, 0, 0);
    call->system_calls += 3;
    if (before < 0 || prctl(SET_TAGGED_ADDR_CTRL, before & ~TCF_MASK, 0, 0, 0))
        return errno;
    int error = enter_with_mask(call);
    if (prctl(SET_TAGGED_ADDR_CTRL, before, 0, 0, 0))
        return errno;
    return error;
}

int ta_call_guarded(struct ta_call *call) {
    call->signal = 0;
    call->system_calls = 0;
    if (current)
        return EBUSY; /* from a signal handler that interrupted a routine */
    int error = install(call);
    if (error)
        return error;
    return call->flags & TA_CALL_CHECKS_OFF ? enter_unchecked(call) : enter_with_mask(call);
}
