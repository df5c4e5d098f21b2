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
 * width / 2, channels], with its argmax index, a byte (the first of equal ones); its gradient goes to that pixel.
 *
 * Images are [images, height, width, channels], channels a multiple of 8. In the transform domain channels lie in
 * panels of 16, the last of which may be part empty:
 *   tiles   [elements][panels of channels][tiles][16]
 *   filters [elements][panels of output channels][input channels, filled up to whole panels][16]
 */

#include <stdlib.h>
#include <string.h>

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define LANES 16
#endif
#include "vectors.h"

enum { IN = OUT + 2, ELEMENTS = IN * IN, PANEL = 16, VECTORS = PANEL / LANES };
enum { ROWS = 12 / VECTORS, GRAD_ROWS = LANES == 16 ? 8 : 6 }; /* of sums in registers: multiply, add_rows */
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

/* Tiles along outputs of this length. Of pooled ones, a last one that belongs to no pair is not needed. */
static long tiles_along(long length, int pool) { return ((pool ? length / 2 * 2 : length) + OUT - 1) / OUT; }

static Shape shape_of(long height, long width, long channels, int pool, long chunk) {
    Shape s = {.height = height, .width = width, .channels = channels, .across = tiles_along(width, pool)};
    s.tiles = tiles_along(height, pool) * s.across;
    s.slots = (chunk * s.tiles + ROWS - 1) / ROWS * ROWS;
    s.stride = s.slots * filled(channels) + PANEL;
    return s;
}

/* Images of a chunk: their transform domain fills about CHUNK_BYTES, and no thread waits for the last image. */
static long chunk_size(long tiles, long channels, long images, long threads) {
    long most = CHUNK_BYTES / (sizeof(float) * ELEMENTS * channels * tiles);
    if (most < 1) most = 1;
    long chunks = (images + most - 1) / most, size = (images + chunks - 1) / chunks;
    return (size + threads - 1) / threads * threads;
}

/* Which channels of a vector there are: the last vector of an image's channels may be half full. */
#if LANES == 16
typedef __mmask16 Mask;
INLINE Mask mask_of(long channels) { return channels < LANES ? 0xFF : 0xFFFF; }
INLINE vec load(const float *from, Mask mask) { return (vec)_mm512_maskz_loadu_ps(mask, from); }
INLINE void store(float *to, vec values, Mask mask) { _mm512_mask_storeu_ps(to, mask, (__m512)values); }
INLINE ints load_bytes(const uint8_t *from, Mask mask) {
    return (ints)_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, from));
}
INLINE void store_bytes(uint8_t *to, ints values, Mask mask) {
    _mm512_mask_cvtepi32_storeu_epi8(to, mask, (__m512i)values);
}
#else
typedef int Mask;
INLINE Mask mask_of(long channels) { return channels > 0; }
INLINE vec load(const float *from, Mask mask) { return (void)mask, *(const vec *)from; }
INLINE void store(float *to, vec values, Mask mask) { (void)mask, *(vec *)to = values; }
INLINE ints load_bytes(const uint8_t *from, Mask mask) {
    return (void)mask, __builtin_convertvector(*(const bytes *)from, ints);
}
INLINE void store_bytes(uint8_t *to, ints values, Mask mask) {
    (void)mask, *(bytes *)to = __builtin_convertvector(values, bytes);
}
#endif

/* In one dimension: to [IN] = matrix from [side], vectors that lie so many floats apart. Inline, so that products with
 * a matrix's zeros are left out. */
INLINE void transform(const float *matrix, const int side, const float *from, long from_step, float *to, long to_step) {
    vec pixels[IN];
#pragma GCC unroll 12
    for (int k = 0; k < side; k++) pixels[k] = AT(from, k * from_step);
#pragma GCC unroll 12
    for (int j = 0; j <= IN / 2; j++) {
        const int p = j ? 2 * j - 1 : 0;
        vec even = {0}, odd = {0};
#pragma GCC unroll 12
        for (int k = 0; k < side; k += 2)
            if (matrix[p * side + k] != 0) even += matrix[p * side + k] * pixels[k];
#pragma GCC unroll 12
        for (int k = 1; k < side; k += 2)
            if (matrix[p * side + k] != 0) odd += matrix[p * side + k] * pixels[k];
        AT(to, p * to_step) = even + odd;
        if (p && p + 1 < IN) AT(to, (p + 1) * to_step) = even - odd;
    }
}

/* to [side] = matrix' from [IN]. */
INLINE void transform_back(const float *matrix, const int side, const float *from, long from_step, float *to,
                           long to_step) {
    vec sums[IN], differences[IN];
#pragma GCC unroll 12
    for (int j = 0; j <= IN / 2; j++) {
        const int p = j ? 2 * j - 1 : 0;
        int paired = p && p + 1 < IN;
        vec first = AT(from, p * from_step), second = paired ? AT(from, (p + 1) * from_step) : (vec){0};
        sums[p] = first + second;
        differences[p] = first - second;
    }
#pragma GCC unroll 12
    for (int k = 0; k < side; k++) {
        vec sum = {0};
#pragma GCC unroll 12
        for (int j = 0; j <= IN / 2; j++) {
            const int p = j ? 2 * j - 1 : 0;
            if (matrix[p * side + k] != 0) sum += matrix[p * side + k] * (k % 2 ? differences[p] : sums[p]);
        }
        AT(to, k * to_step) = sum;
    }
}

/* In two dimensions: the elements of a tile, `stride` floats apart, from its pixels [side][side]; and back. */
INLINE void transform_tile(const float *matrix, const int side, const vec *pixels, float *elements, long stride) {
    vec half[IN * IN]; /* [element][pixel] */
    for (int c = 0; c < side; c++)
        transform(matrix, side, (const float *)(pixels + c), side * LANES, (float *)(half + c), side * LANES);
    for (int p = 0; p < IN; p++)
        transform(matrix, side, (const float *)(half + p * side), LANES, elements + p * IN * stride, stride);
}

INLINE void transform_tile_back(const float *matrix, const int side, const float *elements, long stride, vec *pixels) {
    vec half[IN * IN]; /* [pixel][element] */
    for (int q = 0; q < IN; q++)
        transform_back(matrix, side, elements + q * stride, IN * stride, (float *)(half + q), IN * LANES);
    for (int r = 0; r < side; r++)
        transform_back(matrix, side, (const float *)(half + r * IN), LANES, (float *)(pixels + r * side), LANES);
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

/* The gradients of a tile's outputs before pooling: each pooled gradient at its argmax, zero elsewhere. A 2x2 may lie
 * across tiles. */
INLINE void read_pooled(const Shape *s, vec *pixels, const float *images, const uint8_t *argmax, long image, long top,
                        long left, long channel, Mask mask) {
    if (OUT % 2) memset(pixels, 0, sizeof(vec) * OUT * OUT); /* which compilers do not see is overwritten */
    for (long row = top / 2 * 2; row < top + OUT; row += 2)
        for (long column = left / 2 * 2; column < left + OUT; column += 2) {
            const float *from = pooled_pixel(s, images, image, row, column);
            vec gradient = from ? load(from + channel, mask) : (vec){0};
            ints index = from ? load_bytes(argmax + (from - images) + channel, mask) : (ints){0};
            for (int k = 0; k < 4; k++) {
                long r = row + k / 2 - top, c = column + k % 2 - left;
                if (r >= 0 && r < OUT && c >= 0 && c < OUT)
                    pixels[OUT * r + c] = (vec)((ints)gradient & (index == k));
            }
        }
}

/* All tiles of an image to the transform domain. A tile has as many pixels a side as the matrix takes: IN, with padding
 * of one pixel around the outputs that need them, or OUT; these were pooled where argmax is given. */
INLINE void to_domain(const Shape *s, const float *matrix, const int side, const float *images, const uint8_t *argmax,
                      float *tiles, long image) {
    const int padding = side == IN;
    FOR_EACH_TILE(s) {
        vec pixels[IN * IN];
        Mask mask = mask_of(s->channels - channel);
        long top = tile / s->across * OUT - padding, left = tile % s->across * OUT - padding;
        if (argmax)
            read_pooled(s, pixels, images, argmax, image, top, left, channel, mask);
        else
            for (int r = 0; r < side; r++)
                for (int c = 0; c < side; c++)
                    pixels[side * r + c] = inside(s, top + r, left + c)
                                               ? load(pixel(s, images, image, top + r, left + c) + channel, mask)
                                               : (vec){0};
        transform_tile(matrix, side, pixels, at(s, tiles, image, tile, channel), s->stride);
    }
}

/* 2x2 max pooling of a panel's outputs [PANEL / LANES][rows][columns], of which rows and columns are those of tiles. */
INLINE void write_pooled(const Shape *s, const vec *outputs, float *images, uint8_t *argmax, long image, long panel) {
    const long columns = s->across * OUT, all = s->tiles * OUT * OUT;
    for (long row = 0; row + 1 < s->height; row += 2)
        for (long column = 0; column + 1 < s->width; column += 2) {
            float *to = (float *)pooled_pixel(s, images, image, row, column);
            for (long channel = panel, v = 0; v < VECTORS && channel < s->channels; channel += LANES, v++) {
                Mask mask = mask_of(s->channels - channel);
                ints index;
                store(to + channel, max_pool(outputs + v * all + row * columns + column, columns, &index), mask);
                store_bytes(argmax + (to - images) + channel, index, mask);
            }
        }
}

/* And back to pixels: tiles with padding overlap, and are summed; outputs are pooled where there is space for argmax,
 * and for those of a panel before. */
INLINE void from_domain(const Shape *s, const float *matrix, const int side, const float *tiles, float *images,
                        uint8_t *argmax, vec *outputs, long image) {
    const int padding = side == IN;
    if (padding)
        memset((float *)pixel(s, images, image, 0, 0), 0, sizeof(float) * s->height * s->width * s->channels);
    for (long panel = 0; panel < s->channels; panel += PANEL) {
        for (long tile = 0; tile < s->tiles; tile++)
            for (long channel = panel; channel < panel + PANEL && channel < s->channels; channel += LANES) {
                vec pixels[IN * IN];
                Mask mask = mask_of(s->channels - channel);
                long top = tile / s->across * OUT - padding, left = tile % s->across * OUT - padding;
                transform_tile_back(matrix, side, at(s, tiles, image, tile, channel), s->stride, pixels);
                if (argmax) {
                    vec *to = outputs + (channel - panel) / LANES * s->tiles * OUT * OUT + top * s->across * OUT + left;
                    for (int r = 0; r < OUT; r++)
                        for (int c = 0; c < OUT; c++) to[r * s->across * OUT + c] = pixels[OUT * r + c];
                    continue;
                }
                for (int r = 0; r < side; r++)
                    for (int c = 0; c < side; c++)
                        if (inside(s, top + r, left + c)) {
                            float *to = (float *)pixel(s, images, image, top + r, left + c) + channel;
                            store(to, padding ? load(to, mask) + pixels[side * r + c] : pixels[side * r + c], mask);
                        }
            }
        if (argmax) write_pooled(s, outputs, images, argmax, image, panel);
    }
}

/* out [tiles, num_out] = in [tiles, num_in] filters [num_in, num_out] at one element. Twelve vectors of sums, with
 * those of the filters and one of inputs, fit the sixteen registers of AVX2. */
static void multiply(const float *in, const float *filters, float *out, long slots, long num_in, long num_out) {
    for (long j = 0; j < num_out; j += PANEL, filters += filled(num_in) * PANEL)
        for (long i = 0; i < slots; i += ROWS) {
            vec sums[ROWS][VECTORS] = {{{0}}};
            const float *weights = filters;
            for (long k = 0; k < num_in; k += PANEL) {
                const float *from = in + k * slots + i * PANEL;
                for (long z = 0; z < PANEL && z < num_in - k; z++, weights += PANEL)
#pragma GCC unroll 12
                    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
                        for (int v = 0; v < VECTORS; v++) sums[r][v] += from[r * PANEL + z] * AT(weights, v * LANES);
            }
            float *to = out + j * slots + i * PANEL;
#pragma GCC unroll 12
            for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
                for (int v = 0; v < VECTORS; v++) AT(to, r * PANEL + v * LANES) = sums[r][v];
        }
}

/* total [rows, 16] += in' [rows, tiles] out [tiles, 16], rows of a panel's channels. */
INLINE void add_rows(const float *in, const float *out, float *total, long tiles, const int rows) {
    vec sums[GRAD_ROWS][VECTORS] = {{{0}}};
    for (long z = 0; z < tiles; z++, in += PANEL, out += PANEL)
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) sums[r][v] += in[r] * AT(out, v * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) AT(total, r * PANEL + v * LANES) += sums[r][v];
}

/* total [num_in, num_out] += in' [num_in, tiles] out [tiles, num_out] at one element. */
static void add_products(const float *in, const float *out, float *total, long tiles, long slots, long num_in,
                         long num_out) {
    for (long j = 0; j < num_out; j += PANEL, out += slots * PANEL)
        for (long i = 0; i < num_in; i += PANEL, total += PANEL * PANEL) {
            const int last = PANEL / GRAD_ROWS * GRAD_ROWS;
            for (int k = 0; k < last; k += GRAD_ROWS)
                add_rows(in + i * slots + k, out, total + k * PANEL, tiles, GRAD_ROWS);
            if (last < PANEL) add_rows(in + i * slots + last, out, total + last * PANEL, tiles, PANEL - last);
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
            vec filter[9];
            for (int k = 0; k < 9; k++) filter[k] = AT(panel[k], lane);
            transform_tile(FILTER, 3, filter, filters + row * PANEL + lane, rows * PANEL);
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
            vec filter[9];
            transform_tile_back(FILTER, 3, filters + row * PANEL + lane, rows * PANEL, filter);
            for (int k = 0; k < 9; k++) AT(panel[k], lane) = filter[k];
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
    float *unpooled;               /* of each thread: a panel of an image's outputs before pooling */
    long panel;                    /* floats of that */
} Work;

/* Its tiles are NULL where memory is short. They are not cleared: what is neither a tile nor a channel affects no other
 * element, and is never read in the end. */
static Work begin(long images, long height, long width, long num_in, long num_out, int pool, long threads) {
    const long tiles = tiles_along(height, pool) * tiles_along(width, pool);
    const long chunk = chunk_size(tiles, filled(num_in) + filled(num_out), images, threads);
    Work w = {
        .in = shape_of(height, width, num_in, pool, chunk),
        .out = shape_of(height, width, num_out, pool, chunk),
    };
    w.chunk = chunk;
    w.inputs = height * width * num_in;
    w.outputs = (pool ? height / 2 * (width / 2) : height * width) * num_out;
    w.filters = filled(num_in) * filled(num_out);
    const long in_size = ELEMENTS * w.in.stride, out_size = ELEMENTS * w.out.stride;
    w.panel = pool ? tiles * OUT * OUT * PANEL : 0;
    w.in_tiles = aligned_alloc(64, sizeof(float) * (in_size + out_size + threads * w.panel));
    if (!w.in_tiles) return w;
    w.out_tiles = w.in_tiles + in_size;
    w.unpooled = w.out_tiles + out_size;
    return w;
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
                        (vec *)(w.unpooled + omp_get_thread_num() * w.panel), n);
    }
    free(w.in_tiles);
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
                from_domain(&w.in, INPUT, IN, w.in_tiles, grad_input + i * w.inputs, 0, 0, n);
        }
    }
    free(w.in_tiles);
    return DONE;
}
