/* How a VMM touches tagged memory, in A64: every routine that an access strategy runs.
 *
 * Position independent, without libc, data or floating point: linked into libtagalong.so on
 * arm64, and built for every host as src/tagalong/_lib/routines.bin, which runs at any
 * address (on the soft machine's second CPU). Each obeys AAPCS64, uses no stack and changes
 * only registers that a call may change; one that changes PSTATE.TCO or SP restores it.
 * x0 to x2 are arguments; there is no result.
 *
 * The blob starts with an index: the magic, the number of entries, its own size in bytes; then
 * for each routine a name of 24 bytes (ASCII, filled with zeros), its offset from the magic
 * and its size in bytes. src/tagalong/access/routines.py reads it.
 */
    .arch armv8.5-a+memtag

#define GRANULE 16
#define TAG_SHIFT 56

    .section .text.routines, "ax"
    .balign 64
    .global ta_routines_start
    .hidden ta_routines_start
ta_routines_start:
    .ascii  "TAGALRT1"
    .word   (.Lindex_end - .Lindex_start) / 32
    .word   ta_routines_end - ta_routines_start
.Lindex_start:
    .macro  entry name
.Lentry_\name:
    .ascii  "\name"
    .org    .Lentry_\name + 24
    .word   \name - ta_routines_start
    .word   .Lend_\name - \name
    .endm
    entry   copy
    entry   copy_tco
    entry   match_load
    entry   match_store
    entry   sp_load
    entry   sp_store
    entry   read_tags
    entry   write_tags
    entry   write_zeros
    entry   get_tco
    entry   set_tco
.Lindex_end:

    .macro  routine name
    .balign 16
\name:
    .endm

    .macro  done name
    ret
.Lend_\name:
    .endm

    /* Copies x2 bytes from [x1] to [x0] in units of 64, 16 and 1 bytes. Clobbers x0 to x11. */
    .macro  copy_body
1:  subs    x2, x2, #64
    b.lo    2f
    ldp     x4, x5, [x1]
    ldp     x6, x7, [x1, #16]
    ldp     x8, x9, [x1, #32]
    ldp     x10, x11, [x1, #48]
    stp     x4, x5, [x0]
    stp     x6, x7, [x0, #16]
    stp     x8, x9, [x0, #32]
    stp     x10, x11, [x0, #48]
    add     x1, x1, #64
    add     x0, x0, #64
    b       1b
2:  adds    x2, x2, #64 - GRANULE
    b.mi    4f
3:  ldp     x4, x5, [x1], #GRANULE
    stp     x4, x5, [x0], #GRANULE
    subs    x2, x2, #GRANULE
    b.pl    3b
4:  adds    x2, x2, #GRANULE
    b.eq    6f
5:  ldrb    w4, [x1], #1
    strb    w4, [x0], #1
    subs    x2, x2, #1
    b.ne    5b
6:
    .endm

    /* copy(destination, source, bytes): with the pointers as they are, so tag checked on
     * memory that is Normal Tagged. Any alignment. */
    routine copy
    copy_body
    done    copy

    /* copy_tco(destination, source, bytes): the same with PSTATE.TCO set. */
    routine copy_tco
    mrs     x12, tco
    msr     tco, #1
    copy_body
    msr     tco, x12
    done    copy_tco

    /* match_load(destination, guest, bytes): loads each granule through a pointer that carries
     * the tag which LDG has just read from it. */
    routine match_load
1:  cbz     x2, 5f
    mov     x3, x1
    ldg     x3, [x3]
    tst     x1, #GRANULE - 1
    ccmp    x2, #GRANULE, #0, eq
    b.lo    3f
    ldp     x4, x5, [x3]
    stp     x4, x5, [x0], #GRANULE
    add     x1, x1, #GRANULE
    sub     x2, x2, #GRANULE
    b       1b
3:  ldrb    w4, [x3]
    strb    w4, [x0], #1
    add     x1, x1, #1
    sub     x2, x2, #1
    b       1b
5:
    done    match_load

    /* match_store(guest, source, bytes): the same for stores. */
    routine match_store
1:  cbz     x2, 5f
    mov     x3, x0
    ldg     x3, [x3]
    tst     x0, #GRANULE - 1
    ccmp    x2, #GRANULE, #0, eq
    b.lo    3f
    ldp     x4, x5, [x1], #GRANULE
    stp     x4, x5, [x3]
    add     x0, x0, #GRANULE
    sub     x2, x2, #GRANULE
    b       1b
3:  ldrb    w4, [x1], #1
    strb    w4, [x3]
    add     x0, x0, #1
    sub     x2, x2, #1
    b       1b
5:
    done    match_store

    /* A byte at SP + (x3 & 15) in w4, by the one form that is not checked: an immediate
     * offset. `operation` is ldrb or strb. SP is left at the granule. */
    .macro  byte_at_sp operation, address
    and     x3, \address, #GRANULE - 1
    bic     x5, \address, #GRANULE - 1
    mov     sp, x5
    adr     x5, 90f
    add     x5, x5, x3, lsl #3
    br      x5
90:
    .irp    offset, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    \operation w4, [sp, #\offset]
    b       91f
    .endr
91:
    .endm

    /* sp_load(destination, guest, bytes): loads with SP moved into guest memory, as
     * [SP, #imm] is Tag Unchecked. A signal that is delivered meanwhile must find another
     * stack: the caller sees to that. */
    routine sp_load
    mov     x12, sp
1:  cbz     x2, 6f
    tst     x1, #GRANULE - 1
    ccmp    x2, #GRANULE, #0, eq
    b.lo    5f
    mov     sp, x1
2:  subs    x2, x2, #64
    b.lo    3f
    ldp     x4, x5, [sp]
    ldp     x6, x7, [sp, #16]
    ldp     x8, x9, [sp, #32]
    ldp     x10, x11, [sp, #48]
    stp     x4, x5, [x0]
    stp     x6, x7, [x0, #16]
    stp     x8, x9, [x0, #32]
    stp     x10, x11, [x0, #48]
    add     sp, sp, #64
    add     x0, x0, #64
    b       2b
3:  adds    x2, x2, #64 - GRANULE
    b.mi    31f
30: ldp     x4, x5, [sp]
    stp     x4, x5, [x0], #GRANULE
    add     sp, sp, #GRANULE
    subs    x2, x2, #GRANULE
    b.pl    30b
31: add     x2, x2, #GRANULE
    mov     x1, sp
    b       1b
5:  byte_at_sp ldrb, x1
    strb    w4, [x0], #1
    add     x1, x1, #1
    sub     x2, x2, #1
    b       1b
6:  mov     sp, x12
    done    sp_load

    /* sp_store(guest, source, bytes): the same for stores. */
    routine sp_store
    mov     x12, sp
1:  cbz     x2, 6f
    tst     x0, #GRANULE - 1
    ccmp    x2, #GRANULE, #0, eq
    b.lo    5f
    mov     sp, x0
2:  subs    x2, x2, #64
    b.lo    3f
    ldp     x4, x5, [x1]
    ldp     x6, x7, [x1, #16]
    ldp     x8, x9, [x1, #32]
    ldp     x10, x11, [x1, #48]
    stp     x4, x5, [sp]
    stp     x6, x7, [sp, #16]
    stp     x8, x9, [sp, #32]
    stp     x10, x11, [sp, #48]
    add     sp, sp, #64
    add     x1, x1, #64
    b       2b
3:  adds    x2, x2, #64 - GRANULE
    b.mi    31f
30: ldp     x4, x5, [x1], #GRANULE
    stp     x4, x5, [sp]
    add     sp, sp, #GRANULE
    subs    x2, x2, #GRANULE
    b.pl    30b
31: add     x2, x2, #GRANULE
    mov     x0, sp
    b       1b
5:  ldrb    w4, [x1], #1
    byte_at_sp strb, x0
    add     x0, x0, #1
    sub     x2, x2, #1
    b       1b
6:  mov     sp, x12
    done    sp_store

    /* read_tags(packed, guest, packed bytes): the allocation tags from `guest` on, a multiple
     * of 32, two a byte, lower-address granule in the low nibble. LDG never faults on a tag,
     * and reads zeros where the mapping has no PROT_MTE. LDGM is not for EL0. */
    routine read_tags
    and     x6, x2, #7
    lsr     x2, x2, #3
1:  cbz     x2, 3f
    mov     x4, #0
    .irp    granule, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    ldg     x3, [x1, #GRANULE * \granule]
    lsr     x5, x3, #TAG_SHIFT
    bfi     x4, x5, #4 * \granule, #4
    .endr
    str     x4, [x0], #8
    add     x1, x1, #16 * GRANULE
    sub     x2, x2, #1
    b       1b
3:  cbz     x6, 5f
4:  ldg     x3, [x1]
    ubfx    x4, x3, #TAG_SHIFT, #4
    ldg     x3, [x1, #GRANULE]
    lsr     x5, x3, #TAG_SHIFT
    bfi     x4, x5, #4, #4
    strb    w4, [x0], #1
    add     x1, x1, #2 * GRANULE
    subs    x6, x6, #1
    b.ne    4b
5:
    done    read_tags

    /* Sets two granules' tags for each packed byte: one instruction where both are equal. */
    .macro  store_tags one, two
1:  cbz     x2, 4f
    ldrb    w3, [x1], #1
    lsl     x4, x3, #TAG_SHIFT
    lsl     x5, x3, #TAG_SHIFT - 4
    eor     x6, x4, x5
    tst     x6, #0xf << TAG_SHIFT
    b.ne    2f
    \two    x4, [x0], #2 * GRANULE
    b       3f
2:  \one    x4, [x0], #GRANULE
    \one    x5, [x0], #GRANULE
3:  sub     x2, x2, #1
    b       1b
4:
    .endm

    /* write_tags(guest, packed, packed bytes): STG and ST2G, which are not tag checked. */
    routine write_tags
    store_tags stg, st2g
    done    write_tags

    /* write_zeros(guest, packed, packed bytes): the same, and zeroes the data: STZG, STZ2G. */
    routine write_zeros
    store_tags stzg, stz2g
    done    write_zeros

    /* get_tco() returns PSTATE.TCO, in bit 25 as MRS has it; set_tco(value) sets it so. */
    routine get_tco
    mrs     x0, tco
    done    get_tco

    routine set_tco
    msr     tco, x0
    done    set_tco
    .global ta_routines_end
    .hidden ta_routines_end
ta_routines_end:

    .section .note.GNU-stack, "", %progbits
