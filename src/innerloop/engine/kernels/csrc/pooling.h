/* The largest value of each window and its tap, for up to LANES channels. */
INLINE void NAME(pool_lanes)(const Convolution *s, const REAL *image, int64_t oy, int64_t ox, const int64_t lanes,
                             REAL *y, uint8_t *chosen) {
    vec best = {0};
    mask which = {0};
    int first = 1;
    for (int64_t ky = 0, tap = 0; ky < s->kernel_h; ky++)
        for (int64_t kx = 0; kx < s->kernel_w; kx++, tap++) {
            const int64_t row = oy * s->stride_h + ky * s->dilation_h - s->pad_h;
            const int64_t column = ox * s->stride_w + kx * s->dilation_w - s->pad_w;
            if (row < 0 || row >= s->height || column < 0 || column >= s->width) continue;
            const vec value = NAME(load)(image + (row * s->width + column) * s->in, lanes);
            /* A NaN wins and stays. */
            const mask better = first ? which - 1 : (mask)(value > best) | (mask)(value != value);
            best = (vec)(((mask)value & better) | ((mask)best & ~better));
            which = (better & (INTEGER)tap) | (which & ~better);
            first = 0;
        }
    NAME(store)(y, best, lanes);
    for (int64_t i = 0; i < lanes; i++) chosen[i] = (uint8_t)which[i];
}

/* The largest value of each window, and its tap. A window has at most 255 taps. */
void NAME(pool)(const Convolution *s, const REAL *x, REAL *y, uint8_t *chosen) {
    for (int64_t n = 0; n < s->tasks * s->images; n++)
        for (int64_t oy = 0; oy < s->out_height; oy++)
            for (int64_t ox = 0; ox < s->out_width; ox++)
                for (int64_t c = 0; c < s->in; c += LANES) {
                    const REAL *image = x + n * s->height * s->width * s->in + c;
                    const int64_t to = ((n * s->out_height + oy) * s->out_width + ox) * s->in + c;
                    if (s->in - c >= LANES)
                        NAME(pool_lanes)(s, image, oy, ox, LANES, y + to, chosen + to);
                    else
                        NAME(pool_lanes)(s, image, oy, ox, s->in - c, y + to, chosen + to);
                }
}

/* With `back`, g [.., out_height, out_width, in] is added to the chosen pixels of x. Otherwise g gets their values. */
void NAME(pool_linear)(const Convolution *s, int back, const uint8_t *chosen, REAL *x, REAL *g) {
    const int64_t inputs = s->height * s->width * s->in, outputs = s->out_height * s->out_width * s->in;
    memset(back ? x : g, 0, (size_t)(s->tasks * s->images * (back ? inputs : outputs)) * sizeof(REAL));
    for (int64_t n = 0; n < s->tasks * s->images; n++)
        for (int64_t oy = 0; oy < s->out_height; oy++)
            for (int64_t ox = 0; ox < s->out_width; ox++) {
                const int64_t at = n * outputs + (oy * s->out_width + ox) * s->in;
                for (int64_t ky = 0, tap = 0; ky < s->kernel_h; ky++)
                    for (int64_t kx = 0; kx < s->kernel_w; kx++, tap++) {
                        const int64_t row = oy * s->stride_h + ky * s->dilation_h - s->pad_h;
                        const int64_t column = ox * s->stride_w + kx * s->dilation_w - s->pad_w;
                        if (row < 0 || row >= s->height || column < 0 || column >= s->width) continue;
                        REAL *pixel = x + n * inputs + (row * s->width + column) * s->in, *out = g + at;
                        const uint8_t *which = chosen + at;
                        if (back)
#pragma GCC ivdep
                            for (int64_t c = 0; c < s->in; c++) pixel[c] += which[c] == tap ? out[c] : 0;
                        else
#pragma GCC ivdep
                            for (int64_t c = 0; c < s->in; c++) out[c] += which[c] == tap ? pixel[c] : 0;
                    }
            }
}

