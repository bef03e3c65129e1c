/* The three facts that a guest needs from a flattened device tree (Devicetree
 * Specification, chapter 5), so that QEMU can boot it with -m, -smp and -append. */
#include "boot.h"

#define FDT_MAGIC 0xd00dfeedu
#define FDT_BEGIN_NODE 1
#define FDT_END_NODE 2
#define FDT_PROPERTY 3
#define FDT_NOP 4

struct fdt_header {
    u32 magic;
    u32 total_bytes;
    u32 structure_offset;
    u32 strings_offset;
};

/* Everything in a device tree is big-endian. */
static u32 big32(u32 value) {
    return __builtin_bswap32(value);
}

static u64 big64_at(const u32 *cells) {
    return (u64)big32(cells[0]) << 32 | big32(cells[1]);
}

static bool starts_with(const char *text, const char *start) {
    while (*start)
        if (*text++ != *start++)
            return false;
    return true;
}

static size_t text_cells(const char *text) {
    size_t length = 0;
    while (text[length])
        length++;
    return length / sizeof(u32) + 1;
}

static void take_property(const char *node, const char *name, const u32 *value,
                          struct boot *boot) {
    if (starts_with(node, "chosen") && text_equal(name, "bootargs"))
        boot->command_line = (const char *)value;
    else if (starts_with(node, "memory@") && text_equal(name, "reg")) {
        boot->ram_gpa = big64_at(value);
        boot->ram_bytes = big64_at(value + 2);
    } else if (starts_with(node, "cpu@") && text_equal(name, "reg"))
        boot->vcpu_count++;
}

bool boot_read_device_tree(const void *tree, struct boot *boot) {
    const struct fdt_header *header = tree;
    if (big32(header->magic) != FDT_MAGIC)
        return false;
    const u32 *cell = (const u32 *)((const u8 *)tree + big32(header->structure_offset));
    const char *strings = (const char *)tree + big32(header->strings_offset);
    const char *node = "";
    boot->vcpu_count = 0;
    for (;;) {
        switch (big32(*cell++)) {
        case FDT_BEGIN_NODE:
            node = (const char *)cell;
            cell += text_cells(node);
            break;
        case FDT_PROPERTY:
            take_property(node, strings + big32(cell[1]), cell + 2, boot);
            cell += 2 + (big32(cell[0]) + 3) / 4;
            break;
        case FDT_END_NODE:
        case FDT_NOP:
            break;
        default: /* the end */
            return true;
        }
    }
}
