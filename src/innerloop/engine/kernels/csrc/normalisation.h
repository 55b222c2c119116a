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

/* From the sums of g and of g (x - centre): the means that are subtracted in the gradient of x, and the gradients of
 * scale and shift. */
INLINE void NAME(finish_back)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c,
                              const NAME(Affine) *by, double totals[2][TOTAL], vec *m1, vec *m2) {
    EACH {
        vec s1 = {0}, s2 = {0};
        for (int64_t i = 0; i < LANES; i++) {
            const double t1 = totals[0][v * LANES + i], t2 = totals[1][v * LANES + i] * (double)by->root[v][i];
            s1[i] = (REAL)t1, s2[i] = (REAL)t2;
            m1[v][i] = (REAL)(t1 / (double)s->rows), m2[v][i] = (REAL)(t2 / (double)s->rows) * by->root[v][i];
        }
        TO(s->g_shift + c, s1), TO(s->g_scale + c, s2);
    }
}

/* The first derivative: gradients of x, scale and shift, from the gradient g of y. */
INLINE void NAME(back_stripe)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c, REAL epsilon) {
    NAME(Affine) by;
    vec sum[STRIPE] = {{0}}, product[STRIPE] = {{0}}, m1[STRIPE], m2[STRIPE];
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
    NAME(finish_back)(vectors, lanes, s, c, &by, totals, m1, m2);
    for (int64_t r = 0; r < s->rows; r++) {
        const REAL *x = s->x + r * s->channels + c, *g = s->g + r * s->channels + c;
        REAL *gx = s->gx + r * s->channels + c;
        EACH {
            const vec d = FROM(x) - by.centre[v];
            vec up = FROM(g);
            if (s->relu) up = NAME(where_positive)(d * by.factor[v] + by.added[v], up);
            TO(gx, by.factor[v] * (up - m1[v] - d * m2[v]));
        }
    }
}

/* The parts of the second derivative that are the same for all rows. */
typedef struct {
    vec m2[STRIPE], mu[STRIPE], mux[STRIPE], on_scale[STRIPE], on_shift[STRIPE], q_mean[STRIPE], on_x[STRIPE];
} NAME(Second);

/* From the sums of g, g X, u, u X and u g. */
INLINE void NAME(finish_twice)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c,
                               const NAME(Affine) *by, double totals[5][TOTAL], NAME(Second) *to) {
    EACH {
        vec means[5];
        for (int j = 0; j < 5; j++)
            for (int64_t i = 0; i < LANES; i++) means[j][i] = (REAL)(totals[j][v * LANES + i] / (double)s->rows);
        const vec m1 = means[0], m2 = means[1], mu = means[2], mux = means[3], factor = by->factor[v];
        const vec projected = means[4] - mu * m1 - mux * m2; /* mean(u P(g)) */
        const vec on_scale = s->a ? FROM(s->a + c) : (vec){0}, on_shift = s->b ? FROM(s->b + c) : (vec){0};
        TO(s->g_scale + c, by->root[v] * projected * (REAL)s->rows);
        to->m2[v] = m2, to->mu[v] = mu, to->mux[v] = mux, to->on_scale[v] = on_scale, to->on_shift[v] = on_shift;
        to->q_mean[v] = on_scale * m1 - factor * (m2 * mu + mux * m1);
        to->on_x[v] = by->root[v] * ((on_scale - factor * mux * 2) * m2) + factor * by->root[v] * projected;
    }
}

/* The gradient of x. The gradient of g is written to `back`. */
INLINE vec NAME(twice_of)(const NAME(Second) *by, const int v, const NAME(Affine) *affine, vec X, vec in, vec up,
                          vec *back) {
    const vec factor = affine->factor[v];
    const vec q = by->on_scale[v] * up - factor * (by->m2[v] * in + by->mux[v] * up);
    *back = factor * (in - by->mu[v] - X * by->mux[v]) + by->on_scale[v] * X + by->on_shift[v];
    return affine->root[v] * (q - by->q_mean[v]) - X * by->on_x[v];
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
            vec up = FROM(s->g + at), back;
            if (s->relu) up = NAME(where_positive)(before, up);
            TO(s->gx + at, NAME(twice_of)(&second, v, &by, d * by.root[v], FROM(s->u + at), up, &back));
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
