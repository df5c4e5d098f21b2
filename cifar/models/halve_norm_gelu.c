/* Halving, batch normalisation and GELU together: two passes forward and two backward, where torch has five and six.
 * Between the passes of a direction halve_norm_gelu.py makes of the sums over all images what the second one needs.
 *
 * Images are [images, height, width, channels], channels a multiple of 8; halved they are [images, height / 2,
 * width / 2, channels], the largest of each 2x2 pixels. Sums are two for a channel of each image: [images, 2, channels].
 */

#include <stdint.h>

typedef float vec __attribute__((vector_size(32), aligned(4))); /* 8 channels */
typedef int32_t ints __attribute__((vector_size(32)));
typedef uint8_t bytes __attribute__((vector_size(8), aligned(1)));
enum { LANES = 8 };

#define EACH_IMAGE _Pragma("omp parallel for schedule(dynamic, 4)") for (long image = 0; image < images; image++)
#define EACH_VECTOR for (long c = 0; c < channels; c += LANES)
#define AT(features, place) (*(vec *)((features) + (place)))

static vec choose(ints where, vec yes, vec no) { return (vec)(((ints)yes & where) | ((ints)no & ~where)); }

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

/* Sums of the features and of their squares; with `halved`, of the largest of each 2x2, which are written down with
 * their places among the four (the first, if several are as large). */
void sum_features(const float *features, float *halved, uint8_t *places, float *sums, long images, long height,
                  long width, long channels) {
    const int halve = halved != 0;
    const long rows = height >> halve, columns = width >> halve;
    EACH_IMAGE {
        float *sum = sums + image * 2 * channels;
        for (long c = 0; c < 2 * channels; c++) sum[c] = 0;
        for (long y = 0; y < rows; y++)
            for (long x = 0; x < columns; x++) {
                long to = ((image * rows + y) * columns + x) * channels;
                long from = ((image * height + (y << halve)) * width + (x << halve)) * channels;
                EACH_VECTOR {
                    vec most = AT(features, from + c);
                    if (halve) {
                        ints place = {0};
                        for (int k = 1; k < 4; k++) {
                            vec other = AT(features, from + (k / 2 * width + k % 2) * channels + c);
                            ints larger = other > most;
                            most = choose(larger, other, most);
                            place = (larger & k) | (~larger & place);
                        }
                        AT(halved, to + c) = most;
                        *(bytes *)(places + to + c) = __builtin_convertvector(place, bytes);
                    }
                    AT(sum, c) += most;
                    AT(sum, channels + c) += most * most;
                }
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

/* of_features = by_gradient * of_z + by_feature * features + constant, three numbers of a channel; with `places`, that
 * goes where the largest of 2x2 was, and zeros elsewhere. */
void give_back(const float *features, const uint8_t *places, const float *of_z, const float *by_gradient,
               const float *by_feature, const float *constant, float *of_features, long images, long height, long width,
               long channels) {
    const int halve = places != 0;
    const long rows = height >> halve, columns = width >> halve;
    EACH_IMAGE for (long y = 0; y < height; y += 1 + halve)
        for (long x = 0; x < width; x += 1 + halve) {
            long from = ((image * rows + (y >> halve)) * columns + (x >> halve)) * channels;
            long to = ((image * height + y) * width + x) * channels;
            int left_out = y >> halve == rows || x >> halve == columns; /* of an odd number, the last */
            EACH_VECTOR {
                vec gradient = {0};
                if (!left_out)
                    gradient = AT(by_gradient, c) * AT(of_z, from + c) + AT(by_feature, c) * AT(features, from + c) +
                               AT(constant, c);
                if (!halve) {
                    AT(of_features, to + c) = gradient;
                    continue;
                }
                ints place = {0};
                if (!left_out) place = __builtin_convertvector(*(const bytes *)(places + from + c), ints);
                for (int k = 0; k < 4; k++)
                    if (y + k / 2 < height && x + k % 2 < width)
                        AT(of_features, to + (k / 2 * width + k % 2) * channels + c) =
                            choose(place == k, gradient, (vec){0});
            }
        }
}
