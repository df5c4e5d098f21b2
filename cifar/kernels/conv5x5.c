/* 5x5 convolution of few channels, 2x2 max pooling and ReLU as one operation. conv5x5.py compiles it for each pair of
 * input channels, IN, and output channels, OUT, so that distances in memory are constants.
 *
 * A thread takes an image at a time and pads it with zeros. Forward, sums stay in registers until only the pooled
 * output is left to write. Backward, the three outputs of a 2x2 that were not the maximum have gradient zero, and so
 * have those that ReLU made zero: less than a quarter of the products are not zero, and only those are computed.
 *
 * Images are [images, height, width, channels]. OUT is a multiple of 8; IN is a multiple of 8, or 1, or 3. For every
 * pooled output the argmax index of its 2x2 is kept, a byte (the first of equal ones), or NONE where ReLU gave zero.
 */

#include <stdlib.h>
#include <string.h>

#include "vectors.h"

enum { SIDE = 5, PADDING = SIDE / 2, NONE = 4 };
enum { WEIGHTS = SIDE * SIDE * IN, VECTORS = (SIDE * IN + LANES - 1) / LANES, FILLED = VECTORS * LANES };
#ifdef __AVX512VL__
enum { COLUMNS = 8 }; /* two rows of them are sixteen vectors of sums, of 32 registers */
#else
enum { COLUMNS = 4 };
#endif
enum { ROWS = VECTORS <= 5 ? SIDE : 1 }; /* rows of a filter whose gradients are kept in registers at a time */

/* Of a padded image; it is wide enough for outputs to be computed in whole blocks of COLUMNS. */
static long padded_height(long height) { return (height + 1) / 2 * 2 + 2 * PADDING; }
static long padded_width(long width) { return (width + COLUMNS - 1) / COLUMNS * COLUMNS + 2 * PADDING; }

/* Numbers of a padded image; a vector more than it has, since rows of weights are read in whole vectors. */
static long padded_size(long height, long width) { return padded_height(height) * padded_width(width) * IN + LANES; }

static float *interior(const float *padded, long row, long width) {
    return (float *)padded + ((row + PADDING) * padded_width(width) + PADDING) * IN;
}

static void copy_in(const float *image, float *padded, long height, long width) {
    for (long row = 0; row < height; row++)
        memcpy(interior(padded, row, width), image + row * width * IN, sizeof(float) * width * IN);
}

static void copy_out(const float *padded, float *image, long height, long width) {
    for (long row = 0; row < height; row++)
        memcpy(image + row * width * IN, interior(padded, row, width), sizeof(float) * width * IN);
}

/* The sums of two rows and COLUMNS columns from (row, column) on, for 8 output channels. Each loaded pixel is
 * multiplied by all weights of a filter's row. */
INLINE void convolve(const float *padded, const float *filters, vec *sums, long row, long column, long width) {
    for (int i = 0; i < 2 * COLUMNS; i++) sums[i] = (vec){0};
    for (int r = 0; r < SIDE; r++, filters += SIDE * IN * LANES) {
        const float *upper = padded + ((row + r) * padded_width(width) + column) * IN;
        const float *lower = upper + padded_width(width) * IN;
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

/* Max pooling of the 2x2 sums from column c on, then bias and ReLU. */
INLINE void pool_relu(const vec *sums, int c, vec bias, float *output, uint8_t *argmax) {
    ints index;
    vec maximum = max_pool(sums + c, COLUMNS, &index);
    maximum += bias;
    ints none = maximum <= 0; /* false for NaN, which stays */
    AT(output, 0) = choose(none, (vec){0}, maximum);
    *(bytes *)argmax = __builtin_convertvector((none & NONE) | (~none & index), bytes);
}

/* outputs and argmax [images, height / 2, width / 2, OUT] of inputs [images, height, width, IN]; filters are [OUT /
 * 8][5][5][IN][8], bias [OUT]. */
int conv5x5_forward(const float *inputs, const float *filters, const float *bias, float *outputs, uint8_t *argmax,
                    long images, long height, long width, long threads) {
    float *buffers = calloc(threads * padded_size(height, width), sizeof(float)); /* an image a thread */
    if (!buffers) return NO_MEMORY;
#pragma omp parallel num_threads(threads)
    {
        float *padded = buffers + omp_get_thread_num() * padded_size(height, width);
#pragma omp for schedule(static)
        for (long image = 0; image < images; image++) {
            copy_in(inputs + image * height * width * IN, padded, height, width);
            for (long row = 0; row < height / 2; row++)
                for (long column = 0; column < width / 2; column += COLUMNS / 2)
                    for (long channel = 0; channel < OUT; channel += LANES) {
                        vec sums[2 * COLUMNS];
                        convolve(padded, filters + channel * WEIGHTS, sums, 2 * row, 2 * column, width);
                        for (long c = 0; c < COLUMNS / 2 && column + c < width / 2; c++) {
                            long at = ((image * (height / 2) + row) * (width / 2) + column + c) * OUT + channel;
                            pool_relu(sums, 2 * c, AT(bias, channel), outputs + at, argmax + at);
                        }
                    }
        }
    }
    free(buffers);
    return DONE;
}

/* The gradient of one output, and the first of the 5x5 pixels of the padded image that it came from. */
typedef struct {
    long first;
    float gradient;
} Entry;

/* One channel's gradients that are not zero, each at the argmax of its 2x2. Every one is written, and overwritten by
 * the next where ReLU gave zero, which costs less than a branch that the CPU cannot predict. */
static long collect(const float *grad_output, const uint8_t *argmax, Entry *entries, long height, long width) {
    long num = 0;
    for (long row = 0; row < height / 2; row++)
        for (long column = 0; column < width / 2; column++, grad_output += OUT, argmax += OUT) {
            long index = *argmax;
            long first = (2 * row + index / 2) * padded_width(width) + 2 * column + index % 2;
            entries[num] = (Entry){first, *grad_output};
            num += index != NONE;
        }
    return num;
}

/* Adds the entries' pixels times their gradients to the gradient of a filter. Returns the sum of the gradients. */
static float add_to_filter(const float *padded, const Entry *entries, long num, float *grad_filter, long width) {
    float total = 0;
    for (int row = 0; row < SIDE; row += ROWS, grad_filter += ROWS * FILLED) {
        vec sums[ROWS * VECTORS];
        for (int i = 0; i < ROWS * VECTORS; i++) sums[i] = AT(grad_filter, i * LANES);
        total = 0;
        for (long e = 0; e < num; e++) {
            const float *from = padded + (entries[e].first + row * padded_width(width)) * IN;
            total += entries[e].gradient;
#pragma GCC unroll 5
            for (int r = 0; r < ROWS; r++, from += padded_width(width) * IN)
#pragma GCC unroll 10
                for (int i = 0; i < VECTORS; i++) sums[r * VECTORS + i] += entries[e].gradient * AT(from, i * LANES);
        }
        for (int i = 0; i < ROWS * VECTORS; i++) AT(grad_filter, i * LANES) = sums[i];
    }
    return total;
}

/* Adds the filter times the entries' gradients to the gradients of their pixels. Restricted, so that the filter stays
 * in registers. */
static void add_to_pixels(const float *restrict filter, const Entry *restrict entries, long num,
                          float *restrict grad_padded, long width) {
    for (long e = 0; e < num; e++) {
        float *to = grad_padded + entries[e].first * IN;
#pragma GCC unroll 5
        for (int r = 0; r < SIDE; r++, to += padded_width(width) * IN)
#pragma GCC unroll 10
            for (int i = 0; i < VECTORS; i++)
                AT(to, i * LANES) += entries[e].gradient * AT(filter, r * FILLED + i * LANES);
    }
}

/* grad_input, unless that is NULL, and each thread's part of grad_filters [threads, OUT, 5, FILLED] (rows of 5 x IN,
 * filled up to whole vectors) and of grad_bias [threads, OUT], which the caller sums. Filters are [OUT][5][5][IN]
 * here. */
int conv5x5_backward(const float *inputs, const float *grad_output, const uint8_t *argmax, const float *filters,
                     float *grad_input, float *grad_filters, float *grad_bias, long images, long height, long width,
                     long threads) {
    const long size = padded_size(height, width), pixels = height * width * IN, pooled = height / 2 * (width / 2);
    float *buffers = calloc(2 * threads * size, sizeof(float)); /* an image and its gradient a thread */
    Entry *lists = malloc(sizeof(Entry) * threads * pooled);
    if (!buffers || !lists) {
        free(buffers);
        free(lists);
        return NO_MEMORY;
    }
#pragma omp parallel num_threads(threads)
    {
        const long thread = omp_get_thread_num();
        float *padded = buffers + 2 * thread * size, *grad_padded = padded + size;
        Entry *entries = lists + thread * pooled;
        float *sums = grad_filters + thread * OUT * SIDE * FILLED, *totals = grad_bias + thread * OUT;
#pragma omp for schedule(static)
        for (long image = 0; image < images; image++) {
            copy_in(inputs + image * pixels, padded, height, width);
            if (grad_input) memset(grad_padded, 0, sizeof(float) * size);
            for (long channel = 0; channel < OUT; channel++) {
                long at = image * pooled * OUT + channel;
                long num = collect(grad_output + at, argmax + at, entries, height, width);
                totals[channel] += add_to_filter(padded, entries, num, sums + channel * SIDE * FILLED, width);
                if (grad_input) add_to_pixels(filters + channel * WEIGHTS, entries, num, grad_padded, width);
            }
            if (grad_input) copy_out(grad_padded, grad_input + image * pixels, height, width);
        }
    }
    free(buffers);
    free(lists);
    return DONE;
}
