/* The guarded call of a routine: a fault inside it ends the call instead of the process.
 *
 * Not part of the blob of routines: it depends on guard.c and on Linux.
 */
    .arch armv8.5-a+memtag

#define FRAME_BYTES 112
#define SYS_GETPID 172

    .text

    /* u64 ta_guard_enter(struct guard *guard, routine, const u64 arguments[6]);
     *
     * Stores SP and the landing's address in *guard, then calls the routine. The fault handler
     * sets SP and PC to these two; the registers that a call preserves are on the stack. The
     * kernel reports an asynchronous tag check fault at the next system call: the one at the
     * end makes sure that this happens inside the guarded call. */
    .balign 16
    .global ta_guard_enter
    .hidden ta_guard_enter
    .type   ta_guard_enter, %function
ta_guard_enter:
    .cfi_startproc
    stp     x29, x30, [sp, #-FRAME_BYTES]!
    .cfi_def_cfa_offset FRAME_BYTES
    .cfi_offset x29, -FRAME_BYTES
    .cfi_offset x30, -FRAME_BYTES + 8
    mov     x29, sp
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    mov     x3, sp
    adr     x4, ta_guard_landing
    stp     x3, x4, [x0]
    mov     x16, x1
    mov     x17, x2
    ldp     x0, x1, [x17]
    ldp     x2, x3, [x17, #16]
    ldp     x4, x5, [x17, #32]
    blr     x16
    mov     x19, x0
    mov     x8, #SYS_GETPID
    svc     #0
    mov     x0, x19
ta_guard_landing:
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #FRAME_BYTES
    .cfi_def_cfa_offset 0
    .cfi_restore x29
    .cfi_restore x30
    ret
    .cfi_endproc
    .global ta_guard_end
    .hidden ta_guard_end
ta_guard_end:
    .size   ta_guard_enter, . - ta_guard_enter

    .section .note.GNU-stack, "", %progbits
