#include "boot.h"

#include "console.h"
#include "layout.h"
#include "psci.h"
#include "sysreg.h"

#define BLOCK_MAGIC 0x315442544c414741UL /* "AGALTBT1" */
#define END_MAGIC 0x444e45544c414741UL   /* "AGALTEND" */
#define DEFAULT_RAM_BYTES (64UL << 20)

struct boot_block {
    u64 magic;
    u64 ram_gpa;
    u64 ram_bytes;
    u32 vcpu_count;
    u32 command_line_bytes;
    u64 seed;
    char command_line[];
};

/* What takes the block's place in the end. */
struct end_block {
    u64 magic;
    u64 status;
};

static struct end_block *end_block; /* NULL without a boot block: another VMM started this */

_Static_assert(offsetof(struct boot_block, command_line) == 40, "the boot block's format");

static const struct boot_block *find_block(u64 x0) {
    const struct boot_block *block = (const struct boot_block *)x0;
    return x0 == RAM_GPA && block->magic == BLOCK_MAGIC ? block : NULL;
}

struct boot boot_read(u64 x0) {
    struct boot boot = {RAM_GPA, DEFAULT_RAM_BYTES, 1, 0, ""};
    const struct boot_block *block = find_block(x0);
    end_block = block ? (struct end_block *)x0 : NULL;
    if (block)
        boot = (struct boot){block->ram_gpa, block->ram_bytes, block->vcpu_count, block->seed,
                             block->command_line};
    else
        boot_read_device_tree((const void *)RAM_GPA, &boot);
    if (boot.ram_bytes > MAPPED_END - RAM_GPA)
        boot.ram_bytes = MAPPED_END - RAM_GPA;
    if (boot.vcpu_count > MAX_VCPUS)
        boot.vcpu_count = MAX_VCPUS;
    return boot;
}

void guest_end(enum guest_status status) {
    if (end_block)
        *end_block = (struct end_block){END_MAGIC, status};
    barrier_all();
    psci_system_off();
}

/* Called from start.S. */
void guest_main(u64 x0) {
    console_init();
    struct boot boot = boot_read(x0);
    main(&boot);
    guest_end(GUEST_DONE);
}
