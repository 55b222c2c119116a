/* The shapes of tile to choose from. The registers limit the rows and vectors of a tile: there are 32 with AVX-512 and
 * NEON, and otherwise 16. Which shape is fastest depends on loads, caches and clocks. Doubles have only the first. */

#define BYTES VECTOR_BYTES
#if VECTOR_BYTES == 64 || defined(__aarch64__)
#define TALL 6
#define WIDE 4
#define SHAPE 6x4
#else
#define TALL 6
#define WIDE 2
#define SHAPE 6x2
#endif
#include "product.h"

#if FLOATS
#if VECTOR_BYTES == 64 || defined(__aarch64__)
#define BYTES VECTOR_BYTES
#define TALL 12
#define WIDE 2
#define SHAPE 12x2
#include "product.h"
#define BYTES VECTOR_BYTES
#define TALL 8
#define WIDE 3
#define SHAPE 8x3
#include "product.h"
#else
#define BYTES VECTOR_BYTES
#define TALL 12
#define WIDE 1
#define SHAPE 12x1
#include "product.h"
#define BYTES VECTOR_BYTES
#define TALL 4
#define WIDE 3
#define SHAPE 4x3
#include "product.h"
#endif
#if VECTOR_BYTES == 64 /* some processors slow down with the widest vectors, and are faster with half as wide ones */
#define BYTES 32
#define TALL 6
#define WIDE 4
#define SHAPE half_6x4
#include "product.h"
#define BYTES 32
#define TALL 12
#define WIDE 2
#define SHAPE half_12x2
#include "product.h"
#endif
#endif

typedef void NAME(Product)(const REAL *const *a, int64_t count, const int64_t *a_at, int64_t a_step, const REAL *b,
                           const int64_t *b_at, int64_t b_step, int64_t pieces, int64_t depth, int64_t columns, int add,
                           REAL *const *c, Ahead *ahead);
typedef struct {
    const char *name;
    NAME(Product) *product;
    int64_t numbers; /* numbers in a whole tile */
} NAME(Shape);

static const NAME(Shape) NAME(shapes)[] = {
#if VECTOR_BYTES == 64 || defined(__aarch64__)
    {"6x4", JOIN(product_6x4, REAL), 24 * VECTOR_BYTES / sizeof(REAL)},
#else
    {"6x2", JOIN(product_6x2, REAL), 12 * VECTOR_BYTES / sizeof(REAL)},
#endif
#if FLOATS
#if VECTOR_BYTES == 64 || defined(__aarch64__)
    {"12x2", JOIN(product_12x2, REAL), 24 * VECTOR_BYTES / sizeof(REAL)},
    {"8x3", JOIN(product_8x3, REAL), 24 * VECTOR_BYTES / sizeof(REAL)},
#else
    {"12x1", JOIN(product_12x1, REAL), 12 * VECTOR_BYTES / sizeof(REAL)},
    {"4x3", JOIN(product_4x3, REAL), 12 * VECTOR_BYTES / sizeof(REAL)},
#endif
#if VECTOR_BYTES == 64
    {"half 6x4", JOIN(product_half_6x4, REAL), 24 * 32 / sizeof(REAL)},
    {"half 12x2", JOIN(product_half_12x2, REAL), 24 * 32 / sizeof(REAL)},
#endif
#endif
};
static int NAME(chosen) = 0; /* set once, before the first product */
#define PRODUCT NAME(shapes)[NAME(chosen)].product

/* The number of shapes, and the name of each. */
int NAME(shape_count)(void) { return (int)(sizeof NAME(shapes) / sizeof NAME(shapes)[0]); }
const char *NAME(shape_name)(int shape) { return NAME(shapes)[shape].name; }
/* Use this shape for all further products. All shapes give the same bits. */
void NAME(choose_shape)(int shape) { NAME(chosen) = shape; }
