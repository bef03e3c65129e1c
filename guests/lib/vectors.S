/* Exception vectors: save the whole frame, call exception(struct frame *), return. */
#include "layout.h"

    .arch armv8.5-a+memtag

    .macro vector number
    .balign 0x80
    sub     sp, sp, #FRAME_BYTES
    stp     x0, x1, [sp]
    mov     x0, #\number
    b       save_and_handle
    .endm

    .section .text.vectors, "ax"
    .balign 0x800
    .global vectors
vectors:
    .irp    number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vector  \number
    .endr

    .balign 0x80
save_and_handle:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    str     x30, [sp, #240]
    mrs     x1, elr_el1
    str     x1, [sp, #FRAME_ELR]
    mrs     x1, spsr_el1
    str     x1, [sp, #FRAME_SPSR]
    mrs     x1, esr_el1
    str     x1, [sp, #FRAME_ESR]
    mrs     x1, far_el1
    str     x1, [sp, #FRAME_FAR]
    mrs     x1, sp_el0
    str     x1, [sp, #FRAME_SP_EL0]
    mrs     x1, tco
    str     x1, [sp, #FRAME_TCO]
    str     x0, [sp, #FRAME_VECTOR]

    mov     x0, sp
    bl      exception

    ldr     x1, [sp, #FRAME_ELR]
    msr     elr_el1, x1
    ldr     x1, [sp, #FRAME_SPSR]
    msr     spsr_el1, x1
    ldr     x30, [sp, #240]
    ldp     x28, x29, [sp, #224]
    ldp     x26, x27, [sp, #208]
    ldp     x24, x25, [sp, #192]
    ldp     x22, x23, [sp, #176]
    ldp     x20, x21, [sp, #160]
    ldp     x18, x19, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp]
    add     sp, sp, #FRAME_BYTES
    eret

    /* u64 el0_call(u64 entry, u64 x0, u64 x1, u64 sp_el0): runs EL0 code until its first
     * exception. The handler sends us to el0_done with x0 = EL0's x0. */
    .text
    .global el0_call
el0_call:
    sub     sp, sp, #112
    stp     x19, x20, [sp]
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    mrs     x4, sp_el0
    str     x4, [sp, #96]
    msr     sp_el0, x3
    msr     elr_el1, x0
    mov     x4, #0x3c0              // EL0t, DAIF masked
    msr     spsr_el1, x4
    mov     x0, x1
    mov     x1, x2
    eret

    .global el0_done
el0_done:
    ldr     x4, [sp, #96]
    msr     sp_el0, x4
    ldp     x29, x30, [sp, #80]
    ldp     x27, x28, [sp, #64]
    ldp     x25, x26, [sp, #48]
    ldp     x23, x24, [sp, #32]
    ldp     x21, x22, [sp, #16]
    ldp     x19, x20, [sp]
    add     sp, sp, #112
    ret

    /* u64 context_save(struct context *): 0 now, and again with what context_restore says. */
    .global context_save
context_save:
    mov     x1, sp
    stp     x19, x20, [x0]
    stp     x21, x22, [x0, #16]
    stp     x23, x24, [x0, #32]
    stp     x25, x26, [x0, #48]
    stp     x27, x28, [x0, #64]
    stp     x29, x30, [x0, #80]
    str     x1, [x0, #96]
    mov     x0, #0
    ret

    /* _Noreturn void context_restore(const struct context *, u64 value) */
    .global context_restore
context_restore:
    ldp     x19, x20, [x0]
    ldp     x21, x22, [x0, #16]
    ldp     x23, x24, [x0, #32]
    ldp     x25, x26, [x0, #48]
    ldp     x27, x28, [x0, #64]
    ldp     x29, x30, [x0, #80]
    ldr     x2, [x0, #96]
    mov     sp, x2
    mov     x0, x1
    ret
