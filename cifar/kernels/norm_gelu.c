/* Batch normalisation and GELU as one operation: two passes over memory forward and two backward, where PyTorch has
 * four and five. Between the two passes of a direction norm_gelu.py computes what the second one needs from sums.
 *
 * Features are [pixels, channels], the pixels of all images, channels a multiple of 8. The threads take blocks of
 * `rows` pixels, which fit a core's cache. Sums are those of a block, [blocks, 2 or 3, channels], so that they do not
 * depend on the number of threads, and short sums in fp32 round little; norm_gelu.py combines them in double precision.
 *
 * Features enter every computation as differences from their mean rounded to fp32, `center`. Their difference is exact
 * for features near it, so that nothing cancels where the mean is large and the deviation small.
 */

#include "vectors.h"

#define EACH_BLOCK                                                                                                    \
    _Pragma("omp parallel for schedule(dynamic) num_threads(threads)")                                                \
        for (long first = 0; first < pixels; first += rows)
#define EACH_PIXEL for (long i = first * channels; i < last(first, pixels, rows) * channels; i += channels)
#define EACH_VECTOR for (long c = 0; c < channels; c += LANES)

/* Behind a block's last pixel. */
static long last(long first, long pixels, long rows) { return first + rows < pixels ? first + rows : pixels; }

/* 2 to the power x <= 0, to 2e-7 of itself: 2 to a whole power, times the minimax polynomial of the rest, up to 1/2. */
static vec power_of_2(vec x) {
    const float rounding = 12582912; /* added to a number, it leaves the nearest whole one in its lowest bits */
    x = choose(x < -126, (vec){0} - 126, x);
    vec rounded = x + rounding, r = x - (rounded - rounding);
    vec factor = 0.693147004f + r * (0.240222424f + r * (0.0555073395f + r * (0.00967151299f + r * 0.00132647203f)));
    factor = 1 + r * factor;
    return (vec)((ints)factor + ((ints)rounded << 23));
}

static vec absolute(vec x) { return (vec)((ints)x & INT32_MAX); }

/* The standard normal distribution's probability beyond |z|, to 1e-7, and its density at z: Abramowitz and Stegun 1964,
 * 7.1.26, whose argument is |z| / sqrt(2). */
static vec normal_tail(vec z, vec *density) {
    vec power = power_of_2(z * (z * -0.721347520f)), t = 1 / (1 + 0.231641889f * absolute(z)); /* power: e^(-z^2/2) */
    vec tail = 0.127414796f + t * (-0.142248368f + t * (0.710706871f + t * (-0.726576013f + t * 0.530702715f)));
    *density = 0.398942280f * power;
    return tail * t * power;
}

/* GELU(z) = z P(Z < z), as max(z, 0) - |z| P(Z > |z|). */
static vec gelu(vec z) {
    vec density, tail = normal_tail(z, &density);
    return choose(z < 0, (vec){0}, z) - absolute(z) * tail;
}

/* Its derivative, P(Z < z) + z density(z). */
static vec gelu_slope(vec z) {
    vec density, tail = normal_tail(z, &density);
    return choose(z < 0, tail, 1 - tail) + z * density;
}

/* Sums [blocks, 3, channels]: a block's mean but for rounding, and the sums of the differences from it and of their
 * squares. The second loop finds the block in the cache. */
int sum_features(const float *features, float *sums, long pixels, long channels, long rows, long threads) {
    EACH_BLOCK {
        float *mean = sums + first / rows * 3 * channels, *sum = mean + channels, *square = sum + channels;
        for (long c = 0; c < 3 * channels; c++) mean[c] = 0;
        EACH_PIXEL EACH_VECTOR AT(mean, c) += AT(features, i + c);
        EACH_VECTOR AT(mean, c) /= (float)(last(first, pixels, rows) - first);
        EACH_PIXEL EACH_VECTOR {
            vec difference = AT(features, i + c) - AT(mean, c);
            AT(sum, c) += difference;
            AT(square, c) += difference * difference;
        }
    }
    return DONE;
}

/* activated = GELU(z), z = scale (features - center) + shift, these three of a channel. */
int activate(const float *features, const float *center, const float *scale, const float *shift, float *activated,
             long pixels, long channels, long rows, long threads) {
    EACH_BLOCK EACH_PIXEL EACH_VECTOR {
        AT(activated, i + c) = gelu(AT(scale, c) * (AT(features, i + c) - AT(center, c)) + AT(shift, c));
    }
    return DONE;
}

/* The gradients of z, and sums [blocks, 2, channels] of them and of their products with (features - center). */
int sum_gradients(const float *features, const float *center, const float *scale, const float *shift,
                  const float *grad_output, float *grad_z, float *sums, long pixels, long channels, long rows,
                  long threads) {
    EACH_BLOCK {
        float *sum = sums + first / rows * 2 * channels, *product = sum + channels;
        for (long c = 0; c < 2 * channels; c++) sum[c] = 0;
        EACH_PIXEL EACH_VECTOR {
            vec difference = AT(features, i + c) - AT(center, c), z = AT(scale, c) * difference + AT(shift, c);
            vec gradient = AT(grad_output, i + c) * gelu_slope(z);
            AT(grad_z, i + c) = gradient;
            AT(sum, c) += gradient;
            AT(product, c) += gradient * difference;
        }
    }
    return DONE;
}

/* In place, grad_z becomes grad_input = scale grad_z + slope (features - center) + constant, these four of a
 * channel. */
int finish_gradients(const float *features, const float *center, const float *scale, const float *slope,
                     const float *constant, float *grad_z, long pixels, long channels, long rows, long threads) {
    EACH_BLOCK EACH_PIXEL EACH_VECTOR AT(grad_z, i + c) =
        AT(scale, c) * AT(grad_z, i + c) + AT(slope, c) * (AT(features, i + c) - AT(center, c)) + AT(constant, c);
    return DONE;
}
