/* Convolution, batch norm and max-pooling of many small tasks, each task with weights of its own.
 *
 * Images are channels-last, [task, image, row, column, channel]; weights are [task, tap, channel in, channel out].
 * The three products of a convolution (the output, the input's gradient, the weights' gradient) are one loop,
 * `product`, with different addressing: no patch matrix is ever written. All functions work on one task after
 * another, so that a task's tensors stay in the cache, and hold no global state: they may run in several threads.
 *
 * This file includes itself once for each type of number. */

#ifndef REAL

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define WIDE 4 /* vectors in a row of a tile */
#define TALL 6 /* rows of a tile: TALL * WIDE accumulators fill the registers */
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define WIDE 2
#define TALL 6
#else
#define VECTOR_BYTES 16
#define WIDE 2
#define TALL 6
#endif
#define BLOCK 64 /* rows summed in working precision before the sum goes on in double */

typedef struct {
    int64_t tasks, images, height, width, in, out;          /* input size and channels */
    int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
    int64_t out_height, out_width;
    int64_t shared_weights;                                   /* whether one set of weights serves all tasks */
} Convolution;

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(name) JOIN(name, REAL)
#define INLINE static inline __attribute__((always_inline))

/* Images that are padded at a time: as many as stay in the second-level cache beside their output. */
static int64_t block_of(int64_t images, int64_t bytes_of_one) {
    const int64_t most = (384 << 10) / (bytes_of_one > 0 ? bytes_of_one : 1);
    return most < 1 ? 1 : most < images ? most : images;
}

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

#define REAL float
#define INTEGER int32_t /* of the same size */
#include "kernels.c"
#undef REAL
#undef INTEGER
#define REAL double
#define INTEGER int64_t
#include "kernels.c"
#undef REAL
#undef INTEGER

#else

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

/* Output [task, image, out_height, out_width, out] of input x and weights w. Returns 0, or 1 without memory. */
int NAME(convolve)(const Convolution *s, const REAL *x, const REAL *w, REAL *y) {
    const int64_t tall = s->height + 2 * s->pad_h, wide = s->width + 2 * s->pad_w, taps = s->kernel_h * s->kernel_w;
    const int64_t each = s->out_height * s->out_width, out = round_up(s->out, LANES); /* pixels of an image */
    const int64_t block = block_of(s->images, tall * wide * s->in * (int64_t)sizeof(REAL)), pixels = block * each;
    const int odd = out != s->out;
    REAL *padded = malloc((size_t)(block * tall * wide * s->in) * sizeof(REAL));
    REAL *weights = odd ? malloc((size_t)(taps * s->in * out) * sizeof(REAL)) : NULL;
    REAL *result = odd ? malloc((size_t)(pixels * out) * sizeof(REAL)) : NULL;
    const REAL **a = malloc((size_t)pixels * sizeof *a);
    REAL **c = malloc((size_t)pixels * sizeof *c);
    int64_t *at = malloc((size_t)(2 * taps) * sizeof *at);
    const int failed = !padded || !a || !c || !at || (odd && (!weights || !result));
    if (!failed) {
        for (int64_t ky = 0, t = 0; ky < s->kernel_h; ky++)
            for (int64_t kx = 0; kx < s->kernel_w; kx++, t++) {
                at[t] = (ky * s->dilation_h * wide + kx * s->dilation_w) * s->in;
                at[taps + t] = t * s->in * out;
            }
        for (int64_t n = 0, p = 0; n < block; n++)
            for (int64_t oy = 0; oy < s->out_height; oy++)
                for (int64_t ox = 0; ox < s->out_width; ox++, p++)
                    a[p] = padded + ((n * tall + oy * s->stride_h) * wide + ox * s->stride_w) * s->in;
        for (int64_t task = 0; task < s->tasks; task++) {
            const REAL *source = w + (s->shared_weights ? 0 : task * taps * s->in * s->out);
            if (odd && (task == 0 || !s->shared_weights)) NAME(resize)(source, s->out, weights, out, taps * s->in);
            for (int64_t first = 0; first < s->images; first += block) {
                const int64_t images = s->images - first < block ? s->images - first : block, count = images * each;
                REAL *target = y + (task * s->images + first) * each * s->out, *to = odd ? result : target;
                NAME(pad)(x + (task * s->images + first) * s->height * s->width * s->in, padded, images, s->height,
                          s->width, s->in, s->pad_h, s->pad_w, tall, wide, s->in);
                for (int64_t p = 0; p < count; p++) c[p] = to + p * out;
                NAME(product)(a, count, at, 1, odd ? weights : source, at + taps, out, taps, s->in, out, 0, c);
                if (odd) NAME(resize)(result, out, target, s->out, count);
            }
        }
    }
    free(padded), free(weights), free(result), free(a), free(c), free(at);
    return failed;
}

/* Gradient of the weights, [task, tap, in, out], of input x and output gradient g. */
int NAME(weight_gradient)(const Convolution *s, const REAL *x, const REAL *g, REAL *w) {
    const int64_t tall = s->height + 2 * s->pad_h, wide = s->width + 2 * s->pad_w, taps = s->kernel_h * s->kernel_w;
    const int64_t block = block_of(s->images, tall * wide * s->in * (int64_t)sizeof(REAL));
    const int64_t lines = block * s->out_height, each = s->out_height * s->out_width, rows = taps * s->in;
    const int64_t out = round_up(s->out, LANES);
    const int odd = out != s->out;
    REAL *padded = malloc((size_t)(block * tall * wide * s->in) * sizeof(REAL));
    REAL *gradient = odd ? malloc((size_t)(block * each * out) * sizeof(REAL)) : NULL;
    REAL *result = odd ? malloc((size_t)(rows * out) * sizeof(REAL)) : NULL;
    const REAL **a = malloc((size_t)rows * sizeof *a);
    REAL **c = malloc((size_t)rows * sizeof *c);
    int64_t *at = malloc((size_t)(2 * lines) * sizeof *at);
    const int failed = !padded || !a || !c || !at || (odd && (!gradient || !result));
    if (!failed) {
        for (int64_t n = 0, l = 0; n < block; n++)
            for (int64_t oy = 0; oy < s->out_height; oy++, l++) {
                at[l] = (n * tall + oy * s->stride_h) * wide * s->in;
                at[lines + l] = l * s->out_width * out;
            }
        for (int64_t ky = 0, r = 0; ky < s->kernel_h; ky++)
            for (int64_t kx = 0; kx < s->kernel_w; kx++)
                for (int64_t i = 0; i < s->in; i++, r++)
                    a[r] = padded + (ky * s->dilation_h * wide + kx * s->dilation_w) * s->in + i;
        for (int64_t task = 0; task < s->tasks; task++) {
            REAL *target = w + task * rows * s->out, *to = odd ? result : target;
            for (int64_t r = 0; r < rows; r++) c[r] = to + r * out;
            for (int64_t first = 0; first < s->images; first += block) {
                const int64_t images = s->images - first < block ? s->images - first : block;
                const REAL *source = g + (task * s->images + first) * each * s->out;
                if (odd) NAME(resize)(source, s->out, gradient, out, images * each);
                NAME(pad)(x + (task * s->images + first) * s->height * s->width * s->in, padded, images, s->height,
                          s->width, s->in, s->pad_h, s->pad_w, tall, wide, s->in);
                NAME(product)(a, rows, at, s->stride_w * s->in, odd ? gradient : source, at + lines, out,
                              images * s->out_height, s->out_width, out, first > 0, c);
            }
            if (odd) NAME(resize)(result, out, target, s->out, rows);
        }
    }
    free(padded), free(gradient), free(result), free(a), free(c), free(at);
    return failed;
}

/* Gradient of the input, [task, image, height, width, in], of output gradient g and weights w.
 * An input pixel meets the taps of its phase, its position modulo the stride; each phase is a product of its own. */
int NAME(input_gradient)(const Convolution *s, const REAL *g, const REAL *w, REAL *x) {
    const int64_t taps = s->kernel_h * s->kernel_w, inputs = s->height * s->width, in = round_up(s->in, LANES);
    /* Zeros around the output gradient, wide enough for every tap of every pixel. */
    const int64_t top = (s->kernel_h - 1) * s->dilation_h / s->stride_h + 1;
    const int64_t left = (s->kernel_w - 1) * s->dilation_w / s->stride_w + 1;
    const int64_t last_y = (s->height - 1 + s->pad_h) / s->stride_h, last_x = (s->width - 1 + s->pad_w) / s->stride_w;
    const int64_t tall = top + (last_y + 1 > s->out_height ? last_y + 1 : s->out_height);
    const int64_t wide = left + (last_x + 1 > s->out_width ? last_x + 1 : s->out_width);
    const int odd = in != s->in;
    const int64_t block = block_of(s->images, tall * wide * s->out * (int64_t)sizeof(REAL));
    REAL *padded = malloc((size_t)(block * tall * wide * s->out) * sizeof(REAL));
    REAL *weights = malloc((size_t)(taps * s->out * in) * sizeof(REAL));
    REAL *result = odd ? malloc((size_t)(block * inputs * in) * sizeof(REAL)) : NULL;
    const REAL **a = malloc((size_t)(block * inputs) * sizeof *a);
    REAL **c = malloc((size_t)(block * inputs) * sizeof *c);
    int64_t *at = malloc((size_t)(2 * taps) * sizeof *at);
    const int failed = !padded || !weights || !a || !c || !at || (odd && !result);
    for (int64_t task = 0; !failed && task < s->tasks; task++) {
        if (task == 0 || !s->shared_weights) {
            const REAL *source = w + (s->shared_weights ? 0 : task * taps * s->in * s->out);
            if (odd) memset(weights, 0, (size_t)(taps * s->out * in) * sizeof(REAL));
            for (int64_t t = 0; t < taps; t++)
                NAME(transpose)(source + t * s->in * s->out, weights + t * s->out * in, s->in, s->out, in);
        }
        for (int64_t first = 0; first < s->images; first += block) {
            const int64_t images = s->images - first < block ? s->images - first : block;
            REAL *target = x + (task * s->images + first) * inputs * s->in, *to = odd ? result : target;
            NAME(pad)(g + (task * s->images + first) * s->out_height * s->out_width * s->out, padded, images,
                      s->out_height, s->out_width, s->out, top, left, tall, wide, s->out);
            for (int64_t phase = 0; phase < s->stride_h * s->stride_w; phase++) {
                const int64_t py = phase / s->stride_w, px = phase % s->stride_w;
                int64_t pieces = 0, count = 0;
                for (int64_t ky = 0; ky < s->kernel_h; ky++)
                    for (int64_t kx = 0; kx < s->kernel_w; kx++) {
                        const int64_t dy = py - ky * s->dilation_h, dx = px - kx * s->dilation_w;
                        if (dy % s->stride_h || dx % s->stride_w) continue;
                        at[pieces] = ((dy / s->stride_h) * wide + dx / s->stride_w) * s->out;
                        at[taps + pieces++] = (ky * s->kernel_w + kx) * s->out * in;
                    }
                for (int64_t n = 0; n < images; n++)
                    for (int64_t y = 0; y < s->height; y++) {
                        if ((y + s->pad_h) % s->stride_h != py) continue;
                        for (int64_t u = 0; u < s->width; u++) {
                            if ((u + s->pad_w) % s->stride_w != px) continue;
                            a[count] = padded + ((n * tall + top + (y + s->pad_h) / s->stride_h) * wide + left +
                                                 (u + s->pad_w) / s->stride_w) * s->out;
                            c[count++] = to + (n * inputs + y * s->width + u) * in;
                        }
                    }
                NAME(product)(a, count, at, 1, weights, at + taps, in, pieces, s->out, in, 0, c);
            }
            if (odd) NAME(resize)(result, in, target, s->in, images * inputs);
        }
    }
    free(padded), free(weights), free(result), free(a), free(c), free(at);
    return failed;
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

/* Batch norm of one group: rows [rows, channels], normalised over rows, for `lanes` channels from x on.
 * `scale` and `shift` may be NULL. Below, `relu` says whether ReLU follows and is differentiated together with it. */
INLINE void NAME(normalise_lanes)(const REAL *x, int64_t rows, int64_t channels, const int64_t lanes, REAL epsilon,
                                  const REAL *scale, const REAL *shift, REAL *mean, REAL *inverse, REAL *y) {
    const vec first = NAME(load)(x, lanes);
    double totals[2][64 / sizeof(REAL)] = {{0}};
    vec sum = {0}, square = {0};
    for (int64_t r = 0; r < rows;) {
        const int64_t end = r + BLOCK < rows ? r + BLOCK : rows;
        for (; r < end; r++) {
            const vec d = NAME(load)(x + r * channels, lanes) - first;
            sum += d, square += d * d;
        }
        NAME(collect)(&sum, totals[0]), NAME(collect)(&square, totals[1]);
    }
    vec centre = {0}, root = {0};
    for (int64_t i = 0; i < LANES; i++) {
        const double offset = totals[0][i] / (double)rows;
        double variance = totals[1][i] / (double)rows - offset * offset;
        if (variance < 0) variance = 0;
        centre[i] = (REAL)((double)first[i] + offset);
        root[i] = (REAL)(1 / sqrt(variance + (double)epsilon));
    }
    NAME(store)(mean, centre, lanes), NAME(store)(inverse, root, lanes);
    vec factor = root, added = {0};
    if (scale) factor *= NAME(load)(scale, lanes);
    if (shift) added = NAME(load)(shift, lanes);
    for (int64_t r = 0; r < rows; r++)
        NAME(store)(y + r * channels, (NAME(load)(x + r * channels, lanes) - centre) * factor + added, lanes);
}

/* Its derivative: gradients of x, scale and shift from the gradient g of y. */
INLINE void NAME(normalise_back_lanes)(const REAL *g, const REAL *x, int64_t rows, int64_t channels,
                                       const int64_t lanes, const REAL *mean, const REAL *inverse, const REAL *scale,
                                       const REAL *shift, int relu, REAL *gx, REAL *g_scale, REAL *g_shift) {
    const vec centre = NAME(load)(mean, lanes), root = NAME(load)(inverse, lanes);
    vec factor = root, added = {0};
    if (scale) factor *= NAME(load)(scale, lanes);
    if (shift) added = NAME(load)(shift, lanes);
    double totals[2][64 / sizeof(REAL)] = {{0}};
    vec sum = {0}, product = {0};
    for (int64_t r = 0; r < rows;) {
        const int64_t end = r + BLOCK < rows ? r + BLOCK : rows;
        for (; r < end; r++) {
            const vec d = NAME(load)(x + r * channels, lanes) - centre;
            vec up = NAME(load)(g + r * channels, lanes);
            if (relu) up = NAME(where_positive)(d * factor + added, up);
            sum += up, product += up * (d * root);
        }
        NAME(collect)(&sum, totals[0]), NAME(collect)(&product, totals[1]);
    }
    vec m1 = {0}, m2 = {0}, s1 = {0}, s2 = {0};
    for (int64_t i = 0; i < LANES; i++) {
        s1[i] = (REAL)totals[0][i], s2[i] = (REAL)totals[1][i];
        m1[i] = (REAL)(totals[0][i] / (double)rows), m2[i] = (REAL)(totals[1][i] / (double)rows);
    }
    NAME(store)(g_shift, s1, lanes), NAME(store)(g_scale, s2, lanes);
    m2 *= root;
    for (int64_t r = 0; r < rows; r++) {
        const vec d = NAME(load)(x + r * channels, lanes) - centre;
        vec up = NAME(load)(g + r * channels, lanes);
        if (relu) up = NAME(where_positive)(d * factor + added, up);
        NAME(store)(gx + r * channels, factor * (up - m1 - d * m2), lanes);
    }
}

/* The derivative of that: gradients of g, x and scale, from those of gx (u), of g_scale (a) and of g_shift (b),
 * the last two of which may be NULL. With n the rows, X the normalised x and P(v) = v - mean(v) - X mean(v X),
 * gx = scale / std * P(g); P is symmetric, and its dependence on x is through X and 1 / std. */
INLINE void NAME(normalise_twice_lanes)(const REAL *u, const REAL *a, const REAL *b, const REAL *g, const REAL *x,
                                        int64_t rows, int64_t channels, const int64_t lanes, const REAL *mean,
                                        const REAL *inverse, const REAL *scale, const REAL *shift, int relu, REAL *gg,
                                        REAL *gx, REAL *g_scale) {
    const vec centre = NAME(load)(mean, lanes), root = NAME(load)(inverse, lanes);
    vec factor = root, added = {0};
    if (scale) factor *= NAME(load)(scale, lanes);
    if (shift) added = NAME(load)(shift, lanes);
    vec on_scale = {0}, on_shift = {0};
    if (a) on_scale = NAME(load)(a, lanes);
    if (b) on_shift = NAME(load)(b, lanes);
    double totals[5][64 / sizeof(REAL)] = {{0}};
    vec sums[5] = {{0}};
    for (int64_t r = 0; r < rows;) {
        const int64_t end = r + BLOCK < rows ? r + BLOCK : rows;
        for (; r < end; r++) {
            const vec d = NAME(load)(x + r * channels, lanes) - centre, X = d * root;
            const vec in = NAME(load)(u + r * channels, lanes);
            vec up = NAME(load)(g + r * channels, lanes);
            if (relu) up = NAME(where_positive)(d * factor + added, up);
            sums[0] += up, sums[1] += up * X, sums[2] += in, sums[3] += in * X, sums[4] += in * up;
        }
        for (int i = 0; i < 5; i++) NAME(collect)(&sums[i], totals[i]);
    }
    vec means[5];
    for (int j = 0; j < 5; j++)
        for (int64_t i = 0; i < LANES; i++) means[j][i] = (REAL)(totals[j][i] / (double)rows);
    const vec m1 = means[0], m2 = means[1], mu = means[2], mux = means[3];
    const vec projected = means[4] - mu * m1 - mux * m2; /* mean(u P(g)) */
    NAME(store)(g_scale, root * projected * (REAL)rows, lanes);
    const vec q_mean = on_scale * m1 - factor * (m2 * mu + mux * m1);
    const vec on_x = root * ((on_scale - factor * mux * 2) * m2) + factor * root * projected;
    for (int64_t r = 0; r < rows; r++) {
        const vec d = NAME(load)(x + r * channels, lanes) - centre, X = d * root;
        const vec in = NAME(load)(u + r * channels, lanes), before = d * factor + added;
        vec up = NAME(load)(g + r * channels, lanes);
        if (relu) up = NAME(where_positive)(before, up);
        vec back = factor * (in - mu - X * mux) + on_scale * X + on_shift;
        if (relu) back = NAME(where_positive)(before, back);
        NAME(store)(gg + r * channels, back, lanes);
        const vec q = on_scale * up - factor * (m2 * in + mux * up);
        NAME(store)(gx + r * channels, root * (q - q_mean) - X * on_x, lanes);
    }
}

#define AT(pointer, at) ((pointer) ? (pointer) + (at) : NULL)

/* For `groups` groups of rows; `each` consecutive ones have the same scale and shift, a and b. */
void NAME(normalise)(int64_t groups, int64_t each, int64_t rows, int64_t channels, double epsilon,
                     const REAL *x, const REAL *scale, const REAL *shift, REAL *mean, REAL *inverse, REAL *y) {
    for (int64_t i = 0; i < groups; i++)
        for (int64_t c = 0; c < channels; c += LANES) {
            const int64_t at = i * rows * channels + c, own = i * channels + c, set = i / each * channels + c;
            if (channels - c >= LANES)
                NAME(normalise_lanes)(x + at, rows, channels, LANES, (REAL)epsilon, AT(scale, set), AT(shift, set),
                                      mean + own, inverse + own, y + at);
            else
                NAME(normalise_lanes)(x + at, rows, channels, channels - c, (REAL)epsilon, AT(scale, set),
                                      AT(shift, set), mean + own, inverse + own, y + at);
        }
}

void NAME(normalise_back)(int64_t groups, int64_t each, int64_t rows, int64_t channels, int relu, const REAL *g,
                          const REAL *x, const REAL *scale, const REAL *shift, const REAL *mean, const REAL *inverse,
                          REAL *gx, REAL *g_scale, REAL *g_shift) {
    for (int64_t i = 0; i < groups; i++)
        for (int64_t c = 0; c < channels; c += LANES) {
            const int64_t at = i * rows * channels + c, own = i * channels + c, set = i / each * channels + c;
            if (channels - c >= LANES)
                NAME(normalise_back_lanes)(g + at, x + at, rows, channels, LANES, mean + own, inverse + own,
                                           AT(scale, set), AT(shift, set), relu, gx + at, g_scale + own, g_shift + own);
            else
                NAME(normalise_back_lanes)(g + at, x + at, rows, channels, channels - c, mean + own, inverse + own,
                                           AT(scale, set), AT(shift, set), relu, gx + at, g_scale + own, g_shift + own);
        }
}

void NAME(normalise_twice)(int64_t groups, int64_t each, int64_t rows, int64_t channels, int relu, const REAL *u,
                           const REAL *a, const REAL *b, const REAL *g, const REAL *x, const REAL *scale,
                           const REAL *shift, const REAL *mean, const REAL *inverse, REAL *gg, REAL *gx,
                           REAL *g_scale) {
    for (int64_t i = 0; i < groups; i++)
        for (int64_t c = 0; c < channels; c += LANES) {
            const int64_t at = i * rows * channels + c, own = i * channels + c, set = i / each * channels + c;
            if (channels - c >= LANES)
                NAME(normalise_twice_lanes)(u + at, AT(a, own), AT(b, own), g + at, x + at, rows, channels, LANES,
                                            mean + own, inverse + own, AT(scale, set), AT(shift, set), relu, gg + at,
                                            gx + at, g_scale + own);
            else
                NAME(normalise_twice_lanes)(u + at, AT(a, own), AT(b, own), g + at, x + at, rows, channels,
                                            channels - c, mean + own, inverse + own, AT(scale, set), AT(shift, set),
                                            relu, gg + at, gx + at, g_scale + own);
        }
}

/* The largest of each window for up to LANES channels, and which of the window's taps it is. */
INLINE void NAME(pool_lanes)(const Convolution *s, const REAL *image, int64_t oy, int64_t ox, const int64_t lanes,
                             REAL *y, uint8_t *chosen) {
    vec best = {0};
    mask which = {0};
    int first = 1;
    for (int64_t ky = 0, tap = 0; ky < s->kernel_h; ky++)
        for (int64_t kx = 0; kx < s->kernel_w; kx++, tap++) {
            const int64_t row = oy * s->stride_h + ky * s->dilation_h - s->pad_h;
            const int64_t column = ox * s->stride_w + kx * s->dilation_w - s->pad_w;
            if (row < 0 || row >= s->height || column < 0 || column >= s->width) continue;
            const vec value = NAME(load)(image + (row * s->width + column) * s->in, lanes);
            /* What is not a number wins, and stays. */
            const mask better = first ? which - 1 : (mask)(value > best) | (mask)(value != value);
            best = (vec)(((mask)value & better) | ((mask)best & ~better));
            which = (better & (INTEGER)tap) | (which & ~better);
            first = 0;
        }
    NAME(store)(y, best, lanes);
    for (int64_t i = 0; i < lanes; i++) chosen[i] = (uint8_t)which[i];
}

/* The largest of each window, and which of the window's taps it is. A window has at most 255 taps. */
void NAME(pool)(const Convolution *s, const REAL *x, REAL *y, uint8_t *chosen) {
    for (int64_t n = 0; n < s->tasks * s->images; n++)
        for (int64_t oy = 0; oy < s->out_height; oy++)
            for (int64_t ox = 0; ox < s->out_width; ox++)
                for (int64_t c = 0; c < s->in; c += LANES) {
                    const REAL *image = x + n * s->height * s->width * s->in + c;
                    const int64_t to = ((n * s->out_height + oy) * s->out_width + ox) * s->in + c;
                    if (s->in - c >= LANES)
                        NAME(pool_lanes)(s, image, oy, ox, LANES, y + to, chosen + to);
                    else
                        NAME(pool_lanes)(s, image, oy, ox, s->in - c, y + to, chosen + to);
                }
}

/* With back, g [.., out_height, out_width, in] is added to the chosen pixels of x; else it takes their values. */
void NAME(pool_linear)(const Convolution *s, int back, const uint8_t *chosen, REAL *x, REAL *g) {
    const int64_t inputs = s->height * s->width * s->in, outputs = s->out_height * s->out_width * s->in;
    memset(back ? x : g, 0, (size_t)(s->tasks * s->images * (back ? inputs : outputs)) * sizeof(REAL));
    for (int64_t n = 0; n < s->tasks * s->images; n++)
        for (int64_t oy = 0; oy < s->out_height; oy++)
            for (int64_t ox = 0; ox < s->out_width; ox++) {
                const int64_t at = n * outputs + (oy * s->out_width + ox) * s->in;
                for (int64_t ky = 0, tap = 0; ky < s->kernel_h; ky++)
                    for (int64_t kx = 0; kx < s->kernel_w; kx++, tap++) {
                        const int64_t row = oy * s->stride_h + ky * s->dilation_h - s->pad_h;
                        const int64_t column = ox * s->stride_w + kx * s->dilation_w - s->pad_w;
                        if (row < 0 || row >= s->height || column < 0 || column >= s->width) continue;
                        REAL *pixel = x + n * inputs + (row * s->width + column) * s->in, *out = g + at;
                        const uint8_t *which = chosen + at;
                        if (back)
#pragma GCC ivdep
                            for (int64_t c = 0; c < s->in; c++) pixel[c] += which[c] == tap ? out[c] : 0;
                        else
#pragma GCC ivdep
                            for (int64_t c = 0; c < s->in; c++) out[c] += which[c] == tap ? pixel[c] : 0;
                    }
            }
}

#undef AT
#undef vec
#undef mask
#undef LANES
#endif
