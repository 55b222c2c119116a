/* A product with one shape of tile: TALL rows by WIDE vectors of BYTES each, accumulated in registers. Rows are given
 * by address, so no matrix is ever assembled. All shapes take each sum in the same order, so they give the same bits.
 * */

#define SHAPED(name) JOIN3(name, SHAPE, REAL)
#define LINE SHAPED(line)

typedef REAL LINE __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
#define WIDTH ((int64_t)(BYTES / sizeof(REAL)))

/* C[m][n] = sum over pieces p and k < depth of a[m][a_at[p] + k * a_step] * b[b_at[p] + k * b_step + n], for `rows`
 * values of m and `lines` vectors of n. Both are constants where this is inlined. With `add`, the sum is added to C.
 * Meanwhile the memory that is needed next is prefetched. */
INLINE void SHAPED(tile)(const int rows, const int lines, const REAL *const *a, const int64_t *a_at, int64_t a_step,
                         const REAL *b, const int64_t *b_at, int64_t b_step, int64_t pieces, int64_t depth, int add,
                         REAL *const *c, Ahead *ahead) {
    LINE sum[TALL][WIDE];
    const char *next = ahead->next;
    const int64_t stride = ahead->stride;
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < lines; v++) sum[m][v] = add ? *(const LINE *)(c[m] + v * WIDTH) : (LINE){0};
    for (int64_t p = 0; p < pieces; p++) {
        const REAL *from[TALL];
        UNROLL for (int m = 0; m < rows; m++) from[m] = a[m] + a_at[p];
        const REAL *row = b + b_at[p];
        for (int64_t k = 0, at = 0; k < depth; k++, at += a_step, row += b_step, next += stride) {
            LINE right[WIDE];
            UNROLL for (int v = 0; v < lines; v++) right[v] = *(const LINE *)(row + v * WIDTH);
            __builtin_prefetch(next, 0, 2);
            UNROLL for (int m = 0; m < rows; m++) {
                const REAL left = from[m][at];
                UNROLL for (int v = 0; v < lines; v++) sum[m][v] += left * right[v];
            }
        }
    }
    ahead->next = next;
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < lines; v++) *(LINE *)(c[m] + v * WIDTH) = sum[m][v];
}

/* The same with depth 1 and rows of a that lie side by side: a[m] is a[0] + m, so one address serves all rows. */
INLINE void SHAPED(tile_beside)(const int rows, const int lines, const REAL *a, const int64_t *a_at, const REAL *b,
                                const int64_t *b_at, int64_t pieces, int add, REAL *const *c, Ahead *ahead) {
    LINE sum[TALL][WIDE];
    const char *next = ahead->next;
    const int64_t stride = ahead->stride;
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < lines; v++) sum[m][v] = add ? *(const LINE *)(c[m] + v * WIDTH) : (LINE){0};
    for (int64_t p = 0; p < pieces; p++, next += stride) {
        const REAL *from = a + a_at[p], *row = b + b_at[p];
        LINE right[WIDE];
        UNROLL for (int v = 0; v < lines; v++) right[v] = *(const LINE *)(row + v * WIDTH);
        __builtin_prefetch(next, 0, 2);
        UNROLL for (int m = 0; m < rows; m++) {
            const REAL left = from[m];
            UNROLL for (int v = 0; v < lines; v++) sum[m][v] += left * right[v];
        }
    }
    ahead->next = next;
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < lines; v++) *(LINE *)(c[m] + v * WIDTH) = sum[m][v];
}

#define ROWS(n, lines)                                                                                            \
    case n:                                                                                                       \
        if (beside)                                                                                               \
            SHAPED(tile_beside)(n <= TALL ? n : 1, lines, a[0], a_at, b, b_at, pieces, add, c, ahead);             \
        else                                                                                                      \
            SHAPED(tile)(n <= TALL ? n : 1, lines, a, a_at, a_step, b, b_at, b_step, pieces, depth, add, c, ahead);\
        break;
#define LINES(lines)                                                                                              \
    switch (rows) {                                                                                               \
        ROWS(1, lines) ROWS(2, lines) ROWS(3, lines) ROWS(4, lines) ROWS(5, lines) ROWS(6, lines) ROWS(7, lines)  \
        ROWS(8, lines) ROWS(9, lines) ROWS(10, lines) ROWS(11, lines) ROWS(12, lines)                             \
    }

static void SHAPED(tile_of)(int rows, int lines, const REAL *const *a, const int64_t *a_at, int64_t a_step,
                            const REAL *b, const int64_t *b_at, int64_t b_step, int64_t pieces, int64_t depth, int add,
                            REAL *const *c, Ahead *ahead) {
    int beside = depth == 1;
    for (int m = 1; m < rows; m++) beside &= a[m] == a[0] + m;
    switch (lines) {
#if WIDE >= 4
    case 4: LINES(4) break;
#endif
#if WIDE >= 3
    case 3: LINES(3) break;
#endif
#if WIDE >= 2
    case 2: LINES(2) break;
#endif
    default: LINES(1)
    }
}

/* The product of `count` rows with `columns` columns (a multiple of WIDTH). Each row has its own input and output. */
static void SHAPED(product)(const REAL *const *a, int64_t count, const int64_t *a_at, int64_t a_step, const REAL *b,
                            const int64_t *b_at, int64_t b_step, int64_t pieces, int64_t depth, int64_t columns,
                            int add, REAL *const *c, Ahead *ahead) {
    for (int64_t n = 0; n < columns; n += WIDE * WIDTH) {
        const int64_t left = (columns - n) / WIDTH;
        const int lines = left < WIDE ? (int)left : WIDE;
        for (int64_t m = 0, tiles = (count + TALL - 1) / TALL; tiles; tiles--) {
            const int rows = (int)((count - m + tiles - 1) / tiles); /* tiles of nearly equal height */
            REAL *to[TALL];
            for (int i = 0; i < rows; i++) to[i] = c[m + i] + n;
            SHAPED(tile_of)(rows, lines, a + m, a_at, a_step, b + n, b_at, b_step, pieces, depth, add, to, ahead);
            m += rows;
        }
    }
}

#undef SHAPED
#undef LINE
#undef WIDTH
#undef ROWS
#undef LINES
#undef SHAPE
#undef BYTES
#undef TALL
#undef WIDE
