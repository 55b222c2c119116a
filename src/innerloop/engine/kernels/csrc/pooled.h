/* Batch norm, ReLU and max-pooling fused into one, with derivatives up to second order. Windows lie side by side. The
 * images between the layers are never written. `chosen` is the tap that a window took, or NOTHING if ReLU left none.
 * `picked` is x at that tap. */

#define NOTHING 255

typedef uint8_t NAME(taps) __attribute__((vector_size(VECTOR_BYTES / sizeof(REAL))));

typedef struct {
    NAME(Group) norm; /* its rows are pixels; the sums of the first derivative count windows */
    const Convolution *window; /* its images are those that are given now */
    int64_t images; /* all images of a group */
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

INLINE void NAME(pooled_apply_stripe)(const int vectors, const int64_t lanes, const NAME(Pooled) *p, int64_t c,
                                      NAME(Stripe) *kept) {
    const Convolution *s = p->window;
    NAME(Affine) by;
    (void)kept;
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

/* Loops over all windows of an image: `to` is the window's place. */
#define EACH_IMAGE for (int64_t n = 0; n < s->images; n++)
#define EACH_WINDOW_OF_IMAGE                                                                                      \
        for (int64_t oy = 0, to = n * s->out_height * s->out_width * s->in + c; oy < s->out_height; oy++)         \
            for (int64_t ox = 0; ox < s->out_width; ox++, to += s->in)
#define EACH_WINDOW EACH_IMAGE EACH_WINDOW_OF_IMAGE

/* Loops over the pixels of a window: `at` is the pixel's place, `tap` its tap in the window. */
#define EACH_PIXEL                                                                                                \
    for (int64_t ky = 0, tap = 0, row = (n * s->height + oy * s->kernel_h) * s->width + ox * s->kernel_w;         \
         ky < s->kernel_h; ky++, row += s->width)                                                                 \
        for (int64_t kx = 0, at = row * s->in + c; kx < s->kernel_w; kx++, tap++, at += s->in)

/* Loops over the pixels that lie in no window. */
#define EACH_OTHER_PIXEL EACH_IMAGE EACH_OTHER_PIXEL_OF_IMAGE
#define EACH_OTHER_PIXEL_OF_IMAGE                                                                                 \
        for (int64_t y = 0; y < s->height; y++)                                                                   \
            for (int64_t first = y < s->out_height * s->kernel_h ? s->out_width * s->kernel_w : 0,                \
                         left = s->width - first, at = ((n * s->height + y) * s->width + first) * s->in + c;      \
                 left; left--, at += s->in)

/* The parts of `value` where the window took this tap, or took any. */
#define TAKEN(value) (vec)((mask)(value) & (mask)(chosen[v] == (INTEGER)tap))
#define TAKEN_AT_ALL(value) (vec)((mask)(value) & (mask)(chosen[v] != NOTHING))
#define CHOSEN NAME(load_taps)(p->chosen + to + v * LANES, lanes)

INLINE void NAME(pooled_back_sums_stripe)(const int vectors, const int64_t lanes, const NAME(Pooled) *p, int64_t c,
                                          NAME(Stripe) *kept) {
    const Convolution *s = p->window;
    const int64_t each = s->out_height * s->out_width, part = s->images * each, all = p->images * each;
    NAME(Affine) by;
    mask chosen[STRIPE] = {{0}};
    NAME(read_affine)(&by, vectors, lanes, &p->norm, c);
    for (int64_t r = 0; r < part;) {
        const int64_t start = r, most = r + BLOCK - kept->batch, end = most < part ? most : part;
        vec sum[STRIPE], product[STRIPE];
        EACH sum[v] = kept->sums[0][v], product[v] = kept->sums[1][v];
        for (; r < end; r++) {
            const int64_t to = r * s->in + c;
            EACH {
                chosen[v] = CHOSEN;
                const vec g = TAKEN_AT_ALL(FROM(p->norm.g + to));
                sum[v] += g, product[v] += g * (FROM(p->picked + to) - by.centre[v]);
            }
        }
        EACH kept->sums[0][v] = sum[v], kept->sums[1][v] = product[v];
        kept->rows += end - start, kept->batch += end - start;
        if (kept->batch < BLOCK && kept->rows < all) continue;
        for (int i = 0; i < 2; i++) EACH NAME(collect)(&kept->sums[i][v], kept->totals[i] + v * LANES);
        kept->batch = 0;
    }
    if (kept->rows == all) NAME(finish_back)(vectors, lanes, &p->norm, c, &by, kept);
}

INLINE void NAME(pooled_back_stripe)(const int vectors, const int64_t lanes, const NAME(Pooled) *p, int64_t c,
                                     NAME(Stripe) *kept) {
    const Convolution *s = p->window;
    NAME(Affine) by;
    vec slope[STRIPE], level[STRIPE], up[STRIPE] = {{0}};
    mask chosen[STRIPE] = {{0}};
    NAME(read_affine)(&by, vectors, lanes, &p->norm, c);
    EACH slope[v] = kept->kept[0][v], level[v] = kept->kept[1][v];
    EACH_WINDOW {
        EACH chosen[v] = CHOSEN, up[v] = by.factor[v] * FROM(p->norm.g + to);
        EACH_PIXEL EACH {
            const vec rest = slope[v] * (FROM(p->norm.x + at) - by.centre[v]) + level[v];
            TO(p->norm.gx + at, TAKEN(up[v]) + rest);
        }
    }
    EACH_OTHER_PIXEL EACH TO(p->norm.gx + at, slope[v] * (FROM(p->norm.x + at) - by.centre[v]) + level[v]);
}

/* After some pixels of the second derivative: if the batch is full, add its sums in double. */
#define COLLECT_PIXELS                                                                                            \
    if (batch >= BLOCK) {                                                                                         \
        for (int i = 0; i < 5; i++) EACH NAME(collect)(&sums[i][v], kept->totals[i] + v * LANES);                 \
        batch = 0;                                                                                                \
    }

INLINE void NAME(pooled_twice_sums_stripe)(const int vectors, const int64_t lanes, const NAME(Pooled) *p, int64_t c,
                                           NAME(Stripe) *kept) {
    const Convolution *s = p->window;
    NAME(Affine) by;
    vec sums[5][STRIPE], in[STRIPE] = {{0}};
    mask chosen[STRIPE] = {{0}};
    int64_t batch = kept->batch;
    NAME(read_affine)(&by, vectors, lanes, &p->norm, c);
    for (int i = 0; i < 5; i++) EACH sums[i][v] = kept->sums[i][v];
    EACH_IMAGE {
        EACH_WINDOW_OF_IMAGE {
            EACH chosen[v] = CHOSEN, in[v] = (vec){0};
            EACH_PIXEL EACH {
                const vec X = (FROM(p->norm.x + at) - by.centre[v]) * by.root[v], u = FROM(p->norm.u + at);
                sums[2][v] += u, sums[3][v] += u * X, in[v] = (vec)((mask)in[v] | (mask)TAKEN(u));
            }
            EACH {
                const vec X = (FROM(p->picked + to) - by.centre[v]) * by.root[v];
                const vec g = TAKEN_AT_ALL(FROM(p->norm.g + to));
                sums[0][v] += g, sums[1][v] += g * X, sums[4][v] += g * in[v];
            }
            batch += s->kernel_h * s->kernel_w;
            COLLECT_PIXELS
        }
        EACH_OTHER_PIXEL_OF_IMAGE {
            EACH {
                const vec X = (FROM(p->norm.x + at) - by.centre[v]) * by.root[v], u = FROM(p->norm.u + at);
                sums[2][v] += u, sums[3][v] += u * X;
            }
            batch++;
            COLLECT_PIXELS
        }
    }
    kept->rows += s->images, kept->batch = batch;
    if (kept->rows == p->images) batch = BLOCK;
    COLLECT_PIXELS
    for (int i = 0; i < 5; i++) EACH kept->sums[i][v] = sums[i][v];
    if (kept->rows == p->images) NAME(finish_twice)(vectors, lanes, &p->norm, c, &by, kept);
}

INLINE void NAME(pooled_twice_stripe)(const int vectors, const int64_t lanes, const NAME(Pooled) *p, int64_t c,
                                      NAME(Stripe) *kept) {
    const Convolution *s = p->window;
    NAME(Affine) by;
    vec by_row[6][STRIPE], up[STRIPE] = {{0}}, in[STRIPE] = {{0}};
    mask chosen[STRIPE] = {{0}};
    NAME(read_affine)(&by, vectors, lanes, &p->norm, c);
    for (int i = 0; i < 6; i++) EACH by_row[i][v] = kept->kept[i][v];
    EACH_WINDOW {
        EACH chosen[v] = CHOSEN, up[v] = by_row[NAME(x_g)][v] * FROM(p->norm.g + to), in[v] = (vec){0};
        EACH_PIXEL EACH {
            const vec X = (FROM(p->norm.x + at) - by.centre[v]) * by.root[v], u = FROM(p->norm.u + at);
            in[v] = (vec)((mask)in[v] | (mask)TAKEN(u));
            TO(p->norm.gx + at, by_row[NAME(x_u)][v] * u + TAKEN(up[v]) + (by_row[NAME(x_X)][v] * X + by_row[NAME(x_level)][v]));
        }
        EACH {
            const vec X = (FROM(p->picked + to) - by.centre[v]) * by.root[v];
            TO(p->norm.gg + to, TAKEN_AT_ALL(by.factor[v] * in[v] + (by_row[NAME(g_X)][v] * X + by_row[NAME(g_level)][v])));
        }
    }
    EACH_OTHER_PIXEL EACH {
        const vec X = (FROM(p->norm.x + at) - by.centre[v]) * by.root[v], u = FROM(p->norm.u + at);
        TO(p->norm.gx + at, by_row[NAME(x_u)][v] * u + (by_row[NAME(x_X)][v] * X + by_row[NAME(x_level)][v]));
    }
}

/* The moments of the group's pixels. */
static void NAME(pooled_moments)(const NAME(Pooled) *p, int64_t c, NAME(Stripe) *to) { NAME(moments)(&p->norm, c, to); }
STRIPE_FUNCTION(pooled_apply, NAME(Pooled), s->norm.channels)
STRIPE_FUNCTION(pooled_back_sums, NAME(Pooled), s->norm.channels)
STRIPE_FUNCTION(pooled_back, NAME(Pooled), s->norm.channels)
STRIPE_FUNCTION(pooled_twice_sums, NAME(Pooled), s->norm.channels)
STRIPE_FUNCTION(pooled_twice, NAME(Pooled), s->norm.channels)

/* Group i of all groups. Its images lie one after another in memory, and so do their windows. */
INLINE NAME(Pooled) NAME(pooled_group)(const Convolution *s, int64_t each, int64_t i, uint8_t *chosen, REAL *picked,
                                       NAME(Group) all) {
    const int64_t inputs = s->images * s->height * s->width, outputs = s->images * s->out_height * s->out_width;
    const int64_t at = i * inputs * s->in, to = i * outputs * s->in, own = i * s->in, set = i / each * s->in;
    all.rows = all.part = inputs, all.channels = s->in, all.relu = 0;
    all.x += at, all.scale = AT(all.scale, set), all.shift = AT(all.shift, set), all.mean += own, all.inverse += own;
    all.u = AT(all.u, at), all.a = AT(all.a, own), all.b = AT(all.b, own), all.g = AT(all.g, to), all.y = AT(all.y, to);
    all.gg = AT(all.gg, to), all.gx = AT(all.gx, at), all.g_scale = AT(all.g_scale, own);
    all.g_shift = AT(all.g_shift, own);
    return (NAME(Pooled)){.norm = all, .window = s, .images = s->images, .chosen = chosen + to, .picked = picked + to};
}

/* Like normalise, normalise_back and normalise_twice, with a pooling window. The tasks of the window are the groups. */
void NAME(normalise_pool)(const Convolution *window, int64_t each, double epsilon, const REAL *x, const REAL *scale,
                          const REAL *shift, REAL *mean, REAL *inverse, REAL *y, uint8_t *chosen, REAL *picked) {
    const NAME(Group) all = {.epsilon = epsilon, .x = x, .scale = scale, .shift = shift, .mean = mean, .inverse = inverse, .y = y};
    for (int64_t i = 0, channels = window->in; i < window->tasks; i++) {
        const NAME(Pooled) s = NAME(pooled_group)(window, each, i, chosen, picked, all);
        STRIPES(channels, pooled_moments, pooled_apply, &s)
    }
}

void NAME(normalise_pool_back)(const Convolution *window, int64_t each, const REAL *g, const REAL *x,
                               const REAL *scale, const REAL *shift, REAL *mean, REAL *inverse, uint8_t *chosen,
                               REAL *picked, REAL *gx, REAL *g_scale, REAL *g_shift) {
    const NAME(Group) all = {.g = g, .x = x, .scale = scale, .shift = shift, .mean = mean, .inverse = inverse, .gx = gx,
                             .g_scale = g_scale, .g_shift = g_shift};
    for (int64_t i = 0, channels = window->in; i < window->tasks; i++) {
        const NAME(Pooled) s = NAME(pooled_group)(window, each, i, chosen, picked, all);
        STRIPES(channels, pooled_back_sums, pooled_back, &s)
    }
}

void NAME(normalise_pool_twice)(const Convolution *window, int64_t each, const REAL *u, const REAL *a, const REAL *b,
                                const REAL *g, const REAL *x, const REAL *scale, const REAL *shift, REAL *mean,
                                REAL *inverse, uint8_t *chosen, REAL *picked, REAL *gg, REAL *gx, REAL *g_scale) {
    const NAME(Group) all = {.u = u, .a = a, .b = b, .g = g, .x = x, .scale = scale, .shift = shift, .mean = mean,
                             .inverse = inverse, .gg = gg, .gx = gx, .g_scale = g_scale};
    for (int64_t i = 0, channels = window->in; i < window->tasks; i++) {
        const NAME(Pooled) s = NAME(pooled_group)(window, each, i, chosen, picked, all);
        STRIPES(channels, pooled_twice_sums, pooled_twice, &s)
    }
}

#undef EACH_IMAGE
#undef EACH_WINDOW_OF_IMAGE
#undef EACH_WINDOW
#undef EACH_OTHER_PIXEL_OF_IMAGE
#undef COLLECT_PIXELS
#undef EACH_PIXEL
#undef EACH_OTHER_PIXEL
#undef TAKEN
#undef TAKEN_AT_ALL
#undef CHOSEN
#undef NOTHING
