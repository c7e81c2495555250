"""Products and means in C99, as texts: sums of whole numbers in int32_t, joined to real values.

`deploy.validity` lets no program pass whose sums int32_t does not hold; those of digits are below 2^24.
"""

LAYER = """\
/* A convolution: the padding is zero. A depthwise one has a filter for each channel. */
struct layer {
    int32_t height, width, inputs;
    int32_t rows, columns, outputs;
    int32_t kernel_height, kernel_width, stride, padding, depthwise;
    const int8_t *weights; /* (kernel height, kernel width, inputs, or 1 if depthwise, outputs) */
    const float *scale, *shift; /* of each output */
};
"""

SUMS = """\
/* sums[o]: the products of $what around one pixel of the result with the weights. */
static void sum_$name(const $type *x, const struct layer *layer, const int8_t *weights,
                      int32_t row, int32_t column)
{
    const int32_t inputs = layer->inputs, outputs = layer->outputs;
    const int32_t filters = layer->depthwise ? 1 : inputs;
    int32_t i, j, k, o;
    memset(sums, 0, sizeof(sums[0]) * (size_t)outputs);
    for (i = 0; i < layer->kernel_height; i++) {
        const int32_t y = row * layer->stride + i - layer->padding;
        if (y < 0 || y >= layer->height)
            continue;
        for (j = 0; j < layer->kernel_width; j++) {
            const int32_t z = column * layer->stride + j - layer->padding;
            const $type *pixel;
            const int8_t *w;
            if (z < 0 || z >= layer->width)
                continue;
            pixel = x + (y * layer->width + z) * inputs;
            w = weights + (i * layer->kernel_width + j) * filters * outputs;
            if (layer->depthwise) {
                for (o = 0; o < outputs; o++)
                    sums[o] += (int32_t)pixel[o] * w[o];
                continue;
            }
            for (k = 0; k < inputs; k++, w += outputs) {
                const int32_t value = pixel[k];
                if (value == 0) /* Silence costs nothing. */
                    continue;
                for (o = 0; o < outputs; o++)
                    sums[o] += value * w[o];
            }
        }
    }
}
"""

LAYER_OF_SPIKES = """\
/* y = convolution of spike counts * scale + shift. */
static void layer_of_spikes(const uint8_t *x, float *y, const struct layer *layer)
{
    int32_t t, row, column, o;
    for (t = 0; t < QSDT_TIMESTEPS; t++, x += layer->height * layer->width * layer->inputs)
        for (row = 0; row < layer->rows; row++)
            for (column = 0; column < layer->columns; column++, y += layer->outputs) {
                sum_spikes(x, layer, layer->weights, row, column);
                for (o = 0; o < layer->outputs; o++) {
                    const float product = (float)sums[o] * layer->scale[o];
                    y[o] = product + layer->shift[o];
                }
            }
}
"""

LAYER_OF_FLOAT_WEIGHTS = """\
/* The same for float weights: table after table of their digits, the first the most significant. */
static void layer_of_float_weights(const uint8_t *x, float *y, const struct layer *layer,
                                   int32_t count, float base, const float *unit)
{
    const int32_t filters = layer->depthwise ? 1 : layer->inputs;
    const int32_t size = layer->kernel_height * layer->kernel_width * filters * layer->outputs;
    int32_t t, row, column, i, o;
    for (t = 0; t < QSDT_TIMESTEPS; t++, x += layer->height * layer->width * layer->inputs)
        for (row = 0; row < layer->rows; row++)
            for (column = 0; column < layer->columns; column++, y += layer->outputs) {
                for (i = 0; i < count; i++) {
                    sum_spikes(x, layer, layer->weights + i * size, row, column);
                    for (o = 0; o < layer->outputs; o++) {
                        const float higher = i == 0 ? 0.0f : y[o] * base;
                        y[o] = higher + (float)sums[o];
                    }
                }
                for (o = 0; o < layer->outputs; o++) {
                    const float product = (y[o] * unit[o]) * layer->scale[o];
                    y[o] = product + layer->shift[o];
                }
            }
}
"""

DIGITS = """\
/* Real values are cut into digits, whole numbers so short that sums of their products are exact:
   x = unit * (... + digit[1] * base + digit[0]), in which unit follows the largest x. */
struct cut {
    int32_t digits;
    float base, place; /* place: base^(digits - 1) */
    float shrink; /* unit / largest power of two in x */
};

static float absolute(float x)
{
    return x < 0.0f ? -x : x;
}

/* The whole number nearest to x, the even one of two; 0 for what is no number or too large to be a digit. */
static int32_t nearest(float x)
{
    int32_t whole;
    float fraction;
    if (!(x > -16777216.0f && x < 16777216.0f))
        return 0;
    whole = (int32_t)x;
    fraction = x - (float)whole;
    if (fraction > 0.5f || (fraction == 0.5f && whole % 2 != 0))
        whole++;
    else if (fraction < -0.5f || (fraction == -0.5f && whole % 2 != 0))
        whole--;
    return whole;
}

static float unit_of(float largest, const struct cut *cut)
{
    uint32_t bits;
    if (largest < 0x1p-64f)
        largest = 0x1p-64f;
    memcpy(&bits, &largest, sizeof(bits));
    bits &= UINT32_C(0x7f800000); /* The exponent alone: the power of two that is not above it. */
    memcpy(&largest, &bits, sizeof(bits));
    return largest * cut->shrink;
}

/* x / unit as a whole number; floats from 2^23 on are whole. */
static float in_units(float x, float inverse)
{
    const float v = x * inverse;
    return absolute(v) < 8388608.0f ? (float)nearest(v) : v;
}
"""

LAYER_OF_REALS = """\
/* y = convolution of real values * scale + shift, digit by digit, the most significant first. */
static void layer_of_reals(const float *x, float *y, const struct layer *layer, const struct cut *cut)
{
    const int32_t size = layer->height * layer->width * layer->inputs;
    const int32_t results = layer->rows * layer->columns * layer->outputs;
    int32_t t, i, k, row, column, o;
    for (t = 0; t < QSDT_TIMESTEPS; t++, x += size, y += results) {
        float largest = 0.0f, unit, place = cut->place;
        for (k = 0; k < size; k++)
            largest = absolute(x[k]) > largest ? absolute(x[k]) : largest;
        unit = unit_of(largest, cut);
        for (k = 0; k < size; k++)
            remainders[k] = in_units(x[k], 1.0f / unit);
        for (i = 0; i < cut->digits; i++, place /= cut->base) {
            float *to = y;
            for (k = 0; k < size; k++) {
                digits[k] = (int16_t)nearest(remainders[k] / place);
                remainders[k] -= (float)digits[k] * place;
            }
            for (row = 0; row < layer->rows; row++)
                for (column = 0; column < layer->columns; column++, to += layer->outputs) {
                    sum_digits(digits, layer, layer->weights, row, column);
                    for (o = 0; o < layer->outputs; o++) {
                        const float higher = i == 0 ? 0.0f : to[o] * cut->base;
                        to[o] = higher + (float)sums[o];
                    }
                }
        }
        for (k = 0; k < results; k += layer->outputs)
            for (o = 0; o < layer->outputs; o++) {
                const float product = (y[k + o] * unit) * layer->scale[o];
                y[k + o] = product + layer->shift[o];
            }
    }
}
"""

POOL = """\
/* y = mean of x over the pixels, for each channel. */
static void mean_of_pixels(const float *x, float *y, int32_t pixels, int32_t channels, float share,
                           const struct cut *cut)
{
    int32_t t, c, i, k;
    for (t = 0; t < QSDT_TIMESTEPS; t++, x += pixels * channels, y += channels)
        for (c = 0; c < channels; c++) {
            float largest = 0.0f, unit, place = cut->place, total = 0.0f;
            for (k = c; k < pixels * channels; k += channels)
                largest = absolute(x[k]) > largest ? absolute(x[k]) : largest;
            unit = unit_of(largest, cut);
            memset(sums, 0, sizeof(sums[0]) * (size_t)cut->digits);
            for (k = c; k < pixels * channels; k += channels) {
                float left = in_units(x[k], 1.0f / unit);
                for (i = 0, place = cut->place; i < cut->digits; i++, place /= cut->base) {
                    const int32_t digit = nearest(left / place);
                    sums[i] += digit;
                    left -= (float)digit * place;
                }
            }
            for (i = 0; i < cut->digits; i++) {
                const float higher = total * cut->base;
                total = higher + (float)sums[i];
            }
            y[c] = (total * unit) * share;
        }
}
"""
