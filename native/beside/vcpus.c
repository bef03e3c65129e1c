/* The vCPUs: how many are in the guest, how often they entered it, and the hold that keeps them out.
 */
#define _GNU_SOURCE
#include "beside.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define HOLD_POLL_NS 2000000L

static atomic_uint vcpus_running;
static atomic_ulong runs;

/* Why the vCPUs are held, if they are: their tags are awaited, their registers are read, or the
 * process ends. */
enum { FOR_TAGS = 1, FOR_REGISTERS = 2, FOR_END = 4 };
static atomic_uint holds;

void tb_read_vcpus(struct tb_state *state) {
    state->flags |= atomic_load(&holds) & FOR_TAGS ? TB_HELD : 0;
    state->flags |= atomic_load(&holds) & FOR_END ? TB_ENDING : 0;
    state->vcpus_running = atomic_load(&vcpus_running);
    state->runs = atomic_load(&runs);
}

void tb_hold(bool held) {
    if (held)
        atomic_fetch_or(&holds, FOR_TAGS);
    else
        atomic_fetch_and(&holds, ~(unsigned)FOR_TAGS);
}

void tb_hold_for_end(void) {
    atomic_fetch_or(&holds, FOR_END);
}

bool tb_hold_for_registers(void) {
    atomic_fetch_or(&holds, FOR_REGISTERS);
    if (!atomic_load(&vcpus_running))
        return true;
    tb_release_for_registers();
    return false;
}

void tb_release_for_registers(void) {
    atomic_fetch_and(&holds, ~(unsigned)FOR_REGISTERS);
}

static volatile struct kvm_run *map_run(int vcpu_fd, int protection) {
    void *run = mmap(NULL, tb_page_bytes(), protection, MAP_SHARED, vcpu_fd, 0);
    return run == MAP_FAILED ? NULL : run;
}

static void unmap_run(volatile struct kvm_run *run) {
    if (run)
        munmap((void *)run, tb_page_bytes());
}

/* Wait until the hold ends, or until the VMM wants its thread back: it sets immediate_exit then,
 * and KVM_RUN would return EINTR at once. A signal alone ends a wait of KVM_RUN, too. Neither ends a
 * wait for registers: that is short, and KVM_RUN completes an access to a device before it looks at
 * immediate_exit, so a vCPU that has run must get there. A signal is noted for then. */
static bool wait_for_release(int vcpu_fd, bool *was_interrupted) {
    volatile struct kvm_run *run = map_run(vcpu_fd, PROT_READ);
    bool is_released = false;
    while (!(is_released = !atomic_load(&holds))) {
        bool is_long = atomic_load(&holds) & ~(unsigned)FOR_REGISTERS;
        struct timespec pause = {.tv_nsec = HOLD_POLL_NS};
        if (is_long && run && run->immediate_exit)
            break;
        /* Not libc's, which is a cancellation point; ioctl is not. */
        *was_interrupted |= syscall(SYS_nanosleep, &pause, NULL) != 0;
        if (is_long && *was_interrupted)
            break;
    }
    unmap_run(run);
    return is_released;
}

/* KVM_RUN that returns before it enters the guest. */
static int run_to_return(int vcpu_fd, unsigned long request, void *argument) {
    volatile struct kvm_run *run = map_run(vcpu_fd, PROT_READ | PROT_WRITE);
    if (!run) {
        errno = EINTR;
        return -1;
    }
    uint8_t before = run->immediate_exit;
    run->immediate_exit = 1;
    int result = tb_real_ioctl(vcpu_fd, request, argument);
    int error = errno;
    run->immediate_exit = before;
    unmap_run(run);
    errno = error;
    return result;
}

int tb_run_vcpu(int vcpu_fd, unsigned long request, void *argument) {
    bool was_interrupted = false;
    /* Counted first: who sets the hold and then finds no vCPU running knows that none will. */
    atomic_fetch_add(&vcpus_running, 1);
    while (atomic_load(&holds)) {
        atomic_fetch_sub(&vcpus_running, 1);
        if (!wait_for_release(vcpu_fd, &was_interrupted)) {
            errno = EINTR;
            return -1;
        }
        atomic_fetch_add(&vcpus_running, 1);
    }
    atomic_fetch_add(&runs, 1);
    int result = was_interrupted ? run_to_return(vcpu_fd, request, argument)
                                 : tb_real_ioctl(vcpu_fd, request, argument);
    int error = errno;
    atomic_fetch_sub(&vcpus_running, 1);
    errno = error;
    return result;
}
