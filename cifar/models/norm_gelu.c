/* Batch normalisation and GELU together: two passes forward and two backward, where torch has four and five.
 * Between the passes of a direction norm_gelu.py makes of the sums over all images what the second one needs.
 *
 * Images are [images, pixels, channels], channels a multiple of 8. Sums are two for a channel of each image: [images, 2,
 * channels].
 */

#include "vectors.h"

#define EACH_IMAGE _Pragma("omp parallel for schedule(dynamic, 4)") for (long image = 0; image < images; image++)
#define EACH_VECTOR for (long c = 0; c < channels; c += LANES)

/* e to the power x <= 0, to 2e-7 of itself: 2 to a whole power, times the series of the rest, at most log(2) / 2. */
static vec power_of_e(vec x) {
    const float rounding = 12582912; /* added to a number, it leaves the nearest whole one in its lowest bits */
    x = choose(x < -87, (vec){0} - 87, x);
    vec rounded = x * 1.44269504f + rounding, whole = rounded - rounding;
    vec r = x - whole * 0.693145752f - whole * 1.42860677e-6f; /* log(2), of which the first part has few bits */
    vec series = 1 + r * (1 + r * (1 / 2.0f + r * (1 / 6.0f + r * (1 / 24.0f + r * (1 / 120.0f + r / 720)))));
    return (vec)((ints)series + ((ints)rounded << 23));
}

/* How much of the normal distribution is below z, to 1e-7, and its density there: Abramowitz and Stegun 1964, 7.1.26,
 * of which z is sqrt(2) times the argument. */
static vec share_below(vec z, vec *density) {
    vec power = power_of_e(-0.5f * z * z), t = 1 / (1 + 0.231641889f * choose(z < 0, -z, z));
    vec above = t * (0.127414796f + t * (-0.142248368f + t * (0.710706871f + t * (-0.726576013f + t * 0.530702715f))));
    above *= power;
    *density = 0.398942280f * power;
    return choose(z < 0, above, 1 - above);
}

/* Sums of the features and of their squares. */
void sum_features(const float *features, float *sums, long images, long pixels, long channels) {
    EACH_IMAGE {
        float *sum = sums + image * 2 * channels;
        for (long c = 0; c < 2 * channels; c++) sum[c] = 0;
        for (long i = image * pixels * channels; i < (image + 1) * pixels * channels; i += channels)
            EACH_VECTOR {
                vec feature = AT(features, i + c);
                AT(sum, c) += feature;
                AT(sum, channels + c) += feature * feature;
            }
    }
}

/* GELU(z), z = scale * features + shift, those of a channel. */
void activate(const float *features, const float *scale, const float *shift, float *activated, long images, long pixels,
              long channels) {
    EACH_IMAGE for (long i = image * pixels * channels; i < (image + 1) * pixels * channels; i += channels)
        EACH_VECTOR {
            vec density, z = AT(scale, c) * AT(features, i + c) + AT(shift, c);
            AT(activated, i + c) = z * share_below(z, &density);
        }
}

/* The gradients of z from those of GELU(z), their sums, and the sums of their products with z. */
void sum_gradients(const float *features, const float *scale, const float *shift, const float *of_activated,
                   float *of_z, float *sums, long images, long pixels, long channels) {
    EACH_IMAGE {
        float *sum = sums + image * 2 * channels;
        for (long c = 0; c < 2 * channels; c++) sum[c] = 0;
        for (long i = image * pixels * channels; i < (image + 1) * pixels * channels; i += channels)
            EACH_VECTOR {
                vec density, z = AT(scale, c) * AT(features, i + c) + AT(shift, c);
                vec gradient = share_below(z, &density);
                gradient = AT(of_activated, i + c) * (gradient + z * density);
                AT(of_z, i + c) = gradient;
                AT(sum, c) += gradient;
                AT(sum, channels + c) += gradient * z;
            }
    }
}

/* of_z becomes by_gradient * of_z + by_feature * features + constant, three numbers of a channel. */
void give_back(const float *features, const float *by_gradient, const float *by_feature, const float *constant,
               float *of_z, long images, long pixels, long channels) {
    EACH_IMAGE for (long i = image * pixels * channels; i < (image + 1) * pixels * channels; i += channels)
        EACH_VECTOR AT(of_z, i + c) =
            AT(by_gradient, c) * AT(of_z, i + c) + AT(by_feature, c) * AT(features, i + c) + AT(constant, c);
}
