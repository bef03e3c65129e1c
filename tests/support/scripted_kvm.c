/* native/kvm with a KVM that follows a script: its exits come from a table, lines go into one. */
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct scripted_exit {
    uint32_t reason, bytes, is_write, error; /* error: an errno of KVM_RUN instead */
    uint64_t gpa, data;
};

static struct kvm_run run;
static const struct scripted_exit *script;
static uint64_t *loaded; /* what the guest found, a value for each exit of the script */
static size_t at;
static uint32_t lines[64]; /* irq << 1 | level */
static size_t line_count;
static int line_error;

static int scripted_run(void)
{
    if (at > 0)
        memcpy(&loaded[at - 1], run.mmio.data, sizeof *loaded);
    const struct scripted_exit *next = &script[at];
    if (next->error) {
        errno = (int)next->error;
        return -1;
    }
    at++;
    run.exit_reason = next->reason;
    run.mmio.phys_addr = next->gpa;
    run.mmio.len = next->bytes;
    run.mmio.is_write = (uint8_t)next->is_write;
    memcpy(run.mmio.data, &next->data, sizeof next->data);
    return 0;
}

static int scripted_ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    struct kvm_irq_level *line = va_arg(arguments, struct kvm_irq_level *);
    va_end(arguments);
    if (request == KVM_RUN)
        return scripted_run();
    if (fd != 7 || line_error) {
        errno = line_error ? line_error : EBADF;
        return -1;
    }
    lines[line_count++] = line->irq << 1 | line->level;
    return 0;
}

#define ioctl scripted_ioctl
#include "kvm/interrupts.c"
#include "kvm/run.c"

TA_EXPORT void *scripted_start(const struct scripted_exit *exits, uint64_t *values)
{
    script = exits;
    loaded = values;
    at = line_count = 0;
    line_error = 0;
    return &run;
}

TA_EXPORT void scripted_fail_lines(int error)
{
    line_error = error;
}

TA_EXPORT size_t scripted_lines(uint32_t *into)
{
    memcpy(into, lines, sizeof lines);
    return line_count;
}
