/* Loops of double precision: products of matrices, and a square root by Newton's method. Only
 * operations that IEEE 754 rounds in one way, so that the checksum is the same everywhere. */
#include <string.h>

#include "work.h"

#define SIZE 24

static double left[SIZE][SIZE], right[SIZE][SIZE], product[SIZE][SIZE];

static void multiply(void) {
    for (unsigned i = 0; i < SIZE; i++)
        for (unsigned j = 0; j < SIZE; j++) {
            double sum = 0;
            for (unsigned k = 0; k < SIZE; k++)
                sum += left[i][k] * right[k][j];
            product[i][j] = sum;
        }
}

static double root_of(double value) {
    double root = value > 1 ? value : 1;
    for (unsigned step = 0; step < 12; step++)
        root = (root + value / root) * 0.5;
    return root;
}

uint64_t work_float(uint64_t rounds) {
    uint64_t random = 88172645463325252u, sum = 0;
    for (; rounds; rounds--) {
        for (unsigned i = 0; i < SIZE * SIZE; i++) {
            left[i / SIZE][i % SIZE] = (double)(next_random(&random) >> 40) / 65536.0;
            right[i / SIZE][i % SIZE] = (double)(next_random(&random) >> 40) / 65536.0;
        }
        multiply();
        for (unsigned i = 0; i < SIZE * SIZE; i++) {
            double root = root_of(product[i / SIZE][i % SIZE]);
            uint64_t bits;
            memcpy(&bits, &root, sizeof bits);
            sum = sum * 31 + bits;
        }
    }
    return sum;
}
