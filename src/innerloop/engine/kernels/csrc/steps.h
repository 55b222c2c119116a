/* Runs one step of a recording: a kernel, or a sum or multiple of tensors. */

#define P(i) ((REAL *)(intptr_t)v[i])
#define SIZES ((const Convolution *)(intptr_t)v[0])
#define TAPS(i) ((uint8_t *)(intptr_t)v[i])

/* One step with its arguments v. `what` is its number: that of the kernel in STEPS of library.py, or one after those.
 * */
static int NAME(step)(int64_t what, const int64_t *v) {
    double epsilon;
    switch (what) {
    case 0: return NAME(convolve)(SIZES, P(1), P(2), P(3));
    case 1: return NAME(weight_gradient)(SIZES, P(1), P(2), P(3));
    case 2: return NAME(input_gradient)(SIZES, P(1), P(2), P(3));
    case 3:
        memcpy(&epsilon, v + 5, sizeof epsilon);
        NAME(normalise)(v[0], v[1], v[2], v[3], (int)v[4], epsilon, P(6), P(7), P(8), P(9), P(10), P(11));
        return 0;
    case 4:
        NAME(normalise_back)(v[0], v[1], v[2], v[3], (int)v[4], P(5), P(6), P(7), P(8), P(9), P(10), P(11), P(12), P(13));
        return 0;
    case 5:
        NAME(normalise_twice)(v[0], v[1], v[2], v[3], (int)v[4], P(5), P(6), P(7), P(8), P(9), P(10), P(11), P(12), P(13),
                              P(14), P(15), P(16));
        return 0;
    case 6:
        memcpy(&epsilon, v + 2, sizeof epsilon);
        NAME(normalise_pool)(SIZES, v[1], epsilon, P(3), P(4), P(5), P(6), P(7), P(8), TAPS(9), P(10));
        return 0;
    case 7:
        NAME(normalise_pool_back)(SIZES, v[1], P(2), P(3), P(4), P(5), P(6), P(7), TAPS(8), P(9), P(10), P(11), P(12));
        return 0;
    case 8:
        NAME(normalise_pool_twice)(SIZES, v[1], P(2), P(3), P(4), P(5), P(6), P(7), P(8), P(9), P(10), TAPS(11), P(12),
                                   P(13), P(14), P(15));
        return 0;
    case 9: NAME(pool)(SIZES, P(1), P(2), TAPS(3)); return 0;
    case 10: NAME(pool_linear)(SIZES, (int)v[1], TAPS(2), P(3), P(4)); return 0;
    case 11: /* the sum of two tensors */
#pragma GCC ivdep
        for (int64_t i = 0; i < v[0]; i++) P(3)[i] = P(1)[i] + P(2)[i];
        return 0;
    case 12: { /* a multiple of a tensor */
        double factor;
        memcpy(&factor, v + 2, sizeof factor);
        const REAL by = (REAL)factor;
#pragma GCC ivdep
        for (int64_t i = 0; i < v[0]; i++) P(3)[i] = P(1)[i] * by;
        return 0;
    }
    default: return 1;
    }
}

#undef P
#undef SIZES
#undef TAPS
