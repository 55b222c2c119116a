/* Convolution, batch norm and max-pooling of many small tasks. Each task has its own weights.
 *
 * Images are channels-last, [task, image, row, column, channel]. Weights are [task, tap, channel in, channel out]. All
 * functions work on one task after another, so that a task's tensors stay in the cache. They write no global state, so
 * they may run in several threads. The files below are included once for each type of number, REAL. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define STRIPE 4 /* vectors in a stripe of channels */
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define STRIPE 2
#else
#define VECTOR_BYTES 16
#define STRIPE 2
#endif
#define BLOCK 64 /* the number of rows summed in working precision before the sum is added in double */

typedef struct {
    int64_t tasks, images, height, width, in, out;          /* input size and channels */
    int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
    int64_t out_height, out_width;
    int64_t shared_weights;                                   /* whether one set of weights serves all tasks */
} Convolution;

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define JOIN3_(a, b, c) a##_##b##_##c
#define JOIN3(a, b, c) JOIN3_(a, b, c)
#define NAME(name) JOIN(name, REAL)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define AT(pointer, at) ((pointer) ? (pointer) + (at) : NULL)

/* The number of images to work on at a time: as many as fit in the second-level cache. */
static int64_t block_of(int64_t images, int64_t bytes_of_one) {
    const int64_t most = (384 << 10) / (bytes_of_one > 0 ? bytes_of_one : 1);
    return most < 1 ? 1 : most < images ? most : images;
}

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* Memory to prefetch, and the distance to advance in it with each step of a product. */
typedef struct {
    const char *next;
    int64_t stride;
} Ahead;

#include "axis.h"

#define REAL float
#define FLOATS 1
#define INTEGER int32_t /* an integer of the same size */
#include "vectors.h"
#include "shapes.h"
#include "convolution.h"
#include "normalisation.h"
#include "pooling.h"
#include "pooled.h"
#include "steps.h"
#include "sweeps.h"
#undef REAL
#undef INTEGER
#undef vec
#undef mask
#undef LANES
#undef PRODUCT
#undef FLOATS
#define REAL double
#define FLOATS 0
#define INTEGER int64_t
#include "vectors.h"
#include "shapes.h"
#include "convolution.h"
#include "normalisation.h"
#include "pooling.h"
#include "pooled.h"
#include "steps.h"
#include "sweeps.h"

#define MOST_ARGUMENTS 20
enum { NUMBER = -1, ARENA = -2, SWEEP = -1 };

/* The value of an argument: code[0] is the place of a block in `blocks`, and code[1] a distance from it in bytes; or
 * code[0] is ARENA, and code[1] a distance from `arena`; or code[0] is NUMBER, and code[1] is the argument itself. */
static int64_t value_of(const int64_t *code, const int64_t *blocks, int64_t arena) {
    return code[1] + (code[0] == NUMBER ? 0 : code[0] == ARENA ? arena : blocks[code[0]]);
}

/* A sweep is coded as the numbers of tasks, of images of a task, of images to work on at a time, and of parts. A part is
 * coded like a step, with two more numbers for each argument: by how many bytes it moves with each task and image.
 * Returns the code after it, or NULL if a part failed. */
static const int64_t *run_sweep(const int64_t *code, const int64_t *blocks, int64_t arena) {
    const int64_t tasks = code[0], images = code[1], block = code[2], parts = code[3];
    const int64_t *end = code += 4;
    int64_t v[MOST_ARGUMENTS];
    for (int64_t part = 0; part < parts; part++) end += 2 + 4 * end[1];
    for (int64_t task = 0; task < tasks; task++)
        for (int64_t first = 0; first < images; first += block) {
            const int64_t many = images - first < block ? images - first : block;
            const int64_t *at = code;
            for (int64_t part = 0; part < parts; part++) {
                const int64_t what = *at++, arguments = *at++;
                for (int64_t i = 0; i < arguments; i++, at += 4)
                    v[i] = value_of(at, blocks, arena) + task * at[2] + first * at[3];
                if (what % 2 ? part_double(what / 2, v, many, first, images, task)
                             : part_float(what / 2, v, many, first, images, task))
                    return NULL;
            }
        }
    return end;
}

/* Does `count` steps. A step is coded as twice its number, plus 1 for doubles; the count of its arguments; and two
 * numbers for each argument (see value_of). A sweep is coded as SWEEP and its code. Returns 0, or the number of the step
 * that failed, from 1. */
int64_t run_steps(const int64_t *code, int64_t count, const int64_t *blocks, int64_t arena) {
    int64_t v[MOST_ARGUMENTS];
    for (int64_t step = 0; step < count; step++) {
        if (*code == SWEEP) {
            code = run_sweep(code + 1, blocks, arena);
            if (!code) return step + 1;
            continue;
        }
        const int64_t what = *code++, arguments = *code++;
        for (int64_t i = 0; i < arguments; i++, code += 2) v[i] = value_of(code, blocks, arena);
        if (what % 2 ? step_double(what / 2, v) : step_float(what / 2, v)) return step + 1;
    }
    return 0;
}
