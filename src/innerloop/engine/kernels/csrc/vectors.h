/* Vectors of numbers: loading, storing, padding and transposing. */

typedef REAL NAME(vec) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef INTEGER NAME(mask) __attribute__((vector_size(VECTOR_BYTES)));
#define vec NAME(vec)
#define mask NAME(mask)
#define LANES ((int64_t)(VECTOR_BYTES / sizeof(REAL)))

/* Copy images [images, height, width, channels] into the middle of zeros [images, tall, wide, padded channels]. */
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

/* Copy rows [count, from_width] to [count, to_width]. They are cut, or filled with zeros. */
static void NAME(resize)(const REAL *from, int64_t from_width, REAL *to, int64_t to_width, int64_t count) {
    const int64_t common = from_width < to_width ? from_width : to_width;
    for (int64_t i = 0; i < count; i++) {
        memcpy(to + i * to_width, from + i * from_width, (size_t)common * sizeof(REAL));
        if (to_width > common) memset(to + i * to_width + common, 0, (size_t)(to_width - common) * sizeof(REAL));
    }
}

#if defined(__GNUC__) && !defined(__clang__)
/* Transpose a square of LANES by LANES: exchange squares across the diagonal, then smaller ones of half the size. */
INLINE void NAME(transpose_square)(const REAL *from, int64_t from_stride, REAL *to, int64_t to_stride) {
    vec rows[LANES];
    mask upper, lower;
    UNROLL for (int i = 0; i < LANES; i++) rows[i] = *(const vec *)(from + i * from_stride);
    UNROLL for (int half = LANES / 2; half; half /= 2) {
        UNROLL for (int i = 0; i < LANES; i++) {
            upper[i] = (INTEGER)(i & half ? LANES + i - half : i);
            lower[i] = (INTEGER)(i & half ? LANES + i : i + half);
        }
        UNROLL for (int i = 0; i < LANES; i++) {
            if (i & half) continue;
            const vec one = rows[i], other = rows[i + half];
            rows[i] = __builtin_shuffle(one, other, upper), rows[i + half] = __builtin_shuffle(one, other, lower);
        }
    }
    UNROLL for (int i = 0; i < LANES; i++) *(vec *)(to + i * to_stride) = rows[i];
}
#else
INLINE void NAME(transpose_square)(const REAL *from, int64_t from_stride, REAL *to, int64_t to_stride) {
    for (int64_t j = 0; j < LANES; j++)
        for (int64_t i = 0; i < LANES; i++) to[j * to_stride + i] = from[i * from_stride + j];
}
#endif

/* Transpose [rows, columns] into [columns, stride]. */
static void NAME(transpose)(const REAL *from, REAL *to, int64_t rows, int64_t columns, int64_t stride) {
    const int64_t whole_rows = rows / LANES * LANES, whole_columns = columns / LANES * LANES;
    for (int64_t r = 0; r < whole_rows; r += LANES)
        for (int64_t c = 0; c < whole_columns; c += LANES)
            NAME(transpose_square)(from + r * columns + c, columns, to + c * stride + r, stride);
    for (int64_t c = 0; c < columns; c++)
        for (int64_t r = c < whole_columns ? whole_rows : 0; r < rows; r++) to[c * stride + r] = from[r * columns + c];
}

/* Load up to LANES numbers. Missing ones are zero. */
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

/* `value` where `test` is above zero or NaN, otherwise zero: the derivative of ReLU. */
INLINE vec NAME(where_positive)(vec test, vec value) {
    return (vec)((mask)value & ~(mask)(test <= 0));
}

/* Add the lanes of a sum to totals in double, and set the sum to zero. */
INLINE void NAME(collect)(vec *sum, double *total) {
    for (int64_t i = 0; i < LANES; i++) total[i] += (double)(*sum)[i];
    *sum = (vec){0};
}
