/* Batch norm of groups of rows [rows, channels], normalised over rows, to second order. ReLU after it may be part of it.
 * A stripe is a few vectors of channels: its sums stay in registers, and rows are read in order. */

typedef struct {
    int64_t rows, channels;
    int relu; /* whether ReLU follows and is differentiated together with it */
    const REAL *u, *a, *b, *g, *x, *scale, *shift; /* a, b, scale and shift may be NULL */
    REAL *mean, *inverse, *y, *gg, *gx, *g_scale, *g_shift;
} NAME(Group);

#define EACH _Pragma("GCC unroll 8") for (int v = 0; v < vectors; v++)
#define FROM(pointer) NAME(load)((pointer) + v * LANES, lanes)
#define TO(pointer, value) NAME(store)((pointer) + v * LANES, value, lanes)
#define TOTAL (WIDE * 64 / sizeof(REAL))

/* What a stripe is normalised with: y = (x - centre) * factor + added, factor being root times the scale. */
typedef struct {
    vec centre[WIDE], root[WIDE], factor[WIDE], added[WIDE];
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
    vec first[WIDE], sum[WIDE] = {{0}}, square[WIDE] = {{0}};
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

/* Its derivative: gradients of x, scale and shift from the gradient g of y. */
INLINE void NAME(back_stripe)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c, REAL epsilon) {
    NAME(Affine) by;
    vec sum[WIDE] = {{0}}, product[WIDE] = {{0}}, m1[WIDE], m2[WIDE];
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
    EACH {
        vec s1 = {0}, s2 = {0};
        for (int64_t i = 0; i < LANES; i++) {
            const double t1 = totals[0][v * LANES + i], t2 = totals[1][v * LANES + i] * (double)by.root[v][i];
            s1[i] = (REAL)t1, s2[i] = (REAL)t2;
            m1[v][i] = (REAL)(t1 / (double)s->rows), m2[v][i] = (REAL)(t2 / (double)s->rows) * by.root[v][i];
        }
        TO(s->g_shift + c, s1), TO(s->g_scale + c, s2);
    }
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

/* The derivative of that: gradients of g, x and scale, from those of gx (u), of g_scale (a) and of g_shift (b).
 * With n the rows, X the normalised x and P(v) = v - mean(v) - X mean(v X), gx = scale / std * P(g); P is symmetric,
 * and its dependence on x is through X and 1 / std. */
INLINE void NAME(twice_stripe)(const int vectors, const int64_t lanes, const NAME(Group) *s, int64_t c, REAL epsilon) {
    NAME(Affine) by;
    vec sums[5][WIDE] = {{{0}}}, on_scale[WIDE], on_shift[WIDE], means[5][WIDE], q_mean[WIDE], on_x[WIDE];
    double totals[5][TOTAL] = {{0}};
    (void)epsilon;
    NAME(read_affine)(&by, vectors, lanes, s, c);
    EACH {
        on_scale[v] = on_shift[v] = (vec){0};
        if (s->a) on_scale[v] = FROM(s->a + c);
        if (s->b) on_shift[v] = FROM(s->b + c);
    }
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
    EACH {
        for (int j = 0; j < 5; j++)
            for (int64_t i = 0; i < LANES; i++) means[j][v][i] = (REAL)(totals[j][v * LANES + i] / (double)s->rows);
        const vec m1 = means[0][v], m2 = means[1][v], mu = means[2][v], mux = means[3][v];
        const vec projected = means[4][v] - mu * m1 - mux * m2; /* mean(u P(g)) */
        TO(s->g_scale + c, by.root[v] * projected * (REAL)s->rows);
        q_mean[v] = on_scale[v] * m1 - by.factor[v] * (m2 * mu + mux * m1);
        on_x[v] = by.root[v] * ((on_scale[v] - by.factor[v] * mux * 2) * m2) + by.factor[v] * by.root[v] * projected;
    }
    for (int64_t r = 0; r < s->rows; r++) {
        const int64_t at = r * s->channels + c;
        EACH {
            const vec d = FROM(s->x + at) - by.centre[v], X = d * by.root[v], in = FROM(s->u + at);
            const vec before = d * by.factor[v] + by.added[v];
            vec up = FROM(s->g + at);
            if (s->relu) up = NAME(where_positive)(before, up);
            vec back = by.factor[v] * (in - means[2][v] - X * means[3][v]) + on_scale[v] * X + on_shift[v];
            if (s->relu) back = NAME(where_positive)(before, back);
            TO(s->gg + at, back);
            const vec q = on_scale[v] * up - by.factor[v] * (means[1][v] * in + means[3][v] * up);
            TO(s->gx + at, by.root[v] * (q - q_mean[v]) - X * on_x[v]);
        }
    }
}

#if WIDE == 4
#define WIDEST(stripe)                                                                                            \
    if (left >= 4) { NAME(stripe)(4, LANES, &s, c, (REAL)epsilon), c += 4 * LANES; continue; }
#else
#define WIDEST(stripe)
#endif
/* All channels of a group, in stripes. */
#define STRIPES(stripe)                                                                                           \
    for (int64_t c = 0; c < channels;) {                                                                          \
        const int64_t left = (channels - c) / LANES;                                                              \
        WIDEST(stripe)                                                                                            \
        if (left >= 2) NAME(stripe)(2, LANES, &s, c, (REAL)epsilon), c += 2 * LANES;                              \
        else if (left) NAME(stripe)(1, LANES, &s, c, (REAL)epsilon), c += LANES;                                  \
        else NAME(stripe)(1, channels - c, &s, c, (REAL)epsilon), c = channels;                                   \
    }

/* For `groups` groups of rows; `each` consecutive ones have the same scale and shift, a and b. */
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
