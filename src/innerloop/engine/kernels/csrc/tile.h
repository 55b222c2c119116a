/* Products of a few rows and vectors, accumulated in registers, by addresses: no matrix is ever put together. */

typedef REAL NAME(vec) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef INTEGER NAME(mask) __attribute__((vector_size(VECTOR_BYTES)));
#define vec NAME(vec)
#define mask NAME(mask)
#define LANES ((int64_t)(VECTOR_BYTES / sizeof(REAL)))

/* C[m][n] = sum over pieces p and k < depth of a[m][a_at[p] + k * a_step] * b[b_at[p] + k * b_step + n],
 * for `rows` values of m and `vectors` vectors of n, both constants where this is inlined; with `add`, added to C. */
INLINE void NAME(tile)(const int rows, const int vectors, const REAL *const *a, const int64_t *a_at, int64_t a_step,
                       const REAL *b, const int64_t *b_at, int64_t b_step, int64_t pieces, int64_t depth, int add,
                       REAL *const *c) {
    vec sum[TALL][WIDE];
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) sum[m][v] = add ? *(const vec *)(c[m] + v * LANES) : (vec){0};
    for (int64_t p = 0; p < pieces; p++) {
        const REAL *from[TALL];
#pragma GCC unroll 8
        for (int m = 0; m < rows; m++) from[m] = a[m] + a_at[p];
        const REAL *row = b + b_at[p];
        for (int64_t k = 0, at = 0; k < depth; k++, at += a_step, row += b_step) {
            vec right[WIDE];
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) right[v] = *(const vec *)(row + v * LANES);
#pragma GCC unroll 8
            for (int m = 0; m < rows; m++) {
                const REAL left = from[m][at];
#pragma GCC unroll 8
                for (int v = 0; v < vectors; v++) sum[m][v] += left * right[v];
            }
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) *(vec *)(c[m] + v * LANES) = sum[m][v];
}

#define ROWS(vectors)                                                                                            \
    switch (rows) {                                                                                              \
    case 6: NAME(tile)(6, vectors, a, a_at, a_step, b, b_at, b_step, pieces, depth, add, c); break;                  \
    case 5: NAME(tile)(5, vectors, a, a_at, a_step, b, b_at, b_step, pieces, depth, add, c); break;                  \
    case 4: NAME(tile)(4, vectors, a, a_at, a_step, b, b_at, b_step, pieces, depth, add, c); break;                  \
    case 3: NAME(tile)(3, vectors, a, a_at, a_step, b, b_at, b_step, pieces, depth, add, c); break;                  \
    case 2: NAME(tile)(2, vectors, a, a_at, a_step, b, b_at, b_step, pieces, depth, add, c); break;                  \
    default: NAME(tile)(1, vectors, a, a_at, a_step, b, b_at, b_step, pieces, depth, add, c);                        \
    }

static void NAME(tile_of)(int rows, int vectors, const REAL *const *a, const int64_t *a_at, int64_t a_step,
                          const REAL *b, const int64_t *b_at, int64_t b_step, int64_t pieces, int64_t depth, int add,
                          REAL *const *c) {
    switch (vectors) {
#if WIDE == 4
    case 4: ROWS(4) break;
    case 3: ROWS(3) break;
#endif
    case 2: ROWS(2) break;
    default: ROWS(1)
    }
}

/* The product of `count` rows, each with its own place of input and output, and `columns` (a multiple of LANES). */
static void NAME(product)(const REAL **a, int64_t count, const int64_t *a_at, int64_t a_step, const REAL *b,
                          const int64_t *b_at, int64_t b_step, int64_t pieces, int64_t depth, int64_t columns, int add,
                          REAL **c) {
    for (int64_t n = 0; n < columns; n += WIDE * LANES) {
        const int64_t left = (columns - n) / LANES;
        const int vectors = left < WIDE ? (int)left : WIDE;
        for (int64_t m = 0; m < count; m += TALL) {
            const int rows = count - m < TALL ? (int)(count - m) : TALL;
            REAL *to[TALL];
            for (int i = 0; i < rows; i++) to[i] = c[m + i] + n;
            NAME(tile_of)(rows, vectors, a + m, a_at, a_step, b + n, b_at, b_step, pieces, depth, add, to);
        }
    }
}

/* Images [images, height, width, channels] into the middle of zeros [images, tall, wide, padded channels]. */
static void NAME(pad)(const REAL *from, REAL *to, int64_t images, int64_t height, int64_t width, int64_t channels,
                      int64_t top, int64_t left, int64_t tall, int64_t wide, int64_t padded) {
    memset(to, 0, (size_t)(images * tall * wide * padded) * sizeof(REAL));
    for (int64_t n = 0; n < images; n++)
        for (int64_t y = 0; y < height; y++) {
            REAL *row = to + ((n * tall + y + top) * wide + left) * padded;
            const REAL *source = from + (n * height + y) * width * channels;
            if (padded == channels)
                memcpy(row, source, (size_t)(width * channels) * sizeof(REAL));
            else
                for (int64_t x = 0; x < width; x++)
                    memcpy(row + x * padded, source + x * channels, (size_t)channels * sizeof(REAL));
        }
}

/* Rows [count, from_width] as [count, to_width], cut or filled up with zeros. */
static void NAME(resize)(const REAL *from, int64_t from_width, REAL *to, int64_t to_width, int64_t count) {
    const int64_t common = from_width < to_width ? from_width : to_width;
    for (int64_t i = 0; i < count; i++) {
        memcpy(to + i * to_width, from + i * from_width, (size_t)common * sizeof(REAL));
        if (to_width > common) memset(to + i * to_width + common, 0, (size_t)(to_width - common) * sizeof(REAL));
    }
}

/* [rows, columns] transposed into [columns, stride], in squares that stay in the first-level cache. */
static void NAME(transpose)(const REAL *from, REAL *to, int64_t rows, int64_t columns, int64_t stride) {
    for (int64_t r = 0; r < rows; r += 16)
        for (int64_t c = 0; c < columns; c += 16) {
            const int64_t r_end = r + 16 < rows ? r + 16 : rows, c_end = c + 16 < columns ? c + 16 : columns;
            for (int64_t j = c; j < c_end; j++)
                for (int64_t i = r; i < r_end; i++) to[j * stride + i] = from[i * columns + j];
        }
}

/* Up to LANES numbers; those that are missing are zero. */
INLINE vec NAME(load)(const REAL *from, int64_t lanes) {
    vec value = {0};
    if (lanes == LANES)
        value = *(const vec *)from;
    else
        memcpy(&value, from, (size_t)lanes * sizeof(REAL));
    return value;
}

INLINE void NAME(store)(REAL *to, vec value, int64_t lanes) {
    if (lanes == LANES)
        *(vec *)to = value;
    else
        memcpy(to, &value, (size_t)lanes * sizeof(REAL));
}

/* `value` where `test` is not zero or less: the derivative of relu. What is not a number passes. */
INLINE vec NAME(where_positive)(vec test, vec value) {
    return (vec)((mask)value & ~(mask)(test <= 0));
}

/* Adds the lanes of a sum to totals in double, and clears it. */
INLINE void NAME(collect)(vec *sum, double *total) {
    for (int64_t i = 0; i < LANES; i++) total[i] += (double)(*sum)[i];
    *sum = (vec){0};
}
