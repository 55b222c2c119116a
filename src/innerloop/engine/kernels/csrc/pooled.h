/* Batch norm, ReLU and max-pooling fused into one, with derivatives up to second order. Windows lie side by side. The
 * images between the layers are never written. `chosen` is the tap that a window took, or NOTHING if ReLU left none.
 * `picked` is x at that tap. */

#define NOTHING 255
#define OUTSIDE 254 /* the tap of pixels beyond the last window */

typedef uint8_t NAME(taps) __attribute__((vector_size(VECTOR_BYTES / sizeof(REAL))));

typedef struct {
    NAME(Group) norm;
    const Convolution *window; /* its images are the images of a group */
    uint8_t *chosen;
    REAL *picked;
} NAME(Pooled);

INLINE mask NAME(load_taps)(const uint8_t *from, int64_t lanes) {
    NAME(taps) taps = {0};
    memcpy(&taps, from, (size_t)lanes);
    return __builtin_convertvector(taps, mask);
}

INLINE void NAME(store_taps)(uint8_t *to, mask which, int64_t lanes) {
    const NAME(taps) taps = __builtin_convertvector(which, NAME(taps));
    memcpy(to, &taps, (size_t)lanes);
}

INLINE void NAME(pooled_stripe)(const int vectors, const int64_t lanes, const NAME(Pooled) *p, int64_t c,
                                REAL epsilon) {
    const Convolution *s = p->window;
    NAME(Affine) by;
    NAME(moments_stripe)(vectors, lanes, &p->norm, c, epsilon);
    NAME(read_affine)(&by, vectors, lanes, &p->norm, c);
    int64_t to = c;
    for (int64_t n = 0; n < s->images; n++)
        for (int64_t oy = 0; oy < s->out_height; oy++)
            for (int64_t ox = 0; ox < s->out_width; ox++, to += s->in) {
                vec best[STRIPE] = {{0}}, source[STRIPE] = {{0}};
                mask which[STRIPE] = {{0}};
                const int64_t first = (n * s->height + oy * s->kernel_h) * s->width + ox * s->kernel_w;
                const REAL *corner = p->norm.x + first * s->in + c;
                for (int64_t ky = 0, tap = 0; ky < s->kernel_h; ky++)
                    for (int64_t kx = 0; kx < s->kernel_w; kx++, tap++) {
                        const REAL *x = corner + (ky * s->width + kx) * s->in;
                        EACH {
                            const vec from = FROM(x), value = (from - by.centre[v]) * by.factor[v] + by.added[v];
                            /* A NaN wins and stays. */
                            const mask wins = (mask)(value > best[v]) | (mask)(value != value);
                            const mask better = tap ? wins : (mask){0} - 1;
                            best[v] = (vec)(((mask)value & better) | ((mask)best[v] & ~better));
                            source[v] = (vec)(((mask)from & better) | ((mask)source[v] & ~better));
                            which[v] = (better & (INTEGER)tap) | (which[v] & ~better);
                        }
                    }
                EACH {
                    const mask nothing = (mask)(best[v] <= 0);
                    TO(p->norm.y + to, NAME(where_positive)(best[v], best[v])), TO(p->picked + to, source[v]);
                    NAME(store_taps)(p->chosen + to + v * LANES, which[v] | (nothing & NOTHING), lanes);
                }
            }
}

/* Loops over all pixels of a group's images: `at` is the pixel's place, `to` its window, `tap` its tap in the window.
 * */
#define PIXELS(...)                                                                                               \
    for (int64_t n = 0, at = c; n < s->images; n++)                                                               \
        for (int64_t y = 0, ky = 0, oy = 0; y < s->height; y++, ky++) {                                           \
            if (ky == s->kernel_h) ky = 0, oy++;                                                                  \
            const int64_t line = (n * s->out_height + (oy < s->out_height ? oy : 0)) * s->out_width;              \
            for (int64_t u = 0, kx = 0, ox = 0; u < s->width; u++, kx++, at += s->in) {                           \
                if (kx == s->kernel_w) kx = 0, ox++;                                                              \
                const int inside = oy < s->out_height && ox < s->out_width;                                       \
                const int64_t to = (line + (inside ? ox : 0)) * s->in + c;                                        \
                const INTEGER tap = inside ? (INTEGER)(ky * s->kernel_w + kx) : OUTSIDE;                          \
                __VA_ARGS__                                                                                       \
            }                                                                                                     \
        }
#define TAKEN ((mask)(NAME(load_taps)(p->chosen + to + v * LANES, lanes) == tap))

INLINE void NAME(pooled_back_stripe)(const int vectors, const int64_t lanes, const NAME(Pooled) *p, int64_t c,
                                     REAL epsilon) {
    const Convolution *s = p->window;
    const int64_t windows = s->images * s->out_height * s->out_width;
    NAME(Affine) by;
    vec sum[STRIPE] = {{0}}, product[STRIPE] = {{0}}, m1[STRIPE], m2[STRIPE];
    double totals[2][TOTAL] = {{0}};
    (void)epsilon;
    NAME(read_affine)(&by, vectors, lanes, &p->norm, c);
    for (int64_t r = 0; r < windows;) {
        const int64_t end = r + BLOCK < windows ? r + BLOCK : windows;
        for (; r < end; r++) {
            const int64_t to = r * s->in + c;
            EACH {
                const mask some = (mask)(NAME(load_taps)(p->chosen + to + v * LANES, lanes) != NOTHING);
                const vec up = (vec)((mask)FROM(p->norm.g + to) & some);
                sum[v] += up, product[v] += up * (FROM(p->picked + to) - by.centre[v]);
            }
        }
        EACH NAME(collect)(&sum[v], totals[0] + v * LANES), NAME(collect)(&product[v], totals[1] + v * LANES);
    }
    NAME(finish_back)(vectors, lanes, &p->norm, c, &by, totals, m1, m2);
    PIXELS({
        EACH {
            const vec d = FROM(p->norm.x + at) - by.centre[v], up = (vec)((mask)FROM(p->norm.g + to) & TAKEN);
            TO(p->norm.gx + at, by.factor[v] * (up - m1[v] - d * m2[v]));
        }
    })
}

INLINE void NAME(pooled_twice_stripe)(const int vectors, const int64_t lanes, const NAME(Pooled) *p, int64_t c,
                                      REAL epsilon) {
    const Convolution *s = p->window;
    NAME(Affine) by;
    NAME(Second) second;
    vec sums[5][STRIPE] = {{{0}}};
    double totals[5][TOTAL] = {{0}};
    int64_t summed = 0;
    (void)epsilon;
    NAME(read_affine)(&by, vectors, lanes, &p->norm, c);
    PIXELS({
        EACH {
            const vec X = (FROM(p->norm.x + at) - by.centre[v]) * by.root[v], in = FROM(p->norm.u + at);
            const vec up = (vec)((mask)FROM(p->norm.g + to) & TAKEN);
            sums[0][v] += up, sums[1][v] += up * X, sums[2][v] += in, sums[3][v] += in * X, sums[4][v] += in * up;
        }
        if (++summed % BLOCK == 0)
            for (int i = 0; i < 5; i++) EACH NAME(collect)(&sums[i][v], totals[i] + v * LANES);
    })
    for (int i = 0; i < 5; i++) EACH NAME(collect)(&sums[i][v], totals[i] + v * LANES);
    NAME(finish_twice)(vectors, lanes, &p->norm, c, &by, totals, &second);
    PIXELS({
        EACH {
            const vec X = (FROM(p->norm.x + at) - by.centre[v]) * by.root[v], in = FROM(p->norm.u + at);
            const mask taken = TAKEN;
            const vec up = (vec)((mask)FROM(p->norm.g + to) & taken);
            vec back;
            TO(p->norm.gx + at, NAME(twice_of)(&second, v, &by, X, in, up, &back));
            TO(p->norm.gg + to, (vec)(((mask)back & taken) | (tap ? (mask)FROM(p->norm.gg + to) & ~taken : (mask){0})));
        }
    })
}

/* Group i of all groups. Its images lie one after another in memory, and so do their windows. */
INLINE NAME(Pooled) NAME(pooled_group)(const Convolution *s, int64_t each, int64_t i, uint8_t *chosen, REAL *picked,
                                       NAME(Group) all) {
    const int64_t inputs = s->images * s->height * s->width, outputs = s->images * s->out_height * s->out_width;
    const int64_t at = i * inputs * s->in, to = i * outputs * s->in, own = i * s->in, set = i / each * s->in;
    all.rows = inputs, all.channels = s->in, all.relu = 0;
    all.x += at, all.scale = AT(all.scale, set), all.shift = AT(all.shift, set), all.mean += own, all.inverse += own;
    all.u = AT(all.u, at), all.a = AT(all.a, own), all.b = AT(all.b, own), all.g = AT(all.g, to), all.y = AT(all.y, to);
    all.gg = AT(all.gg, to), all.gx = AT(all.gx, at), all.g_scale = AT(all.g_scale, own);
    all.g_shift = AT(all.g_shift, own);
    return (NAME(Pooled)){.norm = all, .window = s, .chosen = chosen + to, .picked = picked + to};
}

/* Like normalise, normalise_back and normalise_twice, with a pooling window. The tasks of the window are the groups. */
void NAME(normalise_pool)(const Convolution *window, int64_t each, double epsilon, const REAL *x, const REAL *scale,
                          const REAL *shift, REAL *mean, REAL *inverse, REAL *y, uint8_t *chosen, REAL *picked) {
    const NAME(Group) all = {.x = x, .scale = scale, .shift = shift, .mean = mean, .inverse = inverse, .y = y};
    for (int64_t i = 0, channels = window->in; i < window->tasks; i++) {
        const NAME(Pooled) s = NAME(pooled_group)(window, each, i, chosen, picked, all);
        STRIPES(pooled_stripe)
    }
}

void NAME(normalise_pool_back)(const Convolution *window, int64_t each, const REAL *g, const REAL *x,
                               const REAL *scale, const REAL *shift, REAL *mean, REAL *inverse, uint8_t *chosen,
                               REAL *picked, REAL *gx, REAL *g_scale, REAL *g_shift) {
    const double epsilon = 0;
    const NAME(Group) all = {.g = g, .x = x, .scale = scale, .shift = shift, .mean = mean, .inverse = inverse, .gx = gx,
                             .g_scale = g_scale, .g_shift = g_shift};
    for (int64_t i = 0, channels = window->in; i < window->tasks; i++) {
        const NAME(Pooled) s = NAME(pooled_group)(window, each, i, chosen, picked, all);
        STRIPES(pooled_back_stripe)
    }
}

void NAME(normalise_pool_twice)(const Convolution *window, int64_t each, const REAL *u, const REAL *a, const REAL *b,
                                const REAL *g, const REAL *x, const REAL *scale, const REAL *shift, REAL *mean,
                                REAL *inverse, uint8_t *chosen, REAL *picked, REAL *gg, REAL *gx, REAL *g_scale) {
    const double epsilon = 0;
    const NAME(Group) all = {.u = u, .a = a, .b = b, .g = g, .x = x, .scale = scale, .shift = shift, .mean = mean,
                             .inverse = inverse, .gg = gg, .gx = gx, .g_scale = g_scale};
    for (int64_t i = 0, channels = window->in; i < window->tasks; i++) {
        const NAME(Pooled) s = NAME(pooled_group)(window, each, i, chosen, picked, all);
        STRIPES(pooled_twice_stripe)
    }
}

#undef PIXELS
#undef TAKEN
#undef NOTHING
#undef OUTSIDE
