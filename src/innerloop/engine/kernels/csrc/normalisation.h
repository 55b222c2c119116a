/* Batch norm of groups of rows [rows, channels], normalised over the rows, with derivatives up to second order. A ReLU
 * after it can be included. A stripe is a few vectors of channels. Its sums stay in registers, and rows are read in
 * order.
 *
 * Each derivative has two halves. The first takes sums over all rows of a group. The second writes the result of each
 * row. Both halves may be given the rows in parts, one after another. That gives the same bits as all rows at once. */

typedef struct {
    int64_t rows, channels; /* the rows of the whole group */
    int64_t part;           /* the rows that are given now; the pointers to rows point to the first of them */
    int relu;               /* whether ReLU follows and is differentiated together with it */
    double epsilon;
    const REAL *u, *a, *b, *g, *x, *scale, *shift; /* a, b, scale and shift may be NULL */
    REAL *mean, *inverse, *y, *gg, *gx, *g_scale, *g_shift;
} NAME(Group);

#define EACH _Pragma("GCC unroll 8") for (int v = 0; v < vectors; v++)
#define FROM(pointer) NAME(load)((pointer) + v * LANES, lanes)
#define TO(pointer, value) NAME(store)((pointer) + v * LANES, value, lanes)
#define TOTAL (STRIPE * 64 / sizeof(REAL))

/* The sums of a stripe so far, and what the second half needs of them. All zero before the first part. */
typedef struct {
    int64_t rows, batch; /* rows summed so far, and those of them whose sum is not added in double yet */
    double totals[5][TOTAL];
    vec sums[5][STRIPE], kept[6][STRIPE];
} NAME(Stripe);

/* After some rows: if the batch is full or was the last, add its sums in double. */
#define COLLECT(count)                                                                                            \
    for (int i = 0; i < count; i++) EACH NAME(collect)(&to->sums[i][v], to->totals[i] + v * LANES);
#define COLLECT_BATCH(count)                                                                                      \
    if (to->batch >= BLOCK || to->rows == s->rows) {                                                              \
        COLLECT(count)                                                                                            \
        to->batch = 0;                                                                                            \
    }

/* The numbers that normalise a stripe: y = (x - centre) * factor + added. The factor is root times the scale. */
typedef struct {
    vec centre[STRIPE], root[STRIPE], factor[STRIPE], added[STRIPE];
} NAME(Affine);

INLINE void NAME(read_affine)(NAME(Affine) *to, const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c) {
    EACH {
        to->centre[v] = FROM(s->mean + c), to->root[v] = to->factor[v] = FROM(s->inverse + c), to->added[v] = (vec){0};
        if (s->scale) to->factor[v] *= FROM(s->scale + c);
        if (s->shift) to->added[v] = FROM(s->shift + c);
    }
}

/* The mean and inverse standard deviation of a stripe from the sums of x - first and of its square. */
INLINE void NAME(finish_moments)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c,
                                 NAME(Stripe) *to) {
    EACH {
        vec centre = to->kept[0][v], root = {0};
        for (int64_t i = 0; i < LANES; i++) {
            const double offset = to->totals[0][v * LANES + i] / (double)s->rows;
            double variance = to->totals[1][v * LANES + i] / (double)s->rows - offset * offset;
            if (variance < 0) variance = 0;
            centre[i] = (REAL)((double)centre[i] + offset);
            root[i] = (REAL)(1 / sqrt(variance + s->epsilon));
        }
        TO(s->mean + c, centre), TO(s->inverse + c, root);
    }
}

INLINE void NAME(moments_stripe)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c,
                                 NAME(Stripe) *to) {
    vec first[STRIPE];
    if (!to->rows) EACH to->kept[0][v] = FROM(s->x + c);
    EACH first[v] = to->kept[0][v];
    for (int64_t r = 0; r < s->part;) {
        const int64_t start = r, most = r + BLOCK - to->batch, end = most < s->part ? most : s->part;
        vec sum[STRIPE], square[STRIPE];
        EACH sum[v] = to->sums[0][v], square[v] = to->sums[1][v];
        for (; r < end; r++) {
            const REAL *x = s->x + r * s->channels + c;
            EACH {
                const vec d = FROM(x) - first[v];
                sum[v] += d, square[v] += d * d;
            }
        }
        EACH to->sums[0][v] = sum[v], to->sums[1][v] = square[v];
        to->rows += end - start, to->batch += end - start;
        COLLECT_BATCH(2)
    }
    if (to->rows == s->rows) NAME(finish_moments)(vectors, lanes, s, c, to);
}

INLINE void NAME(apply_stripe)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c,
                                   NAME(Stripe) *to) {
    NAME(Affine) by;
    (void)to;
    NAME(read_affine)(&by, vectors, lanes, s, c);
    for (int64_t r = 0; r < s->part; r++) {
        const REAL *x = s->x + r * s->channels + c;
        REAL *y = s->y + r * s->channels + c;
        EACH {
            const vec value = (FROM(x) - by.centre[v]) * by.factor[v] + by.added[v];
            TO(y, s->relu ? NAME(where_positive)(value, value) : value);
        }
    }
}

/* From the sums of g and of g (x - centre): the gradients of scale and shift, and the gradient of x as a function of a
 * row: factor * g + slope * (x - centre) + level. Keeps slope and level. */
INLINE void NAME(finish_back)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c,
                              const NAME(Affine) *by, NAME(Stripe) *to) {
    EACH {
        vec s1 = {0}, s2 = {0}, m1 = {0}, m2 = {0};
        for (int64_t i = 0; i < LANES; i++) {
            const double t1 = to->totals[0][v * LANES + i], t2 = to->totals[1][v * LANES + i] * (double)by->root[v][i];
            s1[i] = (REAL)t1, s2[i] = (REAL)t2;
            m1[i] = (REAL)(t1 / (double)s->rows), m2[i] = (REAL)(t2 / (double)s->rows) * by->root[v][i];
        }
        TO(s->g_shift + c, s1), TO(s->g_scale + c, s2);
        to->kept[0][v] = -by->factor[v] * m2, to->kept[1][v] = -by->factor[v] * m1;
    }
}

/* The first derivative: gradients of x, scale and shift, from the gradient g of y. */
INLINE void NAME(back_sums_stripe)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c,
                                   NAME(Stripe) *to) {
    NAME(Affine) by;
    NAME(read_affine)(&by, vectors, lanes, s, c);
    for (int64_t r = 0; r < s->part;) {
        const int64_t start = r, most = r + BLOCK - to->batch, end = most < s->part ? most : s->part;
        vec sum[STRIPE], product[STRIPE];
        EACH sum[v] = to->sums[0][v], product[v] = to->sums[1][v];
        for (; r < end; r++) {
            const REAL *x = s->x + r * s->channels + c, *g = s->g + r * s->channels + c;
            EACH {
                const vec d = FROM(x) - by.centre[v];
                vec up = FROM(g);
                if (s->relu) up = NAME(where_positive)(d * by.factor[v] + by.added[v], up);
                sum[v] += up, product[v] += up * d;
            }
        }
        EACH to->sums[0][v] = sum[v], to->sums[1][v] = product[v];
        to->rows += end - start, to->batch += end - start;
        COLLECT_BATCH(2)
    }
    if (to->rows == s->rows) NAME(finish_back)(vectors, lanes, s, c, &by, to);
}

INLINE void NAME(back_stripe)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c,
                              NAME(Stripe) *to) {
    NAME(Affine) by;
    vec slope[STRIPE], level[STRIPE];
    NAME(read_affine)(&by, vectors, lanes, s, c);
    EACH slope[v] = to->kept[0][v], level[v] = to->kept[1][v];
    for (int64_t r = 0; r < s->part; r++) {
        const REAL *x = s->x + r * s->channels + c, *g = s->g + r * s->channels + c;
        REAL *gx = s->gx + r * s->channels + c;
        EACH {
            const vec d = FROM(x) - by.centre[v];
            vec up = FROM(g);
            if (s->relu) up = NAME(where_positive)(d * by.factor[v] + by.added[v], up);
            TO(gx, by.factor[v] * up + (slope[v] * d + level[v]));
        }
    }
}

/* The second derivative: gradients of g, x and scale, from the gradients u of gx, a of g_scale and b of g_shift. Let X
 * be the normalised x and P(v) = v - mean(v) - X mean(v X). Then gx = scale / std * P(g). P is symmetric. gx depends on
 * x through X and 1 / std.
 *
 * As a function of a row, the gradient of x is x_u * u + x_X * X + x_level + x_g * g. The gradient of g is
 * factor * u + g_X * X + g_level. These are the numbers of which `kept` has a vector each: */
enum { NAME(x_u), NAME(x_X), NAME(x_level), NAME(x_g), NAME(g_X), NAME(g_level) };

/* From the sums of g, g X, u, u X and u g. */
INLINE void NAME(finish_twice)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c,
                               const NAME(Affine) *by, NAME(Stripe) *to) {
    EACH {
        vec means[5];
        for (int j = 0; j < 5; j++)
            for (int64_t i = 0; i < LANES; i++) means[j][i] = (REAL)(to->totals[j][v * LANES + i] / (double)s->rows);
        const vec m1 = means[0], m2 = means[1], mu = means[2], mux = means[3];
        const vec factor = by->factor[v], root = by->root[v];
        const vec projected = means[4] - mu * m1 - mux * m2; /* mean(u P(g)) */
        const vec on_scale = s->a ? FROM(s->a + c) : (vec){0}, on_shift = s->b ? FROM(s->b + c) : (vec){0};
        const vec less = on_scale - factor * mux;
        TO(s->g_scale + c, root * projected * (REAL)s->rows);
        to->kept[NAME(x_u)][v] = -root * factor * m2, to->kept[NAME(x_g)][v] = root * less;
        to->kept[NAME(x_level)][v] = root * (factor * m2 * mu - less * m1);
        to->kept[NAME(x_X)][v] = -root * ((less - factor * mux) * m2 + factor * projected);
        to->kept[NAME(g_X)][v] = less, to->kept[NAME(g_level)][v] = on_shift - factor * mu;
    }
}

INLINE void NAME(twice_sums_stripe)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c,
                                    NAME(Stripe) *to) {
    NAME(Affine) by;
    NAME(read_affine)(&by, vectors, lanes, s, c);
    for (int64_t r = 0; r < s->part;) {
        const int64_t start = r, most = r + BLOCK - to->batch, end = most < s->part ? most : s->part;
        vec sums[5][STRIPE];
        for (int i = 0; i < 5; i++) EACH sums[i][v] = to->sums[i][v];
        for (; r < end; r++) {
            const int64_t at = r * s->channels + c;
            EACH {
                const vec d = FROM(s->x + at) - by.centre[v], X = d * by.root[v], in = FROM(s->u + at);
                vec up = FROM(s->g + at);
                if (s->relu) up = NAME(where_positive)(d * by.factor[v] + by.added[v], up);
                sums[0][v] += up, sums[1][v] += up * X, sums[2][v] += in, sums[3][v] += in * X, sums[4][v] += in * up;
            }
        }
        for (int i = 0; i < 5; i++) EACH to->sums[i][v] = sums[i][v];
        to->rows += end - start, to->batch += end - start;
        COLLECT_BATCH(5)
    }
    if (to->rows == s->rows) NAME(finish_twice)(vectors, lanes, s, c, &by, to);
}

INLINE void NAME(twice_stripe)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c,
                               NAME(Stripe) *to) {
    NAME(Affine) by;
    vec kept[6][STRIPE];
    NAME(read_affine)(&by, vectors, lanes, s, c);
    for (int i = 0; i < 6; i++) EACH kept[i][v] = to->kept[i][v];
    for (int64_t r = 0; r < s->part; r++) {
        const int64_t at = r * s->channels + c;
        EACH {
            const vec d = FROM(s->x + at) - by.centre[v], before = d * by.factor[v] + by.added[v];
            const vec X = d * by.root[v], in = FROM(s->u + at);
            vec up = FROM(s->g + at), back;
            if (s->relu) up = NAME(where_positive)(before, up);
            back = by.factor[v] * in + (kept[NAME(g_X)][v] * X + kept[NAME(g_level)][v]);
            TO(s->gx + at, kept[NAME(x_u)][v] * in + kept[NAME(x_g)][v] * up +
                               (kept[NAME(x_X)][v] * X + kept[NAME(x_level)][v]));
            TO(s->gg + at, s->relu ? NAME(where_positive)(before, back) : back);
        }
    }
}

/* The number of channels of the stripe at channel c. For doubles stripes are narrower, because that compiles faster. */
static int64_t NAME(stripe_width)(int64_t channels, int64_t c) {
    const int64_t left = (channels - c) / LANES;
    if (STRIPE >= 4 && sizeof(REAL) == 4 && left >= 4) return 4 * LANES;
    return sizeof(REAL) == 4 && left >= 2 ? 2 * LANES : left ? LANES : channels - c;
}

/* A function for the stripe at channel c. All callers run the same instructions, so they get the same bits. */
#define STRIPE_FUNCTION(name, Problem, size)                                                                      \
    static __attribute__((noinline)) void NAME(name)(const Problem *s, int64_t c, NAME(Stripe) *to) {             \
        const int64_t width = NAME(stripe_width)(size, c);                                                        \
        if (STRIPE >= 4 && sizeof(REAL) == 4 && width == 4 * LANES)                                               \
            JOIN(name##_stripe, REAL)(STRIPE >= 4 ? 4 : 1, LANES, s, c, to);                                      \
        else if (sizeof(REAL) == 4 && width == 2 * LANES)                                                         \
            JOIN(name##_stripe, REAL)(2, LANES, s, c, to);                                                        \
        else if (width == LANES)                                                                                  \
            JOIN(name##_stripe, REAL)(1, LANES, s, c, to);                                                        \
        else                                                                                                      \
            JOIN(name##_stripe, REAL)(1, width, s, c, to);                                                        \
    }
STRIPE_FUNCTION(moments, NAME(Group), s->channels)
STRIPE_FUNCTION(apply, NAME(Group), s->channels)
STRIPE_FUNCTION(back_sums, NAME(Group), s->channels)
STRIPE_FUNCTION(back, NAME(Group), s->channels)
STRIPE_FUNCTION(twice_sums, NAME(Group), s->channels)
STRIPE_FUNCTION(twice, NAME(Group), s->channels)

/* Both halves for all stripes of a group whose rows are all given. */
#define STRIPES(channels, first, second, s)                                                                       \
    for (int64_t c = 0; c < (channels); c += NAME(stripe_width)(channels, c)) {                                   \
        NAME(Stripe) stripe = {0};                                                                                \
        NAME(first)(s, c, &stripe), NAME(second)(s, c, &stripe);                                                  \
    }

/* Group i of all groups. Each `each` consecutive groups share scale and shift. */
static NAME(Group) NAME(group)(NAME(Group) all, int64_t each, int64_t i) {
    const int64_t at = i * all.rows * all.channels, own = i * all.channels, set = i / each * all.channels;
    all.part = all.rows;
    all.u = AT(all.u, at), all.g = AT(all.g, at), all.x += at, all.y = AT(all.y, at), all.gg = AT(all.gg, at);
    all.gx = AT(all.gx, at), all.a = AT(all.a, own), all.b = AT(all.b, own), all.scale = AT(all.scale, set);
    all.shift = AT(all.shift, set), all.mean += own, all.inverse += own, all.g_scale = AT(all.g_scale, own);
    all.g_shift = AT(all.g_shift, own);
    return all;
}

/* For `groups` groups of rows. Each `each` consecutive groups share scale, shift, a and b. */
void NAME(normalise)(int64_t groups, int64_t each, int64_t rows, int64_t channels, int relu, double epsilon,
                         const REAL *x, const REAL *scale, const REAL *shift, REAL *mean, REAL *inverse, REAL *y) {
    const NAME(Group) all = {.rows = rows, .channels = channels, .relu = relu, .epsilon = epsilon, .x = x,
                             .scale = scale, .shift = shift, .mean = mean, .inverse = inverse, .y = y};
    for (int64_t i = 0; i < groups; i++) {
        const NAME(Group) s = NAME(group)(all, each, i);
        STRIPES(channels, moments, apply, &s)
    }
}

void NAME(normalise_back)(int64_t groups, int64_t each, int64_t rows, int64_t channels, int relu, const REAL *g,
                          const REAL *x, const REAL *scale, const REAL *shift, REAL *mean, REAL *inverse, REAL *gx,
                          REAL *g_scale, REAL *g_shift) {
    const NAME(Group) all = {.rows = rows, .channels = channels, .relu = relu, .g = g, .x = x, .scale = scale,
                             .shift = shift, .mean = mean, .inverse = inverse, .gx = gx, .g_scale = g_scale,
                             .g_shift = g_shift};
    for (int64_t i = 0; i < groups; i++) {
        const NAME(Group) s = NAME(group)(all, each, i);
        STRIPES(channels, back_sums, back, &s)
    }
}

void NAME(normalise_twice)(int64_t groups, int64_t each, int64_t rows, int64_t channels, int relu, const REAL *u,
                           const REAL *a, const REAL *b, const REAL *g, const REAL *x, const REAL *scale,
                           const REAL *shift, REAL *mean, REAL *inverse, REAL *gg, REAL *gx, REAL *g_scale) {
    const NAME(Group) all = {.rows = rows, .channels = channels, .relu = relu, .u = u, .a = a, .b = b, .g = g, .x = x,
                             .scale = scale, .shift = shift, .mean = mean, .inverse = inverse, .gg = gg, .gx = gx,
                             .g_scale = g_scale};
    for (int64_t i = 0; i < groups; i++) {
        const NAME(Group) s = NAME(group)(all, each, i);
        STRIPES(channels, twice_sums, twice, &s)
    }
}
