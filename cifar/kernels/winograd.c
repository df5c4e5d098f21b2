/* 3x3 convolution by Winograd's method, F(OUT x OUT, 3x3): Lavin and Gray 2016, "Fast Algorithms for Convolutional
 * Neural Networks", section 4. winograd.py compiles it for each OUT, with the transform matrices INPUT_MATRIX,
 * FILTER_MATRIX and OUTPUT_MATRIX.
 *
 * Images are cut into tiles of OUTxOUT output pixels, which need INxIN input pixels, IN = OUT + 2. One fixed linear
 * transform takes the pixels of a tile, and another the nine weights of a filter, to INxIN elements each. In this
 * transform domain a convolution is a matrix product [tiles, input channels] [input channels, output channels] for each
 * element, and a third transform takes the elements back to OUTxOUT pixels: for tiles of 4x4 pixels 36 multiplications
 * instead of 144. The gradients are the same transforms and products, transposed.
 *
 * The threads take a chunk of images at a time together, so that the transform domain stays in the cache that they
 * share: each transforms some of the images, then multiplies at some of the elements, then transforms images back.
 *
 * 2x2 max pooling can be fused into the way back: only the maximum of each 2x2 is written, [images, height / 2,
 * width / 2, channels], with its argmax index, a byte (the first of equal ones); its gradient goes to that pixel. Tiles
 * then have an even number of outputs a side, or there is one tile.
 *
 * Images are [images, height, width, channels], channels a multiple of 8. In the transform domain channels lie in
 * panels of 16, the last of which may be part empty:
 *   tiles   [elements][panels of channels][tiles][16]
 *   filters [elements][panels of output channels][input channels, filled up to whole panels][16]
 */

#include <stdlib.h>
#include <string.h>

#include "vectors.h"

enum { IN = OUT + 2, PANEL = 16, ELEMENTS = IN * IN, ROWS = 6 };
enum { CHUNK_BYTES = 8000000 }; /* of a cache of 32 MB: 4 to 16 MB were tried */

/* In one dimension: how much of a pixel, or a weight, is in an element, [element][pixel]. The elements are values at
 * the interpolation points 0, pairs of opposite ones and, if IN is even, infinity. The two of a pair have the same
 * coefficients but for the sign, which differs for every other pixel. */
static const float INPUT[IN * IN] = INPUT_MATRIX, FILTER[IN * 3] = FILTER_MATRIX, OUTPUT[IN * OUT] = OUTPUT_MATRIX;

typedef struct {
    long height, width, channels; /* of an image */
    long across, tiles;           /* tiles in a row, and in an image */
    long slots;                   /* space for the tiles of a chunk of images, a multiple of ROWS */
    long stride;                  /* floats from element to element; no power of two, which would thrash a cache */
} Shape;

static long filled(long channels) { return (channels + PANEL - 1) / PANEL * PANEL; }

static Shape shape_of(long height, long width, long channels, long chunk) {
    Shape s = {.height = height, .width = width, .channels = channels, .across = (width + OUT - 1) / OUT};
    s.tiles = (height + OUT - 1) / OUT * s.across;
    s.slots = (chunk * s.tiles + ROWS - 1) / ROWS * ROWS;
    s.stride = s.slots * filled(channels) + PANEL;
    return s;
}

/* Images of a chunk: their transform domain fills about CHUNK_BYTES, and no thread waits for the last image. */
static long chunk_size(long height, long width, long channels, long images, long threads) {
    long tiles = ((height + OUT - 1) / OUT) * ((width + OUT - 1) / OUT);
    long most = CHUNK_BYTES / (sizeof(float) * ELEMENTS * channels * tiles);
    if (most < 1) most = 1;
    long chunks = (images + most - 1) / most, size = (images + chunks - 1) / chunks;
    return (size + threads - 1) / threads * threads;
}

/* to [width][IN] = (matrix from [side][width])'. Inline, so that products with a matrix's zeros are left out. */
INLINE void transform_and_transpose(const float *matrix, const int side, const vec *from, vec *to, int width) {
    for (int c = 0; c < width; c++, from++, to += IN)
#pragma GCC unroll 10
        for (int j = 0; j <= IN / 2; j++) {
            const int p = j ? 2 * j - 1 : 0;
            vec even = {0}, odd = {0};
#pragma GCC unroll 10
            for (int k = 0; k < side; k += 2)
                if (matrix[p * side + k] != 0) even += matrix[p * side + k] * from[k * width];
#pragma GCC unroll 10
            for (int k = 1; k < side; k += 2)
                if (matrix[p * side + k] != 0) odd += matrix[p * side + k] * from[k * width];
            to[p] = even + odd;
            if (p && p + 1 < IN) to[p + 1] = even - odd;
        }
}

/* to [width][side] = (matrix' from [IN][width])'. */
INLINE void transform_back_and_transpose(const float *matrix, const int side, const vec *from, vec *to, int width) {
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
                if (matrix[p * side + k] != 0) sum += matrix[p * side + k] * (k % 2 ? differences[p] : sums[p]);
            }
            to[k] = sum;
        }
    }
}

/* The vector of channels from `channel` on, of a tile of one of the chunk's images, at the first element. */
static float *at(const Shape *s, const float *tiles, long image, long tile, long channel) {
    return (float *)tiles + (channel / PANEL * s->slots + image * s->tiles + tile) * PANEL + channel % PANEL;
}

/* All tiles of an image, by vectors of channels: those of a panel together, since they share cache lines. */
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

/* The pooled pixel of the 2x2 at (row, column) of the whole image; NULL outside. */
static const float *pooled_pixel(const Shape *s, const float *images, long image, long row, long column) {
    if (row / 2 >= s->height / 2 || column / 2 >= s->width / 2) return 0;
    return images + ((image * (s->height / 2) + row / 2) * (s->width / 2) + column / 2) * s->channels;
}

/* The gradients of a tile's outputs before pooling: each pooled gradient at its argmax, zero elsewhere. */
INLINE void read_pooled(const Shape *s, vec *pixels, const float *images, const uint8_t *argmax, long image, long top,
                        long left, long channel) {
    if (OUT % 2) memset(pixels, 0, sizeof(vec) * OUT * OUT); /* the last row and column were not pooled */
    for (int r = 0; r + 1 < OUT; r += 2)
        for (int c = 0; c + 1 < OUT; c += 2) {
            const float *from = pooled_pixel(s, images, image, top + r, left + c);
            vec gradient = from ? *(const vec *)(from + channel) : (vec){0};
            ints index = {0};
            if (from) index = __builtin_convertvector(*(const bytes *)(argmax + (from - images) + channel), ints);
            for (int k = 0; k < 4; k++) pixels[OUT * (r + k / 2) + c + k % 2] = (vec)((ints)gradient & (index == k));
        }
}

/* All tiles of an image to the transform domain. A tile has as many pixels a side as the matrix takes: IN, with padding
 * of one pixel around the outputs that need them, or OUT; these were pooled where argmax is given. */
INLINE void to_domain(const Shape *s, const float *matrix, int side, const float *images, const uint8_t *argmax,
                      float *tiles, long image) {
    const int padding = side == IN;
    FOR_EACH_TILE(s) {
        vec pixels[IN * IN], half[IN * IN], elements[ELEMENTS];
        long top = tile / s->across * OUT - padding, left = tile % s->across * OUT - padding;
        if (argmax)
            read_pooled(s, pixels, images, argmax, image, top, left, channel);
        else
            for (int r = 0; r < side; r++)
                for (int c = 0; c < side; c++)
                    pixels[side * r + c] = inside(s, top + r, left + c)
                                               ? *(const vec *)(pixel(s, images, image, top + r, left + c) + channel)
                                               : (vec){0};
        transform_and_transpose(matrix, side, pixels, half, side); /* twice, which transposes back */
        transform_and_transpose(matrix, side, half, elements, IN);
        float *to = at(s, tiles, image, tile, channel);
        for (int z = 0; z < ELEMENTS; z++) *(vec *)(to + z * s->stride) = elements[z];
    }
}

/* 2x2 max pooling of a tile's outputs, an even number a side or all that there are. */
INLINE void write_pooled(const Shape *s, const vec *pixels, float *images, uint8_t *argmax, long image, long top,
                         long left, long channel) {
    for (int r = 0; r + 1 < OUT; r += 2)
        for (int c = 0; c + 1 < OUT; c += 2) {
            float *to = (float *)pooled_pixel(s, images, image, top + r, left + c);
            if (!to) continue;
            ints index;
            *(vec *)(to + channel) = max_pool(pixels + OUT * r + c, OUT, &index);
            *(bytes *)(argmax + (to - images) + channel) = __builtin_convertvector(index, bytes);
        }
}

/* And back to pixels: tiles with padding overlap, and are summed; outputs are pooled where there is space for
 * argmax. */
INLINE void from_domain(const Shape *s, const float *matrix, int side, const float *tiles, float *images,
                        uint8_t *argmax, long image) {
    const int padding = side == IN;
    if (padding)
        memset((float *)pixel(s, images, image, 0, 0), 0, sizeof(float) * s->height * s->width * s->channels);
    FOR_EACH_TILE(s) {
        vec elements[ELEMENTS], half[IN * IN], pixels[IN * IN];
        long top = tile / s->across * OUT - padding, left = tile % s->across * OUT - padding;
        const float *from = at(s, tiles, image, tile, channel);
        for (int z = 0; z < ELEMENTS; z++) elements[z] = *(const vec *)(from + z * s->stride);
        transform_back_and_transpose(matrix, side, elements, half, IN);
        transform_back_and_transpose(matrix, side, half, pixels, side);
        if (argmax) {
            write_pooled(s, pixels, images, argmax, image, top, left, channel);
            continue;
        }
        for (int r = 0; r < side; r++)
            for (int c = 0; c < side; c++)
                if (inside(s, top + r, left + c)) {
                    vec *to = (vec *)(pixel(s, images, image, top + r, left + c) + channel);
                    *to = padding ? *to + pixels[side * r + c] : pixels[side * r + c];
                }
    }
}

/* out [tiles, num_out] = in [tiles, num_in] filters [num_in, num_out] at one element. Twelve vectors of sums, with two
 * of filters and one of inputs, fill the sixteen registers of AVX2. */
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
INLINE void add_panel_products(const float *in, const float *out, float *sums, long tiles, const int num) {
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

/* sums [num_in, num_out] += in' [num_in, tiles] out [tiles, num_out] at one element. */
static void add_products(const float *in, const float *out, float *sums, long tiles, long slots, long num_in,
                          long num_out) {
    for (long j = 0; j < num_out; j += PANEL, out += slots * PANEL)
        for (long i = 0; i < num_in; i += PANEL, sums += PANEL * PANEL) {
            const float *from = in + i * slots;
            add_panel_products(from, out, sums, tiles, ROWS);
            add_panel_products(from + ROWS, out, sums + ROWS * PANEL, tiles, ROWS);
            add_panel_products(from + 2 * ROWS, out, sums + 2 * ROWS * PANEL, tiles, PANEL - 2 * ROWS);
        }
}

/* Filters to the transform domain. The weight of output channel `out`, input channel `in` and position k < 9 is at out
 * * out_stride + in * in_stride + k * position_stride. */
int transform_filters(const float *weights, float *filters, long num_in, long num_out, long out_stride, long in_stride,
                      long position_stride, long threads) {
    const long panels = filled(num_out) / PANEL, rows = panels * filled(num_in);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < rows; row++) {
        long first = row / filled(num_in) * PANEL, in = row % filled(num_in);
        float panel[9][PANEL] = {{0}};
        if (in < num_in)
            for (int k = 0; k < 9; k++)
                for (long out = first; out < first + PANEL && out < num_out; out++)
                    panel[k][out - first] = weights[out * out_stride + in * in_stride + k * position_stride];
        for (int lane = 0; lane < PANEL; lane += LANES) {
            vec filter[9], half[3 * IN], elements[ELEMENTS];
            for (int k = 0; k < 9; k++) filter[k] = *(vec *)&panel[k][lane];
            transform_and_transpose(FILTER, 3, filter, half, 3);
            transform_and_transpose(FILTER, 3, half, elements, IN);
            for (int z = 0; z < ELEMENTS; z++) *(vec *)(filters + (z * rows + row) * PANEL + lane) = elements[z];
        }
    }
    return DONE;
}

/* And back: the gradient of the weights from that of the filters in the transform domain. */
int transform_grad_filters(const float *filters, float *weights, long num_in, long num_out, long out_stride,
                           long in_stride, long position_stride, long threads) {
    const long panels = filled(num_out) / PANEL, rows = panels * filled(num_in);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < rows; row++) {
        long first = row / filled(num_in) * PANEL, in = row % filled(num_in);
        if (in >= num_in) continue;
        float panel[9][PANEL];
        for (int lane = 0; lane < PANEL; lane += LANES) {
            vec filter[9], half[3 * IN], elements[ELEMENTS];
            for (int z = 0; z < ELEMENTS; z++) elements[z] = *(const vec *)(filters + (z * rows + row) * PANEL + lane);
            transform_back_and_transpose(FILTER, 3, elements, half, IN);
            transform_back_and_transpose(FILTER, 3, half, filter, 3);
            for (int k = 0; k < 9; k++) *(vec *)&panel[k][lane] = filter[k];
        }
        for (int k = 0; k < 9; k++)
            for (long out = first; out < first + PANEL && out < num_out; out++)
                weights[out * out_stride + in * in_stride + k * position_stride] = panel[k][out - first];
    }
    return DONE;
}

/* What a call works on. */
typedef struct {
    Shape in, out;
    long chunk;                    /* images of a chunk */
    long inputs, outputs;          /* floats of an image */
    long filters;                  /* floats of all filters at an element */
    float *in_tiles, *out_tiles;   /* a chunk's inputs and outputs in the transform domain */
} Work;

/* Not cleared: what is neither a tile nor a channel affects no other element, and is never read in the end. */
static float *allocate_tiles(const Shape *s) { return aligned_alloc(64, sizeof(float) * ELEMENTS * s->stride); }

/* Its tiles are NULL, both, where memory is short. */
static Work begin(long images, long height, long width, long num_in, long num_out, int pool, long threads) {
    long chunk = chunk_size(height, width, filled(num_in) + filled(num_out), images, threads);
    Work w = {.in = shape_of(height, width, num_in, chunk), .out = shape_of(height, width, num_out, chunk)};
    w.chunk = chunk;
    w.inputs = height * width * num_in;
    w.outputs = (pool ? height / 2 * (width / 2) : height * width) * num_out;
    w.filters = filled(num_in) * filled(num_out);
    w.in_tiles = allocate_tiles(&w.in);
    w.out_tiles = allocate_tiles(&w.out);
    if (!w.in_tiles || !w.out_tiles) {
        free(w.in_tiles);
        free(w.out_tiles);
        w.in_tiles = w.out_tiles = 0;
    }
    return w;
}

static void end(Work w) {
    free(w.in_tiles);
    free(w.out_tiles);
}

/* outputs [images, height, width, num_out] of inputs [images, height, width, num_in]; pooled, unless argmax is NULL. */
int winograd_forward(const float *inputs, const float *filters, float *outputs, uint8_t *argmax, long images,
                     long height, long width, long num_in, long num_out, long threads) {
    const Work w = begin(images, height, width, num_in, num_out, argmax != 0, threads);
    if (!w.in_tiles) return NO_MEMORY;
#pragma omp parallel num_threads(threads)
    for (long i = 0; i < images; i += w.chunk) {
        long num = images - i < w.chunk ? images - i : w.chunk;
#pragma omp for schedule(dynamic)
        for (long n = 0; n < num; n++) to_domain(&w.in, INPUT, IN, inputs + i * w.inputs, 0, w.in_tiles, n);
#pragma omp for schedule(dynamic)
        for (long z = 0; z < ELEMENTS; z++)
            multiply(w.in_tiles + z * w.in.stride, filters + z * w.filters, w.out_tiles + z * w.out.stride, w.in.slots,
                     num_in, num_out);
#pragma omp for schedule(dynamic)
        for (long n = 0; n < num; n++)
            from_domain(&w.out, OUTPUT, OUT, w.out_tiles, outputs + i * w.outputs, argmax ? argmax + i * w.outputs : 0,
                        n);
    }
    end(w);
    return DONE;
}

/* grad_input, unless that is NULL, and grad_filters, in the transform domain, from grad_output, which is pooled unless
 * argmax is NULL; `transposed` are the filters with their input and output channels exchanged. */
int winograd_backward(const float *inputs, const float *grad_output, const uint8_t *argmax, const float *transposed,
                      float *grad_input, float *grad_filters, long images, long height, long width, long num_in,
                      long num_out, long threads) {
    const Work w = begin(images, height, width, num_in, num_out, argmax != 0, threads);
    if (!w.in_tiles) return NO_MEMORY;
    memset(grad_filters, 0, sizeof(float) * ELEMENTS * w.filters);
#pragma omp parallel num_threads(threads)
    for (long i = 0; i < images; i += w.chunk) {
        long num = images - i < w.chunk ? images - i : w.chunk;
#pragma omp for schedule(dynamic)
        for (long n = 0; n < num; n++) {
            to_domain(&w.in, INPUT, IN, inputs + i * w.inputs, 0, w.in_tiles, n);
            to_domain(&w.out, OUTPUT, OUT, grad_output + i * w.outputs, argmax ? argmax + i * w.outputs : 0,
                      w.out_tiles, n);
        }
#pragma omp for schedule(dynamic)
        for (long z = 0; z < ELEMENTS; z++) {
            float *in = w.in_tiles + z * w.in.stride, *out = w.out_tiles + z * w.out.stride;
            add_products(in, out, grad_filters + z * w.filters, num * w.in.tiles, w.in.slots, num_in, num_out);
            if (grad_input) multiply(out, transposed + z * w.filters, in, w.in.slots, num_out, num_in);
        }
        if (grad_input) {
#pragma omp for schedule(dynamic)
            for (long n = 0; n < num; n++)
                from_domain(&w.in, INPUT, IN, w.in_tiles, grad_input + i * w.inputs, 0, n);
        }
    }
    end(w);
    return DONE;
}
