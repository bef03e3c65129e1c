/* Entry of every guest: stage-1 translation on, zeroed .bss, a stack, then C.
 *
 * The translation table is part of the image and nothing is stored before the MMU is on: a
 * write that bypasses the caches would race with the VMM's own cached view of RAM. */
#include "layout.h"

#define IDENTITY_DEVICE                                                                        \
    PTE_BLOCK | PTE_ATTRIBUTE(ATTRIBUTE_DEVICE) | PTE_ACCESSED | PTE_UXN | PTE_PXN
#define IDENTITY_RAM                                                                           \
    PTE_BLOCK | PTE_ATTRIBUTE(ATTRIBUTE_TAGGED) | PTE_INNER_SHAREABLE | PTE_ACCESSED | PTE_UXN

    .arch armv8.5-a+memtag

    /* vCPU 0 starts here at EL1 with the MMU off, x0 = gpa of the boot block or anything. */
    .section .text.start, "ax"
    .global _start
_start:
    mov     x19, x0
    bl      translation_on
    ldr     x0, =bss_start
    ldr     x1, =bss_end
0:  cmp     x0, x1
    b.hs    1f
    stp     xzr, xzr, [x0], #16
    b       0b
1:  mov     x0, #0
    bl      take_stack
    mov     x0, x19
    bl      guest_main
    b       .

    /* PSCI CPU_ON brings the other vCPUs here, x0 = the vCPU's number. */
    .global secondary_start
secondary_start:
    mov     x19, x0
    bl      translation_on
    mov     x0, x19
    bl      take_stack
    mov     x0, x19
    bl      secondary_main
    b       .

    /* Gives vCPU x0 its stack and its struct vcpu. */
take_stack:
    ldr     x1, =vcpus
    ldr     x2, =vcpu_bytes
    ldr     x2, [x2]
    madd    x1, x0, x2, x1
    msr     tpidr_el1, x1
    ldr     x1, =stacks + STACK_BYTES
    mov     x2, #STACK_BYTES
    madd    x1, x0, x2, x1
    mov     sp, x1
    ret

    /* Clobbers x0 and x1 only. */
translation_on:
    msr     spsel, #1
    ldr     x0, =vectors
    msr     vbar_el1, x0
    ldr     x0, =MAIR_DEFAULT
    msr     mair_el1, x0
    ldr     x0, =TCR_DEFAULT
    msr     tcr_el1, x0
    ldr     x0, =identity_table
    msr     ttbr0_el1, x0
    msr     ttbr1_el1, x0
    isb
    tlbi    vmalle1
    ic      iallu
    dsb     sy
    isb
    ldr     x0, =SCTLR_DEFAULT
    msr     sctlr_el1, x0
    isb
    ret

    .ltorg

    /* Level 1: device for the first GiB, tagged RAM for the rest of the 4 GiB. */
    .section .data.identity_table, "aw"
    .balign 4096
    .global identity_table
identity_table:
    .quad   0x00000000 | IDENTITY_DEVICE
    .irp    gpa, 0x40000000, 0x80000000, 0xc0000000
    .quad   \gpa | IDENTITY_RAM
    .endr

    .section .bss.stacks, "aw", %nobits
    .balign 16
stacks:
    .skip   MAX_VCPUS * STACK_BYTES
