/* 3x3 convolutions of images by Winograd's method, F(OUT x OUT, 3x3): Lavin and Gray 2016, "Fast Algorithms for
 * Convolutional Neural Networks", section 4. Compiled by winograd.py, with OUT and the maps OF_INPUT, OF_FILTER and OF_OUTPUT.
 *
 * Images are cut into tiles of OUTxOUT output pixels, which need INxIN input pixels, IN = OUT + 2. A fixed linear map
 * takes the pixels of a tile, and another the nine weights of a filter, to INxIN points each. There a convolution is a
 * product of matrices [tiles, channels in] and [channels in, channels out] a point, and a third map takes the points
 * back to OUTxOUT pixels: for tiles of 4x4 pixels 36 multiplications where the plain way has 144. The gradients are the
 * same maps and products, transposed.
 *
 * The threads take some images at a time together, so that what lies between stays in the cache that they share: each
 * maps its share of the images to points, then multiplies at its share of the points, then maps images back.
 *
 * Outputs can be halved on their way back: only the largest of each 2x2 is written, [images, height / 2, width / 2,
 * channels], with its place among the four (the first, if several are as large), a byte. Its gradient goes there again.
 * Tiles then have an even number of outputs a side, or there is one tile.
 *
 * Images are [images, height, width, channels], channels a multiple of 8. Between the maps channels come in panels of
 * 16, the last one filled up with zeros:
 *   tiles   [points][panels of channels][tiles][16]
 *   filters [points][panels of the channels that come out][channels that go in, filled up][16]
 */

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

enum { IN = OUT + 2, PANEL = 16, POINTS = IN * IN, ROWS = 6 };
enum { BYTES = 8000000 }; /* of a cache of 32 MB: 4 to 16 MB were tried */

/* In one dimension: how much of a pixel, or a weight, is in a point, [point][pixel]. The points are 0, pairs of opposite ones and, if
 * IN is even, infinity. What the two of a pair have of a pixel is the same but for the sign, which differs for every
 * other pixel. */
static const float INPUT_MAP[IN * IN] = OF_INPUT, FILTER_MAP[IN * 3] = OF_FILTER, OUTPUT_MAP[IN * OUT] = OF_OUTPUT;

typedef struct {
    long height, width, channels; /* of an image */
    long across, tiles;           /* tiles in a row, and in an image */
    long slots;                   /* room for the tiles of the images that are taken at a time, a multiple of ROWS */
    long stride;                  /* floats from point to point; not a power of two, which a cache bears badly */
} Shape;

static long filled(long channels) { return (channels + PANEL - 1) / PANEL * PANEL; }

static Shape shape_of(long height, long width, long channels, long images) {
    Shape s = {.height = height, .width = width, .channels = channels, .across = (width + OUT - 1) / OUT};
    s.tiles = (height + OUT - 1) / OUT * s.across;
    s.slots = (images * s.tiles + ROWS - 1) / ROWS * ROWS;
    s.stride = s.slots * filled(channels) + PANEL;
    return s;
}

/* How many images to take at a time, so that their points fill about BYTES and no thread waits for the last image. */
static long images_at_a_time(long height, long width, long channels, long images) {
    long tiles = ((height + OUT - 1) / OUT) * ((width + OUT - 1) / OUT), threads = omp_get_max_threads();
    long most = BYTES / (sizeof(float) * POINTS * channels * tiles);
    if (most < 1) most = 1;
    long parts = (images + most - 1) / most, together = (images + parts - 1) / parts;
    return (together + threads - 1) / threads * threads;
}

/* to [width][IN] = (map from [side][width])'. Inline, so that what is multiplied by a map's zeros is left out. */
INLINE void map_and_turn(const float *map, const int side, const vec *from, vec *to, int width) {
    for (int c = 0; c < width; c++, from++, to += IN)
#pragma GCC unroll 10
        for (int j = 0; j <= IN / 2; j++) {
            const int p = j ? 2 * j - 1 : 0;
            vec even = {0}, odd = {0};
#pragma GCC unroll 10
            for (int k = 0; k < side; k += 2)
                if (map[p * side + k] != 0) even += map[p * side + k] * from[k * width];
#pragma GCC unroll 10
            for (int k = 1; k < side; k += 2)
                if (map[p * side + k] != 0) odd += map[p * side + k] * from[k * width];
            to[p] = even + odd;
            if (p && p + 1 < IN) to[p + 1] = even - odd;
        }
}

/* to [width][side] = (map' from [IN][width])'. */
INLINE void map_back_and_turn(const float *map, const int side, const vec *from, vec *to, int width) {
    for (int c = 0; c < width; c++, from++, to += side) {
        vec sums[IN], differences[IN];
#pragma GCC unroll 10
        for (int j = 0; j <= IN / 2; j++) {
            const int p = j ? 2 * j - 1 : 0;
            int paired = p && p + 1 < IN;
            sums[p] = paired ? from[p * width] + from[(p + 1) * width] : from[p * width];
            differences[p] = paired ? from[p * width] - from[(p + 1) * width] : from[p * width];
        }
#pragma GCC unroll 10
        for (int k = 0; k < side; k++) {
            vec sum = {0};
#pragma GCC unroll 10
            for (int j = 0; j <= IN / 2; j++) {
                const int p = j ? 2 * j - 1 : 0;
                if (map[p * side + k] != 0) sum += map[p * side + k] * (k % 2 ? differences[p] : sums[p]);
            }
            to[k] = sum;
        }
    }
}

/* A tile of some images: the vector of channels from `channel` on, at the first point. */
static float *at(const Shape *s, const float *tiles, long image, long tile, long channel) {
    return (float *)tiles + (channel / PANEL * s->slots + image * s->tiles + tile) * PANEL + channel % PANEL;
}

/* All tiles of an image, one vector of channels of one after the other: those of a panel together, since their points
 * lie in as many lines of the cache. */
#define FOR_EACH_TILE(s)                                                                                              \
    for (long panel = 0; panel < (s)->channels; panel += PANEL)                                                       \
        for (long tile = 0; tile < (s)->tiles; tile++)                                                                \
            for (long channel = panel; channel < panel + PANEL && channel < (s)->channels; channel += LANES)

static const float *pixel(const Shape *s, const float *images, long image, long row, long column) {
    return images + ((image * s->height + row) * s->width + column) * s->channels;
}

static int inside(const Shape *s, long row, long column) {
    return row >= 0 && row < s->height && column >= 0 && column < s->width;
}

/* Where the largest of 2x2 pixels lies that come from, or go to, (row, column) of the whole image; NULL outside. */
static const float *halved(const Shape *s, const float *images, long image, long row, long column) {
    if (row / 2 >= s->height / 2 || column / 2 >= s->width / 2) return 0;
    return images + ((image * (s->height / 2) + row / 2) * (s->width / 2) + column / 2) * s->channels;
}

/* The gradients of the outputs of a tile: each where the largest of its 2x2 was. */
INLINE void read_halved(const Shape *s, vec *pixels, const float *images, const uint8_t *places, long image, long top,
                        long left, long channel) {
    if (OUT % 2) memset(pixels, 0, sizeof(vec) * OUT * OUT); /* the last row and column have no place */
    for (int r = 0; r + 1 < OUT; r += 2)
        for (int c = 0; c + 1 < OUT; c += 2) {
            const float *from = halved(s, images, image, top + r, left + c);
            vec gradient = from ? *(const vec *)(from + channel) : (vec){0};
            ints place = {0};
            if (from) place = __builtin_convertvector(*(const bytes *)(places + (from - images) + channel), ints);
            for (int k = 0; k < 4; k++) pixels[OUT * (r + k / 2) + c + k % 2] = (vec)((ints)gradient & (place == k));
        }
}

/* The points of all tiles of an image. A tile has as many pixels a side as the map takes: IN, with the border of a
 * pixel around the outputs that need them, or OUT, which are halved where places are given. */
INLINE void to_points(const Shape *s, const float *map, int side, const float *images, const uint8_t *places,
                      float *tiles, long image) {
    const int border = side == IN;
    FOR_EACH_TILE(s) {
        vec pixels[IN * IN], half[IN * IN], points[POINTS];
        long top = tile / s->across * OUT - border, left = tile % s->across * OUT - border;
        if (places)
            read_halved(s, pixels, images, places, image, top, left, channel);
        else
            for (int r = 0; r < side; r++)
                for (int c = 0; c < side; c++)
                    pixels[side * r + c] = inside(s, top + r, left + c)
                                               ? *(const vec *)(pixel(s, images, image, top + r, left + c) + channel)
                                               : (vec){0};
        map_and_turn(map, side, pixels, half, side); /* twice turned is as it was */
        map_and_turn(map, side, half, points, IN);
        float *to = at(s, tiles, image, tile, channel);
        for (int z = 0; z < POINTS; z++) *(vec *)(to + z * s->stride) = points[z];
    }
}

/* Of the outputs of a tile, an even number a side or all that there are, the largest of each 2x2 and their places. */
INLINE void write_halved(const Shape *s, const vec *pixels, float *images, uint8_t *places, long image, long top,
                         long left, long channel) {
    for (int r = 0; r + 1 < OUT; r += 2)
        for (int c = 0; c + 1 < OUT; c += 2) {
            float *to = (float *)halved(s, images, image, top + r, left + c);
            if (!to) continue;
            ints place;
            *(vec *)(to + channel) = largest(pixels + OUT * r + c, OUT, &place);
            *(bytes *)(places + (to - images) + channel) = __builtin_convertvector(place, bytes);
        }
}

/* And back: tiles with a border overlap, and are added up; outputs are halved where there is room for places. */
INLINE void from_points(const Shape *s, const float *map, int side, const float *tiles, float *images, uint8_t *places,
                        long image) {
    const int border = side == IN;
    if (border)
        memset((float *)pixel(s, images, image, 0, 0), 0, sizeof(float) * s->height * s->width * s->channels);
    FOR_EACH_TILE(s) {
        vec points[POINTS], half[IN * IN], pixels[IN * IN];
        long top = tile / s->across * OUT - border, left = tile % s->across * OUT - border;
        const float *from = at(s, tiles, image, tile, channel);
        for (int z = 0; z < POINTS; z++) points[z] = *(const vec *)(from + z * s->stride);
        map_back_and_turn(map, side, points, half, IN);
        map_back_and_turn(map, side, half, pixels, side);
        if (places) {
            write_halved(s, pixels, images, places, image, top, left, channel);
            continue;
        }
        for (int r = 0; r < side; r++)
            for (int c = 0; c < side; c++)
                if (inside(s, top + r, left + c)) {
                    vec *to = (vec *)(pixel(s, images, image, top + r, left + c) + channel);
                    *to = border ? *to + pixels[side * r + c] : pixels[side * r + c];
                }
    }
}

/* out [tiles, num_out] = in [tiles, num_in] filters [num_in, num_out] at one point. Twelve vectors of sums, which with
 * two of filters and one of inputs fill the sixteen registers of AVX2. */
static void multiply(const float *in, const float *filters, float *out, long slots, long num_in, long num_out) {
    for (long j = 0; j < num_out; j += PANEL, filters += filled(num_in) * PANEL)
        for (long i = 0; i < slots; i += ROWS) {
            vec left[ROWS] = {0}, right[ROWS] = {0};
            const float *weights = filters;
            for (long k = 0; k < num_in; k += PANEL) {
                const float *from = in + k * slots + i * PANEL;
                for (long z = 0; z < PANEL && z < num_in - k; z++, weights += PANEL) {
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
INLINE void add_products(const float *in, const float *out, float *sums, long tiles, const int num) {
    vec left[ROWS] = {0}, right[ROWS] = {0};
    for (long z = 0; z < tiles; z++, in += PANEL, out += PANEL) {
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
static void add_gradients(const float *in, const float *out, float *sums, long tiles, long slots, long num_in,
                          long num_out) {
    for (long j = 0; j < num_out; j += PANEL, out += slots * PANEL)
        for (long i = 0; i < num_in; i += PANEL, sums += PANEL * PANEL) {
            const float *from = in + i * slots;
            add_products(from, out, sums, tiles, ROWS);
            add_products(from + ROWS, out, sums + ROWS * PANEL, tiles, ROWS);
            add_products(from + 2 * ROWS, out, sums + 2 * ROWS * PANEL, tiles, PANEL - 2 * ROWS);
        }
}

/* Not cleared: what is neither a tile nor a channel stays by itself, and is left out in the end. */
static float *room(long num) { return aligned_alloc(64, sizeof(float) * num); }

/* Filters of channels out to their points. A weight of channel `out` from channel `in` is at out * by_out + in * by_in +
 * k * by_weight, k < 9. */
void filters_to_points(const float *weights, float *filters, long num_in, long num_out, long by_out, long by_in,
                       long by_weight) {
    const long panels = filled(num_out) / PANEL, rows = panels * filled(num_in);
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        long first = row / filled(num_in) * PANEL, in = row % filled(num_in);
        float some[9][PANEL] = {{0}};
        if (in < num_in)
            for (int k = 0; k < 9; k++)
                for (long out = first; out < first + PANEL && out < num_out; out++)
                    some[k][out - first] = weights[out * by_out + in * by_in + k * by_weight];
        for (int lane = 0; lane < PANEL; lane += LANES) {
            vec plain[9], half[3 * IN], points[POINTS];
            for (int k = 0; k < 9; k++) plain[k] = *(vec *)&some[k][lane];
            map_and_turn(FILTER_MAP, 3, plain, half, 3);
            map_and_turn(FILTER_MAP, 3, half, points, IN);
            for (int z = 0; z < POINTS; z++) *(vec *)(filters + (z * rows + row) * PANEL + lane) = points[z];
        }
    }
}

/* And back: the gradients of weights from those of filters at their points. */
void filters_from_points(const float *filters, float *weights, long num_in, long num_out, long by_out, long by_in,
                         long by_weight) {
    const long panels = filled(num_out) / PANEL, rows = panels * filled(num_in);
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        long first = row / filled(num_in) * PANEL, in = row % filled(num_in);
        if (in >= num_in) continue;
        float some[9][PANEL];
        for (int lane = 0; lane < PANEL; lane += LANES) {
            vec plain[9], half[3 * IN], points[POINTS];
            for (int z = 0; z < POINTS; z++) points[z] = *(const vec *)(filters + (z * rows + row) * PANEL + lane);
            map_back_and_turn(FILTER_MAP, 3, points, half, IN);
            map_back_and_turn(FILTER_MAP, 3, half, plain, 3);
            for (int k = 0; k < 9; k++) *(vec *)&some[k][lane] = plain[k];
        }
        for (int k = 0; k < 9; k++)
            for (long out = first; out < first + PANEL && out < num_out; out++)
                weights[out * by_out + in * by_in + k * by_weight] = some[k][out - first];
    }
}

/* What a call works on. */
typedef struct {
    Shape in, out;
    long together;         /* images that are taken at a time */
    long inputs, outputs;  /* floats of an image */
    long filters;          /* floats of all filters at a point */
    float *before, *after; /* the products: points of inputs and of outputs, of the images that are taken together */
} Work;

static Work begin(long images, long height, long width, long num_in, long num_out, int halve) {
    long together = images_at_a_time(height, width, filled(num_in) + filled(num_out), images);
    Work w = {.in = shape_of(height, width, num_in, together), .out = shape_of(height, width, num_out, together)};
    w.together = together;
    w.inputs = height * width * num_in;
    w.outputs = (halve ? height / 2 * (width / 2) : height * width) * num_out;
    w.filters = filled(num_in) * filled(num_out);
    w.before = room(POINTS * w.in.stride);
    w.after = room(POINTS * w.out.stride);
    return w;
}

static void end(Work w) {
    free(w.before);
    free(w.after);
}

/* outputs [images, height, width, num_out] of inputs [images, height, width, num_in]; halved, unless places is NULL. */
void winograd_forward(const float *inputs, const float *filters, float *outputs, uint8_t *places, long images,
                      long height, long width, long num_in, long num_out) {
    const Work w = begin(images, height, width, num_in, num_out, places != 0);
#pragma omp parallel
    for (long i = 0; i < images; i += w.together) {
        long num = images - i < w.together ? images - i : w.together;
#pragma omp for schedule(dynamic)
        for (long n = 0; n < num; n++) to_points(&w.in, INPUT_MAP, IN, inputs + i * w.inputs, 0, w.before, n);
#pragma omp for schedule(dynamic)
        for (long z = 0; z < POINTS; z++)
            multiply(w.before + z * w.in.stride, filters + z * w.filters, w.after + z * w.out.stride, w.in.slots,
                     num_in, num_out);
#pragma omp for schedule(dynamic)
        for (long n = 0; n < num; n++)
            from_points(&w.out, OUTPUT_MAP, OUT, w.after, outputs + i * w.outputs, places ? places + i * w.outputs : 0,
                        n);
    }
    end(w);
}

/* Gradients of the inputs, unless that is NULL, and of the filters at their points, from those of the outputs, which are
 * halved unless places is NULL; `transposed` are the filters with their channels in and out exchanged. */
void winograd_backward(const float *inputs, const float *gradients, const uint8_t *places, const float *transposed,
                       float *of_inputs, float *of_filters, long images, long height, long width, long num_in,
                       long num_out) {
    const Work w = begin(images, height, width, num_in, num_out, places != 0);
    memset(of_filters, 0, sizeof(float) * POINTS * w.filters);
#pragma omp parallel
    for (long i = 0; i < images; i += w.together) {
        long num = images - i < w.together ? images - i : w.together;
#pragma omp for schedule(dynamic)
        for (long n = 0; n < num; n++) {
            to_points(&w.in, INPUT_MAP, IN, inputs + i * w.inputs, 0, w.before, n);
            to_points(&w.out, OUTPUT_MAP, OUT, gradients + i * w.outputs, places ? places + i * w.outputs : 0, w.after,
                      n);
        }
#pragma omp for schedule(dynamic)
        for (long z = 0; z < POINTS; z++) {
            float *at_in = w.before + z * w.in.stride, *at_out = w.after + z * w.out.stride;
            add_gradients(at_in, at_out, of_filters + z * w.filters, num * w.in.tiles, w.in.slots, num_in, num_out);
            if (of_inputs) multiply(at_out, transposed + z * w.filters, at_in, w.in.slots, num_out, num_in);
        }
        if (of_inputs) {
#pragma omp for schedule(dynamic)
            for (long n = 0; n < num; n++)
                from_points(&w.in, INPUT_MAP, IN, w.before, of_inputs + i * w.inputs, 0, n);
        }
    }
    end(w);
}
