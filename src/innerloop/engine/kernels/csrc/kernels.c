/* Convolution, batch norm and max-pooling of many small tasks, each task with weights of its own.
 *
 * Images are channels-last, [task, image, row, column, channel]; weights are [task, tap, channel in, channel out].
 * All functions work on one task after another, so that a task's tensors stay in the cache, and hold no global state:
 * they may run in several threads. The files included below are read once for each type of number, REAL. */

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
#define AT(pointer, at) ((pointer) ? (pointer) + (at) : NULL)

/* Images that are worked on at a time: as many as stay in the second-level cache. */
static int64_t block_of(int64_t images, int64_t bytes_of_one) {
    const int64_t most = (384 << 10) / (bytes_of_one > 0 ? bytes_of_one : 1);
    return most < 1 ? 1 : most < images ? most : images;
}

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

#include "axis.h"

#define REAL float
#define INTEGER int32_t /* of the same size */
#include "tile.h"
#include "convolution.h"
#include "normalisation.h"
#include "pooling.h"
#include "pooled.h"
#undef REAL
#undef INTEGER
#undef vec
#undef mask
#undef LANES
#define REAL double
#define INTEGER int64_t
#include "tile.h"
#include "convolution.h"
#include "normalisation.h"
#include "pooling.h"
#include "pooled.h"
