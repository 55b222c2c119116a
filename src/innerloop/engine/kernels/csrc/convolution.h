/* The three products of a convolution: the output, the gradient of the input, and the gradient of the weights. Each
 * position uses only the taps that lie within the image. Positions with the same taps make one product. */

/* Prefetch `numbers` numbers from `from` on, or `others` numbers from `other` on if these are more, while `products`
 * multiplications are done. Memory to write to is fetched as well, before the first write. */
INLINE Ahead NAME(ahead)(const REAL *from, int64_t numbers, const REAL *other, int64_t others, int64_t products) {
    const int64_t steps = products / (NAME(shapes)[NAME(chosen)].numbers);
    if (others > numbers) from = other, numbers = others;
    return (Ahead){(const char *)from, numbers * (int64_t)sizeof(REAL) * 5 / 4 / (steps ? steps : 1)};
}

/* Memory that a sweep reads after these images: `from` on, `each` numbers for each image. NULL if this is no sweep. */
typedef struct {
    const REAL *from;
    int64_t each;
} NAME(Stream);

/* The part of a sweep's stream that is prefetched while `images` images from number `first` on are worked on. */
INLINE Ahead NAME(ahead_in)(NAME(Stream) stream, int64_t first, int64_t images, int64_t products) {
    return NAME(ahead)(stream.from + first * stream.each, images * stream.each, NULL, 0, products);
}

/* For each image and each position of the axes, write to [image, down, across, columns] the sum over the position's
 * taps of source [image, height, width, depth] times weights [tap, depth, columns]. `ahead` is the memory to prefetch.
 * The other arguments are scratch memory. */
static void NAME(correlate)(const Axis *down, const Axis *across, int64_t images, int64_t height, int64_t width,
                            int64_t depth, const REAL *source, int64_t kernel_w, const REAL *weights, int64_t columns,
                            REAL *to, const REAL **a, REAL **c, int64_t *at, int64_t taps, Ahead ahead) {
    const int merged = across->tap_step == 1 && across->source_step == 1; /* the taps of a row lie side by side */
    for (int64_t cy = 0; cy < down->classes; cy++)
        for (int64_t cx = 0; cx < across->classes; cx++) {
            const int64_t many = across->many[cx], runs = merged && many ? 1 : many;
            int64_t pieces = 0, count = 0;
            for (int64_t j = 0; j < down->many[cy]; j++)
                for (int64_t i = 0; i < runs; i++) {
                    const int64_t row = down->first[cy] + j * down->tap_step;
                    const int64_t tap = row * kernel_w + across->first[cx] + i * across->tap_step;
                    at[pieces] = (j * down->source_step * width + i * across->source_step) * depth;
                    at[taps + pieces++] = tap * depth * columns;
                }
            for (int64_t n = 0; n < images; n++)
                for (int64_t y = 0; y < down->positions; y++) {
                    if (down->of[y] != cy) continue;
                    const REAL *row = source + (n * height + down->source[y]) * width * depth;
                    REAL *line = to + (n * down->positions + y) * across->positions * columns;
                    for (int64_t u = 0; u < across->positions; u++)
                        if (across->of[u] == cx) {
                            a[count] = row + across->source[u] * depth;
                            c[count++] = line + u * columns;
                        }
                }
            PRODUCT(a, count, at, 1, weights, at + taps, columns, pieces, merged ? many * depth : depth, columns, 0, c,
                    &ahead);
        }
}

/* The output [task, image, out_height, out_width, out] for input x and weights w. Returns 0, or 1 if there is not
 * enough memory. */
static int NAME(convolve_in)(const Convolution *s, const REAL *x, const REAL *w, REAL *y, NAME(Stream) stream) {
    const int64_t taps = s->kernel_h * s->kernel_w, inputs = s->height * s->width * s->in;
    const int64_t each = s->out_height * s->out_width, out = round_up(s->out, LANES); /* pixels of an image */
    const int64_t block = block_of(s->images, (inputs + each * out) * (int64_t)sizeof(REAL));
    const int odd = out != s->out;
    Axis down = {0}, across = {0};
    REAL *weights = odd ? malloc((size_t)(taps * s->in * out) * sizeof(REAL)) : NULL;
    REAL *result = odd ? malloc((size_t)(block * each * out) * sizeof(REAL)) : NULL;
    const REAL **a = malloc((size_t)(block * each) * sizeof *a);
    REAL **c = malloc((size_t)(block * each) * sizeof *c);
    int64_t *at = malloc((size_t)(2 * taps) * sizeof *at);
    const int failed =
        !a || !c || !at || (odd && (!weights || !result)) ||
        axis_make(&down, s->out_height, s->height, s->kernel_h, s->stride_h, s->pad_h, s->dilation_h, 0) ||
        axis_make(&across, s->out_width, s->width, s->kernel_w, s->stride_w, s->pad_w, s->dilation_w, 0);
    for (int64_t task = 0; !failed && task < s->tasks; task++) {
        const REAL *source = w + (s->shared_weights ? 0 : task * taps * s->in * s->out);
        if (odd && (task == 0 || !s->shared_weights)) NAME(resize)(source, s->out, weights, out, taps * s->in);
        for (int64_t first = 0; first < s->images; first += block) {
            const int64_t images = s->images - first < block ? s->images - first : block;
            REAL *target = y + (task * s->images + first) * each * s->out;
            const REAL *from = x + (task * s->images + first) * inputs;
            const int64_t products = images * each * taps * s->in * out;
            NAME(correlate)(&down, &across, images, s->height, s->width, s->in, from, s->kernel_w,
                            odd ? weights : source, out, odd ? result : target, a, c, at, taps,
                            stream.from ? NAME(ahead_in)(stream, first, images, products)
                                        : NAME(ahead)(from + images * inputs, block * inputs,
                                                      target + images * each * s->out, block * each * s->out,
                                                      products));
            if (odd) NAME(resize)(result, out, target, s->out, images * each);
        }
    }
    free(weights), free(result), free(a), free(c), free(at), free(down.of), free(across.of);
    return failed;
}

int NAME(convolve)(const Convolution *s, const REAL *x, const REAL *w, REAL *y) {
    return NAME(convolve_in)(s, x, w, y, (NAME(Stream)){0});
}

/* Turn weights w [tap, in, out] of a task into [tap from the last, out, in], with `in` filled up to whole vectors. */
static void NAME(turn)(const Convolution *s, const REAL *w, REAL *turned) {
    const int64_t taps = s->kernel_h * s->kernel_w, in = round_up(s->in, LANES);
    if (in != s->in) memset(turned, 0, (size_t)(taps * s->out * in) * sizeof(REAL));
    for (int64_t t = 0; t < taps; t++)
        NAME(transpose)(w + t * s->in * s->out, turned + (taps - 1 - t) * s->out * in, s->in, s->out, in);
}

/* The gradient of the input, [task, image, height, width, in], for output gradient g and weights w. `turned` are the
 * weights already turned, if a single set of them serves all tasks and the caller has done so; otherwise NULL. */
static int NAME(input_gradient_in)(const Convolution *s, const REAL *g, const REAL *w, REAL *x, const REAL *turned,
                                   NAME(Stream) stream) {
    const int64_t taps = s->kernel_h * s->kernel_w, outputs = s->out_height * s->out_width * s->out;
    const int64_t each = s->height * s->width, in = round_up(s->in, LANES);
    const int64_t block = block_of(s->images, (outputs + each * in) * (int64_t)sizeof(REAL));
    const int odd = in != s->in;
    Axis down = {0}, across = {0};
    REAL *own = turned ? NULL : malloc((size_t)(taps * s->out * in) * sizeof(REAL));
    const REAL *weights = turned ? turned : own;
    REAL *result = odd ? malloc((size_t)(block * each * in) * sizeof(REAL)) : NULL;
    const REAL **a = malloc((size_t)(block * each) * sizeof *a);
    REAL **c = malloc((size_t)(block * each) * sizeof *c);
    int64_t *at = malloc((size_t)(2 * taps) * sizeof *at);
    const int failed =
        !a || !c || !at || !weights || (odd && !result) ||
        axis_make(&down, s->height, s->out_height, s->kernel_h, s->stride_h, s->pad_h, s->dilation_h, 1) ||
        axis_make(&across, s->width, s->out_width, s->kernel_w, s->stride_w, s->pad_w, s->dilation_w, 1);
    for (int64_t task = 0; !failed && task < s->tasks; task++) {
        if (own && (task == 0 || !s->shared_weights))
            NAME(turn)(s, w + (s->shared_weights ? 0 : task * taps * s->in * s->out), own);
        for (int64_t first = 0; first < s->images; first += block) {
            const int64_t images = s->images - first < block ? s->images - first : block;
            REAL *target = x + (task * s->images + first) * each * s->in;
            const REAL *from = g + (task * s->images + first) * outputs;
            const int64_t products = images * outputs * taps * in;
            NAME(correlate)(&down, &across, images, s->out_height, s->out_width, s->out, from, s->kernel_w, weights, in,
                            odd ? result : target, a, c, at, taps,
                            stream.from ? NAME(ahead_in)(stream, first, images, products)
                                        : NAME(ahead)(from + images * outputs, block * outputs,
                                                      target + images * each * s->in, block * each * s->in, products));
            if (odd) NAME(resize)(result, in, target, s->in, images * each);
        }
    }
    free(own), free(result), free(a), free(c), free(at), free(down.of), free(across.of);
    return failed;
}

int NAME(input_gradient)(const Convolution *s, const REAL *g, const REAL *w, REAL *x) {
    return NAME(input_gradient_in)(s, g, w, x, NULL, (NAME(Stream)){0});
}

#define MANY 12 /* channels, of an image that is not padded for its gradient of the weights */
#define SHORT 8 /* lines of outputs of fewer are short */

/* Adds the products of images x and their output gradients g to w [tap, in, out]. With `clear` it overwrites w. Here
 * the positions of the axes are taps, and their sources are outputs. */
static void NAME(correlate_weights)(const Convolution *s, const Axis *down, const Axis *across, int64_t images,
                                    const REAL *x, const REAL *g, int64_t out, int clear, REAL *w, const REAL **a,
                                    REAL **c, int64_t *at, int64_t most, Ahead ahead) {
    const int64_t width = s->width * s->in, inputs = s->height * width;
    const int single = s->in >= MANY; /* each output is a separate piece */
    for (int64_t cy = 0; cy < down->classes; cy++)
        for (int64_t cx = 0; cx < across->classes; cx++) {
            const int64_t high = down->many[cy], long_ = across->many[cx];
            /* A piece sums over a line of outputs. If lines are short, it sums over one output of all images. */
            const int by_image = !single && long_ < SHORT && images > long_;
            const int64_t lines = by_image && !single ? 1 : images, points = by_image || single ? long_ : 1;
            int64_t pieces = 0, rows = 0;
            for (int64_t n = 0; n < lines; n++)
                for (int64_t j = 0; j < high; j++)
                    for (int64_t i = 0; i < points; i++) {
                        const int64_t oy = down->first[cy] + j, ox = across->first[cx] + i;
                        at[pieces] = n * inputs + j * s->stride_h * width + i * s->stride_w * s->in;
                        at[most + pieces++] = ((n * s->out_height + oy) * s->out_width + ox) * out;
                    }
            for (int64_t ky = 0; ky < s->kernel_h; ky++)
                for (int64_t kx = 0; kx < s->kernel_w; kx++)
                    for (int64_t i = 0; down->of[ky] == cy && across->of[kx] == cx && i < s->in; i++) {
                        a[rows] = x + down->source[ky] * width + across->source[kx] * s->in + i;
                        c[rows++] = w + ((ky * s->kernel_w + kx) * s->in + i) * out;
                    }
            PRODUCT(a, rows, at, by_image ? inputs : s->stride_w * s->in, g, at + most,
                    by_image ? s->out_height * s->out_width * out : out, pieces,
                    single ? 1 : by_image ? images : long_, out, !clear, c, &ahead);
        }
}

/* The gradient of the weights, [task, tap, in, out], for input x and output gradient g. With `add` it is added to w:
 * several calls with a part of the images each give the same bits as one, unless channels are few and lines short. */
static int NAME(weight_gradient_in)(const Convolution *given, const REAL *x, const REAL *g, REAL *w, int add,
                                    NAME(Stream) stream) {
    Convolution own = *given, *s = &own;
    /* With padding all taps have the same outputs. With few channels, one product for all taps is worth the padding. */
    const int padded = s->in < MANY && (s->pad_h || s->pad_w);
    if (padded) s->height += 2 * s->pad_h, s->width += 2 * s->pad_w, s->pad_h = s->pad_w = 0;
    const int64_t each = s->out_height * s->out_width, rows = s->kernel_h * s->kernel_w * s->in;
    const int64_t inputs = s->height * s->width * s->in, given_inputs = given->height * given->width * s->in;
    const int64_t out = round_up(s->out, LANES);
    const int64_t block = block_of(s->images, (inputs + each * out) * (int64_t)sizeof(REAL)), most = block * each;
    const int odd = out != s->out;
    Axis down = {0}, across = {0};
    REAL *images_padded = padded ? malloc((size_t)(block * inputs) * sizeof(REAL)) : NULL;
    REAL *gradient = odd ? malloc((size_t)(block * each * out) * sizeof(REAL)) : NULL;
    REAL *result = odd ? malloc((size_t)(rows * out) * sizeof(REAL)) : NULL;
    const REAL **a = malloc((size_t)rows * sizeof *a);
    REAL **c = malloc((size_t)rows * sizeof *c);
    int64_t *at = malloc((size_t)(2 * most) * sizeof *at);
    const int failed =
        !a || !c || !at || (padded && !images_padded) || (odd && (!gradient || !result)) ||
        axis_make(&down, s->kernel_h, s->height, s->out_height, s->dilation_h, s->pad_h, s->stride_h, 0) ||
        axis_make(&across, s->kernel_w, s->width, s->out_width, s->dilation_w, s->pad_w, s->stride_w, 0);
    for (int64_t task = 0; !failed && task < s->tasks; task++) {
        REAL *target = w + task * rows * s->out, *to = odd ? result : target;
        for (int64_t first = 0; first < s->images; first += block) {
            const int64_t images = s->images - first < block ? s->images - first : block;
            const REAL *source = g + (task * s->images + first) * each * s->out;
            const REAL *from = x + (task * s->images + first) * given_inputs;
            if (odd) NAME(resize)(source, s->out, gradient, out, images * each);
            if (padded)
                NAME(pad)(from, images_padded, images, given->height, given->width, s->in, given->pad_h, given->pad_w,
                          s->height, s->width, s->in);
            const int64_t products = images * each * rows * out;
            NAME(correlate_weights)(s, &down, &across, images, padded ? images_padded : from, odd ? gradient : source,
                                    out, first == 0 && !add, to, a, c, at, most,
                                    stream.from ? NAME(ahead_in)(stream, first, images, products)
                                                : NAME(ahead)(from + images * given_inputs, block * given_inputs,
                                                              source + images * each * s->out, block * each * s->out,
                                                              products));
        }
        if (odd) NAME(resize)(result, out, target, s->out, rows);
    }
    free(images_padded), free(gradient), free(result), free(a), free(c), free(at), free(down.of), free(across.of);
    return failed;
}

int NAME(weight_gradient)(const Convolution *s, const REAL *x, const REAL *g, REAL *w) {
    return NAME(weight_gradient_in)(s, x, g, w, 0, (NAME(Stream)){0});
}
