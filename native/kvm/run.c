/* KVM_RUN, and the exits that are not worth leaving C for.
 *
 * An exit that Python handles costs many times what the kernel takes for it. A few accesses make up
 * most exits of a guest at work: each interrupt of a virtio device is read and acknowledged, and the
 * UART's flags are read before each character. The former change nothing but the interrupt status,
 * the latter nothing at all, so they are answered here. Everything else returns. */
#include "tagalong.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "interrupts.h"

enum { INTERRUPT_STATUS = 0x60, INTERRUPT_ACK = 0x64, WORD = 4 };

/* 1: answered; 0: it is another access; or -errno of the line. */
static int answer_status(struct kvm_run *run, struct ta_interrupts *interrupts)
{
    uint64_t offset = run->mmio.phys_addr - interrupts->gpa;
    uint32_t word;
    if (run->mmio.len != WORD)
        return 0;
    if (offset == INTERRUPT_STATUS && !run->mmio.is_write) {
        word = ta_interrupts_get(interrupts);
        memcpy(run->mmio.data, &word, WORD);
        return 1;
    }
    if (offset == INTERRUPT_ACK && run->mmio.is_write) {
        memcpy(&word, run->mmio.data, WORD);
        int result = ta_interrupts_change(interrupts, word, 0);
        return result < 0 ? result : 1;
    }
    return 0;
}

static int answer(struct kvm_run *run, const struct ta_kvm_answers *answers)
{
    struct ta_interrupts *const *interrupts = (void *)(uintptr_t)answers->interrupts;
    for (uint64_t i = 0; i < answers->interrupt_count; i++) {
        int result = answer_status(run, interrupts[i]);
        if (result)
            return result;
    }
    struct ta_register *const *registers = (void *)(uintptr_t)answers->registers;
    for (uint64_t i = 0; i < answers->register_count && !run->mmio.is_write; i++)
        if (run->mmio.phys_addr == registers[i]->gpa) {
            uint64_t value = __atomic_load_n(&registers[i]->value, __ATOMIC_RELAXED);
            memcpy(run->mmio.data, &value, sizeof value);
            return 1;
        }
    return 0;
}

int ta_kvm_run(int vcpu, void *shared, const struct ta_kvm_answers *answers,
               struct ta_kvm_exit *exit)
{
    struct kvm_run *run = shared;
    for (;; exit->answered++) {
        if (ioctl(vcpu, KVM_RUN, 0) < 0)
            return -errno;
        exit->reason = run->exit_reason;
        if (run->exit_reason != KVM_EXIT_MMIO)
            return 0;
        int result = answer(run, answers);
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
