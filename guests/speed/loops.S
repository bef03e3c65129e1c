/* Loops of known length: all return the number of instructions that they executed. */

    .arch armv8.5-a+memtag+fp
    .text

    /* u64 loop_loads_stores(u64 pointer, u64 iterations): 8 instructions each time round,
     * six of them checked accesses. */
    .global loop_loads_stores
    .balign 64
loop_loads_stores:
    lsl     x9, x1, #3
0:  ldr     x2, [x0]
    str     x2, [x0, #16]
    ldp     x3, x4, [x0, #32]
    stp     x3, x4, [x0, #48]
    ldrb    w5, [x0, #64]
    strb    w5, [x0, #80]
    subs    x1, x1, #1
    b.ne    0b
    mov     x0, x9
    ret

    /* u64 loop_tag_stores(u64 pointer, u64 iterations): 8 instructions, six tag stores over
     * eight granules. */
    .global loop_tag_stores
    .balign 64
loop_tag_stores:
    lsl     x9, x1, #3
0:  stg     x0, [x0]
    stg     x0, [x0, #16]
    st2g    x0, [x0, #32]
    stg     x0, [x0, #64]
    stg     x0, [x0, #80]
    st2g    x0, [x0, #96]
    subs    x1, x1, #1
    b.ne    0b
    mov     x0, x9
    ret

    /* u64 loop_floats(u64 pointer, u64 iterations): 8 instructions each time round, a step of a
     * product of vectors: two loads, three operations on doubles, a store. */
    .global loop_floats
    .balign 64
loop_floats:
    lsl     x9, x1, #3
    fmov    d0, #1.0
    fmov    d1, #3.0
    fdiv    d1, d0, d1
    fmov    d4, d1
    stp     d1, d1, [x0]
0:  ldr     d1, [x0]
    ldr     d2, [x0, #8]
    fmul    d3, d1, d2
    fadd    d0, d0, d3
    fmadd   d4, d1, d2, d4
    str     d4, [x0, #16]
    subs    x1, x1, #1
    b.ne    0b
    mov     x0, x9
    ret
