/* Batch norm of groups of rows [rows, channels], normalised over the rows, with derivatives up to second order. A ReLU
 * after it can be included. A stripe is a few vectors of channels. Its sums stay in registers, and rows are read in
 * order. */

typedef struct {
    int64_t rows, channels;
    int relu; /* whether ReLU follows and is differentiated together with it */
    const REAL *u, *a, *b, *g, *x, *scale, *shift; /* a, b, scale and shift may be NULL */
    REAL *mean, *inverse, *y, *gg, *gx, *g_scale, *g_shift;
} NAME(Group);

#define EACH _Pragma("GCC unroll 8") for (int v = 0; v < vectors; v++)
#define FROM(pointer) NAME(load)((pointer) + v * LANES, lanes)
#define TO(pointer, value) NAME(store)((pointer) + v * LANES, value, lanes)
#define TOTAL (STRIPE * 64 / sizeof(REAL))

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
INLINE void NAME(finish_moments)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c, REAL epsilon,
                                 double totals[2][TOTAL]) {
    EACH {
        vec centre = FROM(s->x + c), root = {0};
        for (int64_t i = 0; i < LANES; i++) {
            const double offset = totals[0][v * LANES + i] / (double)s->rows;
            double variance = totals[1][v * LANES + i] / (double)s->rows - offset * offset;
            if (variance < 0) variance = 0;
            centre[i] = (REAL)((double)centre[i] + offset);
            root[i] = (REAL)(1 / sqrt(variance + (double)epsilon));
        }
        TO(s->mean + c, centre), TO(s->inverse + c, root);
    }
}

INLINE void NAME(moments_stripe)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c,
                                 REAL epsilon) {
    vec first[STRIPE], sum[STRIPE] = {{0}}, square[STRIPE] = {{0}};
    double totals[2][TOTAL] = {{0}};
    EACH first[v] = FROM(s->x + c);
    for (int64_t r = 0; r < s->rows;) {
        const int64_t end = r + BLOCK < s->rows ? r + BLOCK : s->rows;
        for (; r < end; r++) {
            const REAL *x = s->x + r * s->channels + c;
            EACH {
                const vec d = FROM(x) - first[v];
                sum[v] += d, square[v] += d * d;
            }
        }
        EACH NAME(collect)(&sum[v], totals[0] + v * LANES), NAME(collect)(&square[v], totals[1] + v * LANES);
    }
    NAME(finish_moments)(vectors, lanes, s, c, epsilon, totals);
}

INLINE void NAME(normalise_stripe)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c,
                                   REAL epsilon) {
    NAME(Affine) by;
    NAME(moments_stripe)(vectors, lanes, s, c, epsilon);
    NAME(read_affine)(&by, vectors, lanes, s, c);
    for (int64_t r = 0; r < s->rows; r++) {
        const REAL *x = s->x + r * s->channels + c;
        REAL *y = s->y + r * s->channels + c;
        EACH {
            const vec value = (FROM(x) - by.centre[v]) * by.factor[v] + by.added[v];
            TO(y, s->relu ? NAME(where_positive)(value, value) : value);
        }
    }
}

/* From the sums of g and of g (x - centre): the gradients of scale and shift, and the gradient of x as a function of a
 * row: factor * g + slope * (x - centre) + level. */
INLINE void NAME(finish_back)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c,
                              const NAME(Affine) *by, double totals[2][TOTAL], vec *slope, vec *level) {
    EACH {
        vec s1 = {0}, s2 = {0}, m1 = {0}, m2 = {0};
        for (int64_t i = 0; i < LANES; i++) {
            const double t1 = totals[0][v * LANES + i], t2 = totals[1][v * LANES + i] * (double)by->root[v][i];
            s1[i] = (REAL)t1, s2[i] = (REAL)t2;
            m1[i] = (REAL)(t1 / (double)s->rows), m2[i] = (REAL)(t2 / (double)s->rows) * by->root[v][i];
        }
        TO(s->g_shift + c, s1), TO(s->g_scale + c, s2);
        slope[v] = -by->factor[v] * m2, level[v] = -by->factor[v] * m1;
    }
}

/* The first derivative: gradients of x, scale and shift, from the gradient g of y. */
INLINE void NAME(back_stripe)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c, REAL epsilon) {
    NAME(Affine) by;
    vec sum[STRIPE] = {{0}}, product[STRIPE] = {{0}}, slope[STRIPE], level[STRIPE];
    double totals[2][TOTAL] = {{0}};
    (void)epsilon;
    NAME(read_affine)(&by, vectors, lanes, s, c);
    for (int64_t r = 0; r < s->rows;) {
        const int64_t end = r + BLOCK < s->rows ? r + BLOCK : s->rows;
        for (; r < end; r++) {
            const REAL *x = s->x + r * s->channels + c, *g = s->g + r * s->channels + c;
            EACH {
                const vec d = FROM(x) - by.centre[v];
                vec up = FROM(g);
                if (s->relu) up = NAME(where_positive)(d * by.factor[v] + by.added[v], up);
                sum[v] += up, product[v] += up * d;
            }
        }
        EACH NAME(collect)(&sum[v], totals[0] + v * LANES), NAME(collect)(&product[v], totals[1] + v * LANES);
    }
    NAME(finish_back)(vectors, lanes, s, c, &by, totals, slope, level);
    for (int64_t r = 0; r < s->rows; r++) {
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

/* The second derivative as a function of a row, with the normalised x, X. The gradient of x is
 * x_u * u + x_X * X + x_level + x_g * g. The gradient of g is factor * u + g_X * X + g_level. */
typedef struct {
    vec x_u[STRIPE], x_X[STRIPE], x_level[STRIPE], x_g[STRIPE], g_X[STRIPE], g_level[STRIPE];
} NAME(Second);

/* From the sums of g, g X, u, u X and u g. */
INLINE void NAME(finish_twice)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c,
                               const NAME(Affine) *by, double totals[5][TOTAL], NAME(Second) *to) {
    EACH {
        vec means[5];
        for (int j = 0; j < 5; j++)
            for (int64_t i = 0; i < LANES; i++) means[j][i] = (REAL)(totals[j][v * LANES + i] / (double)s->rows);
        const vec m1 = means[0], m2 = means[1], mu = means[2], mux = means[3];
        const vec factor = by->factor[v], root = by->root[v];
        const vec projected = means[4] - mu * m1 - mux * m2; /* mean(u P(g)) */
        const vec on_scale = s->a ? FROM(s->a + c) : (vec){0}, on_shift = s->b ? FROM(s->b + c) : (vec){0};
        const vec less = on_scale - factor * mux;
        TO(s->g_scale + c, root * projected * (REAL)s->rows);
        to->x_u[v] = -root * factor * m2, to->x_g[v] = root * less;
        to->x_level[v] = root * (factor * m2 * mu - less * m1);
        to->x_X[v] = -root * ((less - factor * mux) * m2 + factor * projected);
        to->g_X[v] = less, to->g_level[v] = on_shift - factor * mu;
    }
}

/* The second derivative: gradients of g, x and scale, from the gradients u of gx, a of g_scale and b of g_shift. Let X
 * be the normalised x and P(v) = v - mean(v) - X mean(v X). Then gx = scale / std * P(g). P is symmetric. gx depends on
 * x through X and 1 / std. */
INLINE void NAME(twice_stripe)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c, REAL epsilon) {
    NAME(Affine) by;
    NAME(Second) second;
    vec sums[5][STRIPE] = {{{0}}};
    double totals[5][TOTAL] = {{0}};
    (void)epsilon;
    NAME(read_affine)(&by, vectors, lanes, s, c);
    for (int64_t r = 0; r < s->rows;) {
        const int64_t end = r + BLOCK < s->rows ? r + BLOCK : s->rows;
        for (; r < end; r++) {
            const int64_t at = r * s->channels + c;
            EACH {
                const vec d = FROM(s->x + at) - by.centre[v], X = d * by.root[v], in = FROM(s->u + at);
                vec up = FROM(s->g + at);
                if (s->relu) up = NAME(where_positive)(d * by.factor[v] + by.added[v], up);
                sums[0][v] += up, sums[1][v] += up * X, sums[2][v] += in, sums[3][v] += in * X, sums[4][v] += in * up;
            }
        }
        for (int i = 0; i < 5; i++) EACH NAME(collect)(&sums[i][v], totals[i] + v * LANES);
    }
    NAME(finish_twice)(vectors, lanes, s, c, &by, totals, &second);
    for (int64_t r = 0; r < s->rows; r++) {
        const int64_t at = r * s->channels + c;
        EACH {
            const vec d = FROM(s->x + at) - by.centre[v], before = d * by.factor[v] + by.added[v];
            const vec X = d * by.root[v], in = FROM(s->u + at);
            vec up = FROM(s->g + at), back;
            if (s->relu) up = NAME(where_positive)(before, up);
            back = by.factor[v] * in + (second.g_X[v] * X + second.g_level[v]);
            TO(s->gx + at, second.x_u[v] * in + second.x_g[v] * up + (second.x_X[v] * X + second.x_level[v]));
            TO(s->gg + at, s->relu ? NAME(where_positive)(before, back) : back);
        }
    }
}

/* All channels of a group, in stripes. For doubles the stripes are narrower, because that compiles faster. */
#define STRIPES(stripe)                                                                                           \
    for (int64_t c = 0; c < channels;) {                                                                          \
        const int64_t left = (channels - c) / LANES;                                                              \
        if (STRIPE >= 4 && sizeof(REAL) == 4 && left >= 4)                                                          \
            NAME(stripe)(STRIPE >= 4 ? 4 : 1, LANES, &s, c, (REAL)epsilon), c += 4 * LANES;                          \
        else if (sizeof(REAL) == 4 && left >= 2)                                                                  \
            NAME(stripe)(2, LANES, &s, c, (REAL)epsilon), c += 2 * LANES;                                          \
        else if (left)                                                                                            \
            NAME(stripe)(1, LANES, &s, c, (REAL)epsilon), c += LANES;                                              \
        else                                                                                                      \
            NAME(stripe)(1, channels - c, &s, c, (REAL)epsilon), c = channels;                                     \
    }

/* For `groups` groups of rows. Each `each` consecutive groups share scale, shift, a and b. */
void NAME(normalise)(int64_t groups, int64_t each, int64_t rows, int64_t channels, int relu, double epsilon,
                     const REAL *x, const REAL *scale, const REAL *shift, REAL *mean, REAL *inverse, REAL *y) {
    for (int64_t i = 0; i < groups; i++) {
        const int64_t at = i * rows * channels, own = i * channels, set = i / each * channels;
        const NAME(Group) s = {.rows = rows, .channels = channels, .relu = relu, .x = x + at, .scale = AT(scale, set),
                               .shift = AT(shift, set), .mean = mean + own, .inverse = inverse + own, .y = y + at};
        STRIPES(normalise_stripe)
    }
}

void NAME(normalise_back)(int64_t groups, int64_t each, int64_t rows, int64_t channels, int relu, const REAL *g,
                          const REAL *x, const REAL *scale, const REAL *shift, REAL *mean, REAL *inverse, REAL *gx,
                          REAL *g_scale, REAL *g_shift) {
    const double epsilon = 0;
    for (int64_t i = 0; i < groups; i++) {
        const int64_t at = i * rows * channels, own = i * channels, set = i / each * channels;
        const NAME(Group) s = {.rows = rows, .channels = channels, .relu = relu, .g = g + at, .x = x + at,
                               .scale = AT(scale, set), .shift = AT(shift, set), .mean = mean + own,
                               .inverse = inverse + own, .gx = gx + at, .g_scale = g_scale + own,
                               .g_shift = g_shift + own};
        STRIPES(back_stripe)
    }
}

void NAME(normalise_twice)(int64_t groups, int64_t each, int64_t rows, int64_t channels, int relu, const REAL *u,
                           const REAL *a, const REAL *b, const REAL *g, const REAL *x, const REAL *scale,
                           const REAL *shift, REAL *mean, REAL *inverse, REAL *gg, REAL *gx, REAL *g_scale) {
    const double epsilon = 0;
    for (int64_t i = 0; i < groups; i++) {
        const int64_t at = i * rows * channels, own = i * channels, set = i / each * channels;
        const NAME(Group) s = {.rows = rows, .channels = channels, .relu = relu, .u = u + at, .a = AT(a, own),
                               .b = AT(b, own), .g = g + at, .x = x + at, .scale = AT(scale, set),
                               .shift = AT(shift, set), .mean = mean + own, .inverse = inverse + own, .gg = gg + at,
                               .gx = gx + at, .g_scale = g_scale + own};
        STRIPES(twice_stripe)
    }
}
