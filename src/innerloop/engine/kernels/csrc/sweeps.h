/* Parts of a sweep. A sweep works on a few images of a task at a time, with several kernels one after another, so that
 * what one writes is still in the cache when the next reads it. Each part gets addresses of the task's first image of
 * these, and gives the same bits as its kernel on all images at once. */

#define P(i) ((REAL *)(intptr_t)v[i])
#define STREAM(i) ((NAME(Stream)){P(i), v[(i) + 1]})

/* The bytes of the sums of a batch norm of one task. */
int64_t NAME(state_bytes)(int64_t channels) {
    int64_t stripes = 0;
    for (int64_t c = 0; c < channels; c += NAME(stripe_width)(channels, c)) stripes++;
    return stripes * (int64_t)sizeof(NAME(Stripe));
}

/* The numbers of a window whose images are those of this part. */
static Convolution NAME(of_part)(int64_t sizes, int64_t images) {
    Convolution s = *(const Convolution *)(intptr_t)sizes;
    s.tasks = s.shared_weights = 1, s.images = images;
    return s;
}

/* One half of a derivative for all stripes. Before the first images, the sums are cleared. */
#define ALL_STRIPES(half, problem, many, state)                                                                   \
    {                                                                                                             \
        NAME(Stripe) *stripe = (NAME(Stripe) *)(void *)(state);                                                   \
        for (int64_t c = 0; c < (many); c += NAME(stripe_width)(many, c)) NAME(half)(problem, c, stripe ? stripe++ : NULL);\
        return 0;                                                                                                 \
    }

/* Do part `what`, by its number in PARTS of library.py, for `images` of `all` images of a task, from `first` on. */
static int NAME(part)(int64_t what, const int64_t *v, int64_t images, int64_t first, int64_t all, int64_t task) {
    NAME(Group) s = {.rows = 0};
    NAME(Pooled) p;
    Convolution own;
    if (what < 3) {
        const int shared = (int)((const Convolution *)(intptr_t)v[0])->shared_weights;
        own = NAME(of_part)(v[0], images);
        if (what == 0) return NAME(convolve_in)(&own, P(1), P(2), P(3), STREAM(4));
        if (what == 1) return NAME(weight_gradient_in)(&own, P(1), P(2), P(3), first > 0, STREAM(4));
        if (first == 0 && (task == 0 || !shared)) NAME(turn)(&own, P(2), P(4));
        return NAME(input_gradient_in)(&own, P(1), P(2), P(3), P(4), STREAM(5));
    }
    if (what < 9) {
        s.rows = v[2], s.channels = v[3], s.relu = (int)v[4], s.part = v[2] / all * images;
        if (what < 5) {
            memcpy(&s.epsilon, v + 5, sizeof s.epsilon);
            s.x = P(6), s.scale = P(7), s.shift = P(8), s.mean = P(9), s.inverse = P(10), s.y = P(11);
            if (what == 4) ALL_STRIPES(apply, &s, s.channels, P(12))
            if (first == 0) memset(P(12), 0, (size_t)NAME(state_bytes)(s.channels));
            ALL_STRIPES(moments, &s, s.channels, P(12))
        }
        if (what < 7) {
            s.g = P(5), s.x = P(6), s.scale = P(7), s.shift = P(8), s.mean = P(9), s.inverse = P(10), s.gx = P(11);
            s.g_scale = P(12), s.g_shift = P(13);
            if (what == 6) ALL_STRIPES(back, &s, s.channels, P(14))
            if (first == 0) memset(P(14), 0, (size_t)NAME(state_bytes)(s.channels));
            ALL_STRIPES(back_sums, &s, s.channels, P(14))
        }
        s.u = P(5), s.a = P(6), s.b = P(7), s.g = P(8), s.x = P(9), s.scale = P(10), s.shift = P(11), s.mean = P(12);
        s.inverse = P(13), s.gg = P(14), s.gx = P(15), s.g_scale = P(16);
        if (what == 8) ALL_STRIPES(twice, &s, s.channels, P(17))
        if (first == 0) memset(P(17), 0, (size_t)NAME(state_bytes)(s.channels));
        ALL_STRIPES(twice_sums, &s, s.channels, P(17))
    }
    if (what < 15) {
        own = NAME(of_part)(v[0], images);
        p = (NAME(Pooled)){.window = &own, .images = all};
        s.channels = own.in, s.part = images * own.height * own.width, s.rows = all * own.height * own.width;
        if (what < 11) {
            memcpy(&s.epsilon, v + 2, sizeof s.epsilon);
            s.x = P(3), s.scale = P(4), s.shift = P(5), s.mean = P(6), s.inverse = P(7), s.y = P(8);
            p.norm = s, p.chosen = (uint8_t *)P(9), p.picked = P(10);
            if (what == 10) ALL_STRIPES(pooled_apply, &p, s.channels, P(11))
            if (first == 0) memset(P(11), 0, (size_t)NAME(state_bytes)(s.channels));
            ALL_STRIPES(moments, &s, s.channels, P(11))
        }
        if (what < 13) {
            s.g = P(2), s.x = P(3), s.scale = P(4), s.shift = P(5), s.mean = P(6), s.inverse = P(7), s.gx = P(10);
            s.g_scale = P(11), s.g_shift = P(12);
            p.norm = s, p.chosen = (uint8_t *)P(8), p.picked = P(9);
            if (what == 12) ALL_STRIPES(pooled_back, &p, s.channels, P(13))
            if (first == 0) memset(P(13), 0, (size_t)NAME(state_bytes)(s.channels));
            ALL_STRIPES(pooled_back_sums, &p, s.channels, P(13))
        }
        s.u = P(2), s.a = P(3), s.b = P(4), s.g = P(5), s.x = P(6), s.scale = P(7), s.shift = P(8), s.mean = P(9);
        s.inverse = P(10), s.gg = P(13), s.gx = P(14), s.g_scale = P(15);
        p.norm = s, p.chosen = (uint8_t *)P(11), p.picked = P(12);
        if (what == 14) ALL_STRIPES(pooled_twice, &p, s.channels, P(16))
        if (first == 0) memset(P(16), 0, (size_t)NAME(state_bytes)(s.channels));
        ALL_STRIPES(pooled_twice_sums, &p, s.channels, P(16))
    }
    if (what == 15) { /* the sum of two tensors */
#pragma GCC ivdep
        for (int64_t i = 0; i < v[0] * images; i++) P(3)[i] = P(1)[i] + P(2)[i];
        return 0;
    }
    if (what == 16) { /* a multiple of a tensor */
        double factor;
        memcpy(&factor, v + 2, sizeof factor);
        const REAL by = (REAL)factor;
#pragma GCC ivdep
        for (int64_t i = 0; i < v[0] * images; i++) P(3)[i] = P(1)[i] * by;
        return 0;
    }
    return 1;
}

#undef P
#undef STREAM
#undef ALL_STRIPES
