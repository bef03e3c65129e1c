/* Accesses whose address is known, and a look at every general register. */

#define X2_TO_X30                                                                              \
    2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25,    \
    26, 27, 28, 29, 30

    .arch armv8.5-a+memtag
    .text

    /* u64 faulting_load(u64 pointer) */
    .global faulting_load
faulting_load:
    ldr     x0, [x0]
    ret

    /* void faulting_store(u64 pointer, u64 value) */
    .global faulting_store
faulting_store:
    str     x1, [x0]
    ret

    /* void idle_turns(u64 turns), at least 1 */
    .global idle_turns
idle_turns:
    subs    x0, x0, #1
    b.ne    idle_turns
    ret

    /* u64 general_registers_lost(u64 turns, u64 first): xN = first + N - 1 for N of 1 to 30,
     * kept while x0 counts down. Returns the number of the first that changed, or 0. */
    .global general_registers_lost
general_registers_lost:
    sub     sp, sp, #112
    stp     x19, x20, [sp]
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    str     x1, [sp, #96]
    .irp    n, X2_TO_X30
    add     x\n, x1, #\n - 1
    .endr
0:  subs    x0, x0, #1
    b.ne    0b
    ldr     x0, [sp, #96]
    cmp     x1, x0
    mov     x1, x0
    mov     x0, #1
    b.ne    1f
    .irp    n, X2_TO_X30
    sub     x\n, x\n, x1
    cmp     x\n, #\n - 1
    mov     x0, #\n
    b.ne    1f
    .endr
    mov     x0, #0
1:  ldp     x29, x30, [sp, #80]
    ldp     x27, x28, [sp, #64]
    ldp     x25, x26, [sp, #48]
    ldp     x23, x24, [sp, #32]
    ldp     x21, x22, [sp, #16]
    ldp     x19, x20, [sp]
    add     sp, sp, #112
    ret
