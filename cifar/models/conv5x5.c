/* 5x5 convolutions of few channels, the largest of each 2x2 outputs and ReLU as one. Compiled by conv5x5.py with the
 * channels that go in, IN, and out, OUT, so that distances in memory are constants.
 *
 * A thread takes an image at a time and puts a border of zeros around it. Forward, sums stay in registers until only
 * the largest of four is left to write. Backward, the three others have no gradient, and neither has what ReLU made
 * zero: less than a quarter of the products are not zero, and only those are computed.
 *
 * Images are [images, height, width, channels]. OUT is a multiple of 8, and so is IN, or 1 or 3. Halved outputs have
 * a byte each: which of the four was the largest (the first, if several are as large), or NONE where ReLU gave zero.
 */

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

enum { SIDE = 5, BORDER = SIDE / 2, NONE = 4 };
enum { WEIGHTS = SIDE * SIDE * IN, VECTORS = (SIDE * IN + LANES - 1) / LANES, FILLED = VECTORS * LANES };
#ifdef __AVX512VL__
enum { COLUMNS = 8 }; /* with two rows sixteen vectors of sums, of 32 registers */
#else
enum { COLUMNS = 4 };
#endif
enum { ROWS = VECTORS <= 5 ? SIDE : 1 }; /* of a filter whose gradients are kept in registers */

/* Of an image with its border: rows, and columns, so many that outputs come in whole blocks. */
static long down(long height) { return (height + 1) / 2 * 2 + 2 * BORDER; }
static long across(long width) { return (width + COLUMNS - 1) / COLUMNS * COLUMNS + 2 * BORDER; }

/* That and a vector more, for rows of weights that do not fill theirs. */
static long bytes_of(long height, long width) { return sizeof(float) * (down(height) * across(width) * IN + LANES); }
static float *room(long height, long width) { return calloc(bytes_of(height, width), 1); }

static float *inside(const float *bordered, long row, long width) {
    return (float *)bordered + ((row + BORDER) * across(width) + BORDER) * IN;
}

static void put_inside(const float *image, float *bordered, long height, long width) {
    for (long row = 0; row < height; row++)
        memcpy(inside(bordered, row, width), image + row * width * IN, sizeof(float) * width * IN);
}

static void take_from_inside(const float *bordered, float *image, long height, long width) {
    for (long row = 0; row < height; row++)
        memcpy(image + row * width * IN, inside(bordered, row, width), sizeof(float) * width * IN);
}

/* The sums of two rows and COLUMNS columns from (row, column) on, of 8 channels that come out. A pixel that is loaded
 * is multiplied by all weights of a row. */
INLINE void convolve(const float *bordered, const float *filters, vec *sums, long row, long column, long width) {
    for (int i = 0; i < 2 * COLUMNS; i++) sums[i] = (vec){0};
    for (int r = 0; r < SIDE; r++, filters += SIDE * IN * LANES) {
        const float *upper = bordered + ((row + r) * across(width) + column) * IN;
        const float *lower = upper + across(width) * IN;
        for (int k = 0; k < IN; k++) {
            vec weights[SIDE];
            for (int t = 0; t < SIDE; t++) weights[t] = AT(filters, (t * IN + k) * LANES);
#pragma GCC unroll 12
            for (int c = 0; c < COLUMNS + SIDE - 1; c++)
#pragma GCC unroll 5
                for (int t = 0; t < SIDE; t++)
                    if (c >= t && c - t < COLUMNS) {
                        sums[c - t] += upper[c * IN + k] * weights[t];
                        sums[COLUMNS + c - t] += lower[c * IN + k] * weights[t];
                    }
        }
    }
}

/* The largest of the 2x2 sums from column c on, with bias, after ReLU. */
INLINE void halve(const vec *sums, int c, vec bias, float *output, uint8_t *place) {
    ints which;
    vec most = largest(sums + c, COLUMNS, &which);
    most += bias;
    ints none = most <= 0; /* not so of what is no number: it stays */
    AT(output, 0) = choose(none, (vec){0}, most);
    *(bytes *)place = __builtin_convertvector((none & NONE) | (~none & which), bytes);
}

/* outputs [images, height / 2, width / 2, OUT], with their places, of inputs [images, height, width, IN]. Filters are
 * [OUT / 8][5][5][IN][8]. */
void forward(const float *inputs, const float *filters, const float *bias, float *outputs, uint8_t *places, long images,
             long height, long width) {
#pragma omp parallel
    {
        float *bordered = room(height, width);
#pragma omp for schedule(static)
        for (long image = 0; image < images; image++) {
            put_inside(inputs + image * height * width * IN, bordered, height, width);
            for (long row = 0; row < height / 2; row++)
                for (long column = 0; column < width / 2; column += COLUMNS / 2)
                    for (long channel = 0; channel < OUT; channel += LANES) {
                        vec sums[2 * COLUMNS];
                        convolve(bordered, filters + channel * WEIGHTS, sums, 2 * row, 2 * column, width);
                        for (long c = 0; c < COLUMNS / 2 && column + c < width / 2; c++) {
                            long at = ((image * (height / 2) + row) * (width / 2) + column + c) * OUT + channel;
                            halve(sums, 2 * c, AT(bias, channel), outputs + at, places + at);
                        }
                    }
        }
        free(bordered);
    }
}

/* The gradient of an output of one channel, and which pixel of the image with its border is the first of its 5x5. */
typedef struct {
    long first;
    float gradient;
} Entry;

/* A channel's gradients that are not zero, each where the largest of its 2x2 was. Every one is written, and written
 * over where ReLU gave zero: that costs less than a branch which no processor foresees. */
static long collect(const float *gradients, const uint8_t *places, Entry *entries, long height, long width) {
    long num = 0;
    for (long row = 0; row < height / 2; row++)
        for (long column = 0; column < width / 2; column++, gradients += OUT, places += OUT) {
            long place = *places;
            entries[num] = (Entry){(2 * row + place / 2) * across(width) + 2 * column + place % 2, *gradients};
            num += place != NONE;
        }
    return num;
}

/* Adds the entries' pixels times their gradients to the gradients of a filter. Gives the sum of the gradients. */
static float add_to_filter(const float *bordered, const Entry *entries, long num, float *of_filter, long width) {
    float total = 0;
    for (int row = 0; row < SIDE; row += ROWS, of_filter += ROWS * FILLED) {
        vec sums[ROWS * VECTORS];
        for (int i = 0; i < ROWS * VECTORS; i++) sums[i] = AT(of_filter, i * LANES);
        total = 0;
        for (long e = 0; e < num; e++) {
            const float *from = bordered + (entries[e].first + row * across(width)) * IN;
            total += entries[e].gradient;
#pragma GCC unroll 5
            for (int r = 0; r < ROWS; r++, from += across(width) * IN)
#pragma GCC unroll 10
                for (int i = 0; i < VECTORS; i++) sums[r * VECTORS + i] += entries[e].gradient * AT(from, i * LANES);
        }
        for (int i = 0; i < ROWS * VECTORS; i++) AT(of_filter, i * LANES) = sums[i];
    }
    return total;
}

/* Adds the filter times the entries' gradients to the gradients of their pixels. */
static void add_to_pixels(const float *filter, const Entry *entries, long num, float *of_bordered, long width) {
    for (long e = 0; e < num; e++) {
        float *to = of_bordered + entries[e].first * IN;
#pragma GCC unroll 5
        for (int r = 0; r < SIDE; r++, to += across(width) * IN)
#pragma GCC unroll 10
            for (int i = 0; i < VECTORS; i++)
                AT(to, i * LANES) += entries[e].gradient * AT(filter, r * FILLED + i * LANES);
    }
}

/* Gradients of inputs, unless that is NULL, and of filters and bias, a thread's own, to be added up. Here filters are
 * [OUT][5][5][IN], and their gradients [OUT][5][FILLED], rows of 5 x IN filled up to whole vectors. */
void backward(const float *inputs, const float *gradients, const uint8_t *places, const float *filters,
              float *of_inputs, float *of_filters, float *of_bias, long images, long height, long width) {
#pragma omp parallel
    {
        const long thread = omp_get_thread_num(), pixels = height * width * IN, halved = height / 2 * (width / 2);
        float *bordered = room(height, width), *of_bordered = room(height, width);
        Entry *entries = malloc(sizeof(Entry) * halved);
        float *sums = of_filters + thread * OUT * SIDE * FILLED, *totals = of_bias + thread * OUT;
#pragma omp for schedule(static)
        for (long image = 0; image < images; image++) {
            put_inside(inputs + image * pixels, bordered, height, width);
            if (of_inputs) memset(of_bordered, 0, bytes_of(height, width));
            for (long channel = 0; channel < OUT; channel++) {
                long at = image * halved * OUT + channel;
                long num = collect(gradients + at, places + at, entries, height, width);
                totals[channel] += add_to_filter(bordered, entries, num, sums + channel * SIDE * FILLED, width);
                if (of_inputs) add_to_pixels(filters + channel * WEIGHTS, entries, num, of_bordered, width);
            }
            if (of_inputs) take_from_inside(of_bordered, of_inputs + image * pixels, height, width);
        }
        free(bordered);
        free(of_bordered);
        free(entries);
    }
}
