/* KVM_RUN, and the exits that are not worth leaving C for.
 *
 * An exit that Python handles costs many times what the kernel takes for it. Two accesses make up
 * most exits of a guest at work: each interrupt of a virtio device is read and acknowledged. They
 * change nothing but the interrupt status, so they are answered here. Everything else returns. */
#include "tagalong.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "interrupts.h"

enum { INTERRUPT_STATUS = 0x60, INTERRUPT_ACK = 0x64, WORD = 4 };

/* 1: answered; 0: it is another access; or -errno of the line. */
static int answer(struct kvm_run *run, struct ta_interrupts *const *interrupts, size_t count)
{
    if (run->mmio.len != WORD)
        return 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t offset = run->mmio.phys_addr - interrupts[i]->gpa;
        uint32_t word;
        if (offset == INTERRUPT_STATUS && !run->mmio.is_write) {
            word = ta_interrupts_get(interrupts[i]);
            memcpy(run->mmio.data, &word, WORD);
            return 1;
        }
        if (offset == INTERRUPT_ACK && run->mmio.is_write) {
            memcpy(&word, run->mmio.data, WORD);
            int result = ta_interrupts_change(interrupts[i], word, 0);
            return result < 0 ? result : 1;
        }
    }
    return 0;
}

int ta_kvm_run(int vcpu, void *shared, struct ta_interrupts *const *interrupts, size_t count,
               struct ta_kvm_exit *exit)
{
    struct kvm_run *run = shared;
    for (;; exit->answered++) {
        if (ioctl(vcpu, KVM_RUN, 0) < 0)
            return -errno;
        exit->reason = run->exit_reason;
        if (run->exit_reason != KVM_EXIT_MMIO)
            return 0;
        int result = answer(run, interrupts, count);
        if (result < 0) {
            exit->reason = TA_KVM_EXIT_LINE;
            return result;
        }
        if (result == 0)
            break;
    }
    exit->gpa = run->mmio.phys_addr;
    exit->bytes = run->mmio.len;
    exit->is_write = run->mmio.is_write;
    memcpy(&exit->data, run->mmio.data, sizeof exit->data);
    return 0;
}
