/* 3x3 convolutions of images by Winograd's method F(4x4, 3x3): Lavin and Gray 2016, "Fast Algorithms for Convolutional
 * Neural Networks", section 4.
 *
 * Images are cut into tiles of 4x4 output pixels, which need 6x6 input pixels. A fixed linear map takes the pixels of a
 * tile, and another the nine weights of a filter, to 36 points each. There a convolution is one product of matrices
 * [tiles, channels in] and [channels in, channels out] a point, and a third map takes 36 points back to 16 pixels: 36
 * multiplications where the plain way has 144. The gradients are the same maps and products, transposed.
 *
 * Every thread takes a few images at a time all the way, so that what lies between stays in its cache.
 *
 * Images are [images, height, width, channels], channels a multiple of 8. Between the maps channels come in panels of
 * 16, the last one filled up with zeros:
 *   tiles   [36][panels of channels][tiles][16]
 *   filters [36][panels of the channels that come out][channels that go in, filled up][16]
 */

#include <omp.h>
#include <stdlib.h>
#include <string.h>

typedef float vec __attribute__((vector_size(32), aligned(4))); /* 8 channels */
enum { LANES = 8, PANEL = 16, POINTS = 36, TILES = 48, ROWS = 6 };

typedef struct {
    long height, width, channels; /* of an image */
    long across, tiles;           /* tiles in a row, and in an image */
    long images;                  /* that a thread takes at a time */
    long slots;                   /* room for their tiles, a multiple of ROWS */
    long stride;                  /* floats from point to point; not a power of two, which a cache bears badly */
} Shape;

static long filled(long channels) { return (channels + PANEL - 1) / PANEL * PANEL; }

static Shape shape_of(long height, long width, long channels) {
    Shape s = {.height = height, .width = width, .channels = channels, .across = (width + 3) / 4};
    s.tiles = (height + 3) / 4 * s.across;
    s.images = (TILES + s.tiles - 1) / s.tiles;
    s.slots = (s.images * s.tiles + ROWS - 1) / ROWS * ROWS;
    s.stride = s.slots * filled(channels) + PANEL;
    return s;
}

/* The maps in one dimension: values lie `step` vectors apart in what is read, `to_step` in what is written. */

static inline void map_input(const vec *d, int step, vec *v, int to_step) { /* 6 to 6 */
    vec d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
    vec even = d4 - 4 * d2, odd = d3 - 4 * d1, even2 = d4 - d2, odd2 = 2 * (d3 - d1);
    v[0] = 4 * d0 - 5 * d2 + d4;
    v[to_step] = even + odd;
    v[2 * to_step] = even - odd;
    v[3 * to_step] = even2 + odd2;
    v[4 * to_step] = even2 - odd2;
    v[5 * to_step] = 4 * d1 - 5 * d3 + d5;
}

static inline void map_input_transposed(const vec *v, int step, vec *d, int to_step) { /* 6 to 6 */
    vec v0 = v[0], v1 = v[step], v2 = v[2 * step], v3 = v[3 * step], v4 = v[4 * step], v5 = v[5 * step];
    vec sum = v1 + v2, difference = v1 - v2, sum2 = v3 + v4, difference2 = v3 - v4;
    d[0] = 4 * v0;
    d[to_step] = 4 * (v5 - difference) - 2 * difference2;
    d[2 * to_step] = -5 * v0 - 4 * sum - sum2;
    d[3 * to_step] = difference + 2 * difference2 - 5 * v5;
    d[4 * to_step] = v0 + sum + sum2;
    d[5 * to_step] = v5;
}

static inline void map_output(const vec *m, int step, vec *y, int to_step) { /* 6 to 4 */
    vec sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
    vec sum2 = m[3 * step] + m[4 * step], difference2 = m[3 * step] - m[4 * step];
    y[0] = m[0] + sum + sum2;
    y[to_step] = difference + 2 * difference2;
    y[2 * to_step] = sum + 4 * sum2;
    y[3 * to_step] = difference + 8 * difference2 + m[5 * step];
}

static inline void map_output_transposed(const vec *y, int step, vec *m, int to_step) { /* 4 to 6 */
    vec even = y[0] + y[2 * step], odd = y[step] + y[3 * step];
    vec even2 = y[0] + 4 * y[2 * step], odd2 = 2 * y[step] + 8 * y[3 * step];
    m[0] = y[0];
    m[to_step] = even + odd;
    m[2 * to_step] = even - odd;
    m[3 * to_step] = even2 + odd2;
    m[4 * to_step] = even2 - odd2;
    m[5 * to_step] = y[3 * step];
}

/* A tile of some images: the vector of channels from `channel` on, at all 36 points. */
static float *at(const Shape *s, const float *tiles, long image, long tile, long channel) {
    return (float *)tiles + (channel / PANEL * s->slots + image * s->tiles + tile) * PANEL + channel % PANEL;
}

/* All tiles of `images` images, one vector of channels of one after the other: those of a panel together, since their
 * 36 points lie in as many lines of the cache. */
#define FOR_EACH_TILE(s, images)                                                                                      \
    for (long image = 0; image < (images); image++)                                                                   \
        for (long panel = 0; panel < (s)->channels; panel += PANEL)                                                   \
            for (long tile = 0; tile < (s)->tiles; tile++)                                                            \
                for (long channel = panel; channel < panel + PANEL && channel < (s)->channels; channel += LANES)

static const float *pixel(const Shape *s, const float *images, long image, long row, long column) {
    return images + ((image * s->height + row) * s->width + column) * s->channels;
}

static int inside(const Shape *s, long row, long column) {
    return row >= 0 && row < s->height && column >= 0 && column < s->width;
}

static void tiles_of_inputs(const Shape *s, const float *images, float *tiles, long num) {
    FOR_EACH_TILE(s, num) {
        vec d[36], half[36], v[36];
        long top = tile / s->across * 4 - 1, left = tile % s->across * 4 - 1;
        for (int r = 0; r < 6; r++)
            for (int c = 0; c < 6; c++)
                d[6 * r + c] = inside(s, top + r, left + c)
                                   ? *(const vec *)(pixel(s, images, image, top + r, left + c) + channel)
                                   : (vec){0};
        for (int c = 0; c < 6; c++) map_input(d + c, 6, half + c, 6);
        for (int r = 0; r < 6; r++) map_input(half + 6 * r, 1, v + 6 * r, 1);
        float *to = at(s, tiles, image, tile, channel);
        for (int z = 0; z < POINTS; z++) *(vec *)(to + z * s->stride) = v[z];
    }
}

static void gradients_of_inputs(const Shape *s, const float *tiles, float *gradients, long num) {
    memset(gradients, 0, sizeof(float) * num * s->height * s->width * s->channels);
    FOR_EACH_TILE(s, num) {
        vec v[36], half[36], d[36];
        long top = tile / s->across * 4 - 1, left = tile % s->across * 4 - 1;
        const float *from = at(s, tiles, image, tile, channel);
        for (int z = 0; z < POINTS; z++) v[z] = *(const vec *)(from + z * s->stride);
        for (int c = 0; c < 6; c++) map_input_transposed(v + c, 6, half + c, 6);
        for (int r = 0; r < 6; r++) map_input_transposed(half + 6 * r, 1, d + 6 * r, 1);
        for (int r = 0; r < 6; r++)
            for (int c = 0; c < 6; c++)
                if (inside(s, top + r, left + c)) /* tiles overlap by two pixels */
                    *(vec *)(pixel(s, gradients, image, top + r, left + c) + channel) += d[6 * r + c];
    }
}

static void outputs_of_tiles(const Shape *s, const float *tiles, float *outputs, long num) {
    FOR_EACH_TILE(s, num) {
        vec m[36], half[24], y[16];
        long top = tile / s->across * 4, left = tile % s->across * 4;
        const float *from = at(s, tiles, image, tile, channel);
        for (int z = 0; z < POINTS; z++) m[z] = *(const vec *)(from + z * s->stride);
        for (int c = 0; c < 6; c++) map_output(m + c, 6, half + c, 6);
        for (int r = 0; r < 4; r++) map_output(half + 6 * r, 1, y + 4 * r, 1);
        for (int r = 0; r < 4; r++)
            for (int c = 0; c < 4; c++)
                if (inside(s, top + r, left + c))
                    *(vec *)(pixel(s, outputs, image, top + r, left + c) + channel) = y[4 * r + c];
    }
}

static void tiles_of_gradients(const Shape *s, const float *gradients, float *tiles, long num) {
    FOR_EACH_TILE(s, num) {
        vec y[16], half[24], m[36];
        long top = tile / s->across * 4, left = tile % s->across * 4;
        for (int r = 0; r < 4; r++)
            for (int c = 0; c < 4; c++)
                y[4 * r + c] = inside(s, top + r, left + c)
                                   ? *(const vec *)(pixel(s, gradients, image, top + r, left + c) + channel)
                                   : (vec){0};
        for (int c = 0; c < 4; c++) map_output_transposed(y + c, 4, half + c, 4);
        for (int r = 0; r < 6; r++) map_output_transposed(half + 4 * r, 1, m + 6 * r, 1);
        float *to = at(s, tiles, image, tile, channel);
        for (int z = 0; z < POINTS; z++) *(vec *)(to + z * s->stride) = m[z];
    }
}

/* out [tiles, num_out] = in [tiles, num_in] filters [num_in, num_out] at one point. Twelve vectors of sums, which with
 * two of filters and one of inputs fill the sixteen registers of AVX2. */
static void multiply(const float *in, const float *filters, float *out, long slots, long num_in, long num_out) {
    for (long j = 0; j < num_out; j += PANEL, filters += num_in * PANEL)
        for (long i = 0; i < slots; i += ROWS) {
            vec left[ROWS] = {0}, right[ROWS] = {0};
            const float *weights = filters;
            for (long k = 0; k < num_in; k += PANEL) {
                const float *from = in + k * slots + i * PANEL;
                for (long z = 0; z < PANEL; z++, weights += PANEL) {
                    vec w0 = *(const vec *)weights, w1 = *(const vec *)(weights + LANES);
#pragma GCC unroll 6
                    for (int r = 0; r < ROWS; r++) {
                        left[r] += from[r * PANEL + z] * w0;
                        right[r] += from[r * PANEL + z] * w1;
                    }
                }
            }
            float *to = out + j * slots + i * PANEL;
            for (int r = 0; r < ROWS; r++, to += PANEL) {
                *(vec *)to = left[r];
                *(vec *)(to + LANES) = right[r];
            }
        }
}

/* sums [num, 16] += in' [num, tiles] out [tiles, 16], num at most ROWS channels of a panel. */
static inline __attribute__((always_inline)) void add_products(const float *in, const float *out, float *sums,
                                                               long slots, const int num) {
    vec left[ROWS] = {0}, right[ROWS] = {0};
    for (long z = 0; z < slots; z++, in += PANEL, out += PANEL) {
        vec g0 = *(const vec *)out, g1 = *(const vec *)(out + LANES);
#pragma GCC unroll 6
        for (int r = 0; r < num; r++) {
            left[r] += in[r] * g0;
            right[r] += in[r] * g1;
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < num; r++, sums += PANEL) {
        *(vec *)sums += left[r];
        *(vec *)(sums + LANES) += right[r];
    }
}

/* sums [num_in, num_out] += in' [num_in, tiles] out [tiles, num_out] at one point. */
static void add_gradients(const float *in, const float *out, float *sums, long slots, long num_in, long num_out) {
    for (long j = 0; j < num_out; j += PANEL, out += slots * PANEL)
        for (long i = 0; i < num_in; i += PANEL, sums += PANEL * PANEL) {
            const float *from = in + i * slots;
            add_products(from, out, sums, slots, ROWS);
            add_products(from + ROWS, out, sums + ROWS * PANEL, slots, ROWS);
            add_products(from + 2 * ROWS, out, sums + 2 * ROWS * PANEL, slots, PANEL - 2 * ROWS);
        }
}

static float *zeros(long num) {
    float *made = aligned_alloc(64, sizeof(float) * num);
    memset(made, 0, sizeof(float) * num);
    return made;
}

/* outputs [images, height, width, num_out] of inputs [images, height, width, num_in]. */
void winograd_forward(const float *inputs, const float *filters, float *outputs, long images, long height, long width,
                      long num_in, long num_out) {
    Shape in = shape_of(height, width, num_in), out = shape_of(height, width, num_out);
    long size = filled(num_in) * filled(num_out), pixels = height * width;
#pragma omp parallel
    {
        float *before = zeros(POINTS * in.stride), *after = zeros(POINTS * out.stride);
#pragma omp for schedule(static)
        for (long i = 0; i < images; i += in.images) {
            long num = images - i < in.images ? images - i : in.images;
            tiles_of_inputs(&in, inputs + i * pixels * num_in, before, num);
            for (long z = 0; z < POINTS; z++)
                multiply(before + z * in.stride, filters + z * size, after + z * out.stride, in.slots, filled(num_in),
                         filled(num_out));
            outputs_of_tiles(&out, after, outputs + i * pixels * num_out, num);
        }
        free(before);
        free(after);
    }
}

/* Gradients of the inputs, unless that is NULL, and of the filters at their 36 points, from those of the outputs;
 * `transposed` are the filters with their channels in and out exchanged. */
void winograd_backward(const float *inputs, const float *gradients, const float *transposed, float *of_inputs,
                       float *of_filters, long images, long height, long width, long num_in, long num_out) {
    Shape in = shape_of(height, width, num_in), out = shape_of(height, width, num_out);
    long size = filled(num_in) * filled(num_out), pixels = height * width;
    int threads = omp_get_max_threads();
    float *sums = zeros(threads * POINTS * size); /* a thread's own, added up at the end in the same order every time */
#pragma omp parallel num_threads(threads)
    {
        float *before = zeros(POINTS * in.stride), *after = zeros(POINTS * out.stride);
        float *own = sums + omp_get_thread_num() * POINTS * size;
#pragma omp for schedule(static)
        for (long i = 0; i < images; i += in.images) {
            long num = images - i < in.images ? images - i : in.images;
            if (num < in.images) { /* the other slots hold former tiles, which would be counted again */
                memset(before, 0, sizeof(float) * POINTS * in.stride);
                memset(after, 0, sizeof(float) * POINTS * out.stride);
            }
            tiles_of_inputs(&in, inputs + i * pixels * num_in, before, num);
            tiles_of_gradients(&out, gradients + i * pixels * num_out, after, num);
            for (long z = 0; z < POINTS; z++) {
                float *at_in = before + z * in.stride, *at_out = after + z * out.stride;
                add_gradients(at_in, at_out, own + z * size, in.slots, filled(num_in), filled(num_out));
                if (of_inputs)
                    multiply(at_out, transposed + z * size, at_in, in.slots, filled(num_out), filled(num_in));
            }
            if (of_inputs) gradients_of_inputs(&in, before, of_inputs + i * pixels * num_in, num);
        }
        free(before);
        free(after);
#pragma omp for schedule(static)
        for (long i = 0; i < POINTS * size; i++) {
            float sum = 0;
            for (int t = 0; t < threads; t++) sum += sums[t * POINTS * size + i];
            of_filters[i] = sum;
        }
    }
    free(sums);
}
