    // Another tag and new data, then the old tag again and newer data.
    addg    x6, x0, #0, #1
    stgp    x1, x2, [x6]
    stgp    x3, x4, [x0]
