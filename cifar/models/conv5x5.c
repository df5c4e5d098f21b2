/* 5x5 convolutions of few channels, the largest of each 2x2 outputs and ReLU as one, in the plain way. Compiled by
 * conv5x5.py with the channels that go in, IN, and out, OUT, so that distances in memory are constants.
 *
 * A thread takes an image at a time, puts a border of zeros around it and keeps its sums in registers. Only what
 * ReLU leaves is ever written, and one image's gradients of what was before.
 *
 * Images are [images, height, width, channels]. OUT is a multiple of 8, and so is IN, or 1 or 3. Halved outputs have
 * a byte each: which of the four was the largest (the first, if several are as large), or NONE where ReLU gave zero.
 * Filters are [panels of 8 channels that come out][5][5][channels that go in][8].
 */

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

enum { SIDE = 5, BORDER = SIDE / 2, NONE = 4 };
enum { WEIGHTS = SIDE * SIDE * IN, TAKEN = IN < LANES ? IN : 2 }; /* of a filter; channels at a time */
#ifdef __AVX512VL__
enum { COLUMNS = 8 }; /* with two rows sixteen vectors of sums, of 32 registers */
#else
enum { COLUMNS = 4 };
#endif

/* Of an image with its border: rows, and columns, so many that outputs come in whole blocks. */
static long down(long height) { return (height + 1) / 2 * 2 + 2 * BORDER; }
static long across(long width) { return (width + COLUMNS - 1) / COLUMNS * COLUMNS + 2 * BORDER; }

/* Room for an image with its border, all zeros. */
static float *room(long height, long width, long channels) {
    return calloc(down(height) * across(width) * channels, sizeof(float));
}

static void put_inside(const float *image, float *bordered, long height, long width, long channels) {
    for (long row = 0; row < height; row++)
        memcpy(bordered + ((row + BORDER) * across(width) + BORDER) * channels, image + row * width * channels,
               sizeof(float) * width * channels);
}

/* The sums of two rows and COLUMNS columns from (row, column) on, of 8 channels that come out. A pixel that is loaded is
 * multiplied by all weights of a row. */
INLINE void convolve(const float *bordered, const float *filters, vec *sums, long row, long column, long width,
                     const int channels) {
    for (int i = 0; i < 2 * COLUMNS; i++) sums[i] = (vec){0};
    for (int r = 0; r < SIDE; r++, filters += SIDE * channels * LANES) {
        const float *upper = bordered + ((row + r) * across(width) + column) * channels;
        const float *lower = upper + across(width) * channels;
        for (int k = 0; k < channels; k++) {
            vec weights[SIDE];
            for (int t = 0; t < SIDE; t++) weights[t] = AT(filters, (t * channels + k) * LANES);
#pragma GCC unroll 12
            for (int c = 0; c < COLUMNS + SIDE - 1; c++)
#pragma GCC unroll 5
                for (int t = 0; t < SIDE; t++)
                    if (c >= t && c - t < COLUMNS) {
                        sums[c - t] += upper[c * channels + k] * weights[t];
                        sums[COLUMNS + c - t] += lower[c * channels + k] * weights[t];
                    }
        }
    }
}

/* The largest of the 2x2 sums from column c on, with bias, after ReLU. */
INLINE void halve(const vec *sums, int c, vec bias, float *output, uint8_t *place) {
    vec most = sums[c];
    ints which = {0};
    for (int k = 1; k < 4; k++) {
        vec other = sums[k / 2 * COLUMNS + c + k % 2];
        ints larger = other > most;
        most = choose(larger, other, most);
        which = (larger & k) | (~larger & which);
    }
    most += bias;
    ints none = most <= 0; /* not so of what is no number: it stays */
    AT(output, 0) = choose(none, (vec){0}, most);
    *(bytes *)place = __builtin_convertvector((none & NONE) | (~none & which), bytes);
}

/* outputs [images, height / 2, width / 2, OUT], with their places, of inputs [images, height, width, IN]. */
void forward(const float *inputs, const float *filters, const float *bias, float *outputs, uint8_t *places, long images,
             long height, long width) {
#pragma omp parallel
    {
        float *bordered = room(height, width, IN);
#pragma omp for schedule(static)
        for (long image = 0; image < images; image++) {
            put_inside(inputs + image * height * width * IN, bordered, height, width, IN);
            for (long row = 0; row < height / 2; row++)
                for (long column = 0; column < width / 2; column += COLUMNS / 2)
                    for (long channel = 0; channel < OUT; channel += LANES) {
                        vec sums[2 * COLUMNS];
                        convolve(bordered, filters + channel * WEIGHTS, sums, 2 * row, 2 * column, width, IN);
                        for (long c = 0; c < COLUMNS / 2 && column + c < width / 2; c++) {
                            long at = ((image * (height / 2) + row) * (width / 2) + column + c) * OUT + channel;
                            halve(sums, 2 * c, AT(bias, channel), outputs + at, places + at);
                        }
                    }
        }
        free(bordered);
    }
}

/* An image's gradients before the halving, each where its largest was, with a border; adds them up for the bias. */
static void spread(const float *gradients, const uint8_t *places, float *bordered, float *of_bias, long height,
                   long width) {
    vec sums[OUT / LANES] = {0};
    for (long row = 0; row < height / 2; row++)
        for (long column = 0; column < width / 2; column++)
            for (long channel = 0; channel < OUT; channel += LANES, gradients += LANES, places += LANES) {
                ints gradient = (ints)AT(gradients, 0), place = __builtin_convertvector(*(const bytes *)places, ints);
                sums[channel / LANES] += (vec)(gradient & (place != NONE));
                for (int k = 0; k < 4; k++) {
                    long r = 2 * row + k / 2 + BORDER, c = 2 * column + k % 2 + BORDER;
                    AT(bordered, (r * across(width) + c) * OUT + channel) = (vec)(gradient & (place == k));
                }
            }
    for (long channel = 0; channel < OUT; channel += LANES) AT(of_bias, channel) += sums[channel / LANES];
}

/* Adds to the gradients of filters, laid out as those, what an image gives: of a row of weights and TAKEN channels at a
 * time, COLUMNS outputs after COLUMNS. */
static void add_products(const float *inputs, const float *gradients, float *of_filters, long height, long width) {
    for (long channel = 0; channel < OUT; channel += LANES)
        for (long r = 0; r < SIDE; r++, of_filters += SIDE * IN * LANES)
            for (long first = 0; first < IN; first += TAKEN) {
                vec sums[TAKEN][SIDE];
                for (int k = 0; k < TAKEN; k++)
                    for (int t = 0; t < SIDE; t++) sums[k][t] = AT(of_filters, (t * IN + first + k) * LANES);
                for (long row = 0; row < height; row++)
                    for (long column = 0; column < width; column += COLUMNS) {
                        const float *input = inputs + ((row + r) * across(width) + column) * IN + first;
                        const float *gradient =
                            gradients + ((row + BORDER) * across(width) + column + BORDER) * OUT + channel;
                        vec some[COLUMNS];
                        for (int c = 0; c < COLUMNS; c++) some[c] = AT(gradient, c * OUT);
#pragma GCC unroll 12
                        for (int c = 0; c < COLUMNS + SIDE - 1; c++)
#pragma GCC unroll 3
                            for (int k = 0; k < TAKEN; k++)
#pragma GCC unroll 5
                                for (int t = 0; t < SIDE; t++)
                                    if (c >= t && c - t < COLUMNS) sums[k][t] += input[c * IN + k] * some[c - t];
                    }
                for (int k = 0; k < TAKEN; k++)
                    for (int t = 0; t < SIDE; t++) AT(of_filters, (t * IN + first + k) * LANES) = sums[k][t];
            }
}

/* Gradients of inputs, unless that is NULL, and of filters and bias, [threads] of each to be added up; `turned` are
 * the filters with channels in and out exchanged and their weights in the opposite order. */
void backward(const float *inputs, const float *gradients, const uint8_t *places, const float *turned, float *of_inputs,
              float *of_filters, float *of_bias, long images, long height, long width) {
#pragma omp parallel
    {
        const long thread = omp_get_thread_num(), halved = height / 2 * (width / 2) * OUT;
        float *bordered = room(height, width, IN), *spreaded = room(height, width, OUT);
#pragma omp for schedule(static)
        for (long image = 0; image < images; image++) {
            put_inside(inputs + image * height * width * IN, bordered, height, width, IN);
            spread(gradients + image * halved, places + image * halved, spreaded, of_bias + thread * OUT, height, width);
            add_products(bordered, spreaded, of_filters + thread * OUT * WEIGHTS, height, width);
            if (!of_inputs) continue;
            for (long row = 0; row < height; row += 2)
                for (long column = 0; column < width; column += COLUMNS)
                    for (long channel = 0; channel < IN; channel += LANES) {
                        vec sums[2 * COLUMNS];
                        convolve(spreaded, turned + channel * SIDE * SIDE * OUT, sums, row, column, width, OUT);
                        for (long r = 0; r < 2 && row + r < height; r++)
                            for (long c = 0; c < COLUMNS && column + c < width; c++)
                                AT(of_inputs, ((image * height + row + r) * width + column + c) * IN + channel) =
                                    sums[r * COLUMNS + c];
                    }
        }
        free(bordered);
        free(spreaded);
    }
}
