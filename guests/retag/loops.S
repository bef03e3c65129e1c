/* The two ways to change a granule: its tag and then its data, or both in one instruction. */

    .arch armv8.5-a+memtag
    .text

#define TAG_SHIFT 56
#define TAGS 15

    /* x2 = the round, x3 = its number modulo TAGS, x5 = the first granule with the round's tag,
     * x6 = the granules to go. */
    .macro  next_round
    add     x2, x2, #1
    add     x3, x3, #1
    cmp     x3, #TAGS
    csel    x3, xzr, x3, eq
    add     x4, x3, #1
    mov     x5, x0
    bfi     x5, x4, #TAG_SHIFT, #4
    mov     x6, x1
    .endm

    /* void retag_store(u64 address, u64 granules): STG, then STP. */
    .global retag_store
    .balign 64
retag_store:
    mov     x2, #0
    mov     x3, #0
1:  next_round
0:  stg     x5, [x5]
    stp     x2, x2, [x5], #16
    subs    x6, x6, #1
    b.ne    0b
    b       1b

    /* void retag_pair(u64 address, u64 granules): STGP. */
    .global retag_pair
    .balign 64
retag_pair:
    mov     x2, #0
    mov     x3, #0
1:  next_round
0:  stgp    x2, x2, [x5], #16
    subs    x6, x6, #1
    b.ne    0b
    b       1b
