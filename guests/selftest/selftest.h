/* What a check is made of.
 *
 * A check is a small function that calls expect_... a few times; the first that does not
 * hold fails the check and is the one printed. Before every check the vCPU's MTE registers,
 * the translation tables and the scratch memory are as reset_machine() leaves them. */
#ifndef SELFTEST_H
#define SELFTEST_H

#include "boot.h"
#include "mte.h"
#include "vcpu.h"

struct check {
    const char *name;
    void (*run)(const void *argument);
    const void *argument;
};

struct topic {
    const char *name;
    const struct check *checks;
    size_t count;
};

/* Defines `NAME_topic` with the checks of the array `NAME_checks`. */
#define TOPIC(name) const struct topic name##_topic = {#name, name##_checks, COUNT(name##_checks)}

void expect_equal(const char *what, u64 expected, u64 got);
void expect_true(const char *what, bool holds);

/* The check ends here without a verdict: this machine cannot do what it needs. */
void skip_check(const char *reason);

/* QEMU 10.0 differs from the manual in a few known ways. A check that meets exactly such a
 * difference passes, and its line says so; elsewhere only the manual's way passes. */
void pass_as_qemu(void);

/* Since trap_arm(0) exactly this exception was taken. ESR is compared in its low 32 bits,
 * FAR without bits 63:60, ELR where `elr` is not 0. */
void expect_trap(u64 esr, u64 far, u64 elr);
void expect_no_trap(void);

/* How the machine was booted. */
extern const struct boot *machine;

/* --- memory to work on --------------------------------------------------------------------- */

#define PAGE_BYTES 4096UL
#define SCRATCH_PAGES 8
#define SCRATCH_BYTES (SCRATCH_PAGES * PAGE_BYTES)

/* Page aligned; zero, with zero tags, when a check starts. */
extern u8 scratch[SCRATCH_BYTES];

/* The middle of it, with the tag given: 16 KiB of room on both sides. */
u64 scratch_pointer(unsigned tag);

/* Plain loops of STG; `pointer` and `bytes` in whole granules. */
void set_tags(u64 pointer, u64 bytes, unsigned tag);

/* All granules of the range have this tag. */
void expect_tags(const char *what, u64 pointer, u64 bytes, unsigned tag);

/* Loads and stores that no tag check can stop, at the pointer without its tag. */
u64 peek(u64 pointer);
void poke(u64 pointer, u64 value);

/* Recognisable data for the word at `pointer`. */
u64 pattern(u64 pointer);
void fill_pattern(u64 pointer, u64 bytes);
void expect_pattern(const char *what, u64 pointer, u64 bytes);

/* --- one instruction at a time --------------------------------------------------------------- */

/* Calls code that may use x0 to x5 with these, and stores what they are afterwards. */
struct registers {
    u64 x[6];
};
void probe_call(const u8 *probe, struct registers *registers);

/* A function `probe_NAME` of the instructions `text`; the C side sees its address. */
#define PROBE(name, text)                                                                     \
    extern const u8 probe_##name[];                                                           \
    __asm__(".pushsection .text.probes, \"ax\"\n\t.arch armv8.5-a+memtag\n\t"                 \
            "probe_" #name ":\n\t" text "\n\tret\n\t.popsection")

/* The same with x0 as the stack pointer: SP_EL0, so that an exception finds EL1's own stack
 * as it was. The access is the third instruction. */
#define STACK_PROBE(name, text)                                                               \
    PROBE(name, "msr spsel, #0\n\tmov sp, x0\n\t" text "\n\tmov x0, sp\n\tmsr spsel, #1")
#define STACK_PROBE_AT 8

/* Calls `probe` with x0 = pointer and expects no exception; returns x0. */
u64 probe_runs(const u8 *probe, u64 pointer);

/* Calls it and expects this exception from its first instruction. */
void probe_traps(const u8 *probe, u64 pointer, u64 esr, u64 far);

PROBE(load, "ldr x1, [x0]");
PROBE(store, "str x1, [x0]");

/* --- translation ------------------------------------------------------------------------------ */

/* 1 GiB for the checks: pages in its first 2 MiB, blocks of 2 MiB behind. */
#define MAP_BASE 0xc0000000UL
#define BLOCK_BYTES (2UL << 20)
#define MAP_BLOCKS (MAP_BASE + BLOCK_BYTES)

#define MAP_TAGGED                                                                            \
    (PTE_ATTRIBUTE(ATTRIBUTE_TAGGED) | PTE_INNER_SHAREABLE | PTE_ACCESSED | PTE_UXN | PTE_PXN)
#define MAP_UNTAGGED                                                                          \
    (PTE_ATTRIBUTE(ATTRIBUTE_UNTAGGED) | PTE_INNER_SHAREABLE | PTE_ACCESSED | PTE_UXN | PTE_PXN)
#define MAP_DEVICE (PTE_ATTRIBUTE(ATTRIBUTE_DEVICE) | PTE_ACCESSED | PTE_UXN | PTE_PXN)
#define MAP_EL0_DATA (MAP_TAGGED | PTE_EL0)
#define MAP_EL0_CODE                                                                          \
    (PTE_ATTRIBUTE(ATTRIBUTE_TAGGED) | PTE_INNER_SHAREABLE | PTE_ACCESSED | PTE_EL0 |         \
     PTE_READ_ONLY | PTE_PXN)

void map_page(u64 va, u64 pa, u64 attributes);
void map_block(u64 va, u64 pa, u64 attributes);
void unmap_all(void);

/* Takes the whole 1 GiB out of the level-1 table. */
void unmap_level_1(void);

/* Page `index` of the first 2 MiB now shows page `index` of scratch; returns its VA. */
u64 map_scratch_page(unsigned index, u64 attributes);

#endif
