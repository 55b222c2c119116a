/* Finds the taps of a kernel that lie within the image. Taps beside the image are skipped, not padded with zeros. */

/* One axis of a product over taps. Positions with the same taps form a class. A class has `many` taps: `first`,
 * `first` + tap_step, and so on. Their sources lie source_step apart. */
typedef struct {
    int64_t positions, classes, tap_step, source_step;
    int64_t *of, *source; /* for each position: its class, and the source of its first tap */
    int64_t *first, *many; /* for each class: its first tap, and their number */
} Axis;

/* Tap t of position q has the source q * stride + t * dilation - pad. With `back`, positions and sources change places
 * and taps count from the last: the source is (q + pad - (kernel - 1 - t) * dilation) / stride if that is whole.
 * Returns 0, or 1 if there is not enough memory. */
static int axis_make(Axis *axis, int64_t positions, int64_t sources, int64_t kernel, int64_t stride, int64_t pad,
                     int64_t dilation, int back) {
    int64_t common = stride, rest = dilation;
    while (rest) {
        const int64_t next = common % rest;
        common = rest, rest = next;
    }
    *axis = (Axis){.positions = positions, .tap_step = back ? stride / common : 1};
    axis->source_step = back ? dilation / common : dilation;
    axis->of = malloc((size_t)(4 * positions) * sizeof(int64_t));
    if (!axis->of) return 1;
    axis->source = axis->of + positions, axis->first = axis->source + positions, axis->many = axis->first + positions;
    for (int64_t q = 0; q < positions; q++) {
        int64_t first = 0, many = 0, class = 0;
        axis->source[q] = 0;
        for (int64_t t = 0; t < kernel; t++) {
            int64_t at = back ? q + pad - (kernel - 1 - t) * dilation : q * stride + t * dilation - pad;
            if (at < 0 || (back && at % stride)) continue;
            if (back) at /= stride;
            if (at < sources && !many++) first = t, axis->source[q] = at;
        }
        while (class < axis->classes && (axis->first[class] != first || axis->many[class] != many)) class++;
        axis->of[q] = class;
        if (class == axis->classes) axis->first[class] = first, axis->many[class] = many, axis->classes++;
    }
    return 0;
}
