    // The tag, the data through the mapping without PROT_MTE, and the tag again: until both
    // tags are the same.
1:  mov     x4, x0
    ldg     x4, [x4]
    ldp     x2, x3, [x1]
    mov     x6, x0
    ldg     x6, [x6]
    cmp     x4, x6
    b.ne    1b
