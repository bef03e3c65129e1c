/* A virtio device's interrupt status (virtio 1.2, section 4.2.2): why it interrupts. Its line is
 * high while there is any reason.
 *
 * A guest reads and acknowledges it at each interrupt. On KVM both are exits, which the thread of
 * the vCPU answers here without entering Python, and the line is the kernel's: KVM_IRQ_LINE. The
 * lock orders the line's changes: its level is always that of the reasons as they are now. */
#include "tagalong.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "interrupts.h"

struct ta_interrupts *ta_interrupts_new(void)
{
    struct ta_interrupts *interrupts = calloc(1, sizeof *interrupts);
    if (interrupts != NULL) {
        pthread_mutex_init(&interrupts->lock, NULL);
        interrupts->vm = -1;
    }
    return interrupts;
}

void ta_interrupts_free(struct ta_interrupts *interrupts)
{
    if (interrupts != NULL)
        pthread_mutex_destroy(&interrupts->lock);
    free(interrupts);
}

static int set_line(struct ta_interrupts *interrupts, uint32_t level)
{
    struct kvm_irq_level line = {.irq = interrupts->irq, .level = level};
    return ioctl(interrupts->vm, KVM_IRQ_LINE, &line) < 0 ? -errno : 0;
}

int ta_interrupts_connect(struct ta_interrupts *interrupts, int vm, uint32_t irq, uint64_t gpa)
{
    pthread_mutex_lock(&interrupts->lock);
    interrupts->vm = vm;
    interrupts->irq = irq;
    interrupts->gpa = gpa;
    int result = vm >= 0 && interrupts->reasons ? set_line(interrupts, 1) : 0;
    pthread_mutex_unlock(&interrupts->lock);
    return result;
}

uint32_t ta_interrupts_get(const struct ta_interrupts *interrupts)
{
    return atomic_load(&interrupts->reasons);
}

int ta_interrupts_change(struct ta_interrupts *interrupts, uint32_t clear, uint32_t set)
{
    int result = 0;
    pthread_mutex_lock(&interrupts->lock);
    uint32_t before = atomic_load(&interrupts->reasons), after = (before & ~clear) | set;
    atomic_store(&interrupts->reasons, after);
    if (interrupts->vm >= 0 && !before != !after)
        result = set_line(interrupts, after != 0);
    pthread_mutex_unlock(&interrupts->lock);
    return result;
}
