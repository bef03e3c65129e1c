/* What the VMM told the guest, and the knobs on its command line. */
#ifndef BOOT_H
#define BOOT_H

#include "types.h"

struct boot {
    u64 ram_gpa;
    u64 ram_bytes;
    u64 vcpu_count;
    u64 seed;
    const char *command_line; /* "key=value key=value", never NULL */
};

/* Reads the boot block at `x0`, or else a device tree at the start of RAM (what QEMU leaves
 * there), or else assumes 64 MiB and one vCPU. At most 3 GiB and MAX_VCPUS are used. */
struct boot boot_read(u64 x0);

/* The device tree's part of it: false if there is none. */
bool boot_read_device_tree(const void *tree, struct boot *boot);

/* One key of the command line. A number is decimal, below 10^10, and may end in K, M or G;
 * with `words`, a NULL-terminated list, the value is one of these and its index is stored. */
struct knob {
    const char *key;
    u64 *value;
    u64 low, high;
    const char *const *words;
};

/* Stores what the command line sets. On an unknown key or a value out of range prints one
 * line that names it, prefixed with `program`, and powers off. */
void knobs_read(const char *program, const char *command_line, const struct knob *knobs,
                size_t count);

bool text_equal(const char *left, const char *right);

/* What became of the program, for the VMM: it went well, it found something that must not be, or
 * it was started in a way that it cannot use. */
enum guest_status { GUEST_DONE, GUEST_FAILED, GUEST_MISUSED };

/* Leaves the status where the boot block was, and powers off. */
_Noreturn void guest_end(enum guest_status status);

/* Every guest's own program. It ends with GUEST_DONE when this returns. */
void main(const struct boot *boot);

/* The end of the program in memory, page aligned. */
extern u8 image_end[];

#endif
