/* 3x3 convolutions of images by Winograd's method F(4x4, 3x3), or F(3x3, 3x3): Lavin and Gray 2016, "Fast Algorithms
 * for Convolutional Neural Networks", section 4. Compile with -DOUT=4 or -DOUT=3.
 *
 * Images are cut into tiles of OUTxOUT output pixels, which need INxIN input pixels, IN = OUT + 2. A fixed linear map
 * takes the pixels of a tile, and another the nine weights of a filter, to INxIN points each. There a convolution is a
 * product of matrices [tiles, channels in] and [channels in, channels out] a point, and a third map takes the points
 * back to OUTxOUT pixels: for tiles of 4x4 pixels 36 multiplications where the plain way has 144. The gradients are the
 * same maps and products, transposed.
 *
 * Every thread takes a few images at a time all the way, so that what lies between stays in its cache.
 *
 * Images are [images, height, width, channels], channels a multiple of 8. Between the maps channels come in panels of
 * 16, the last one filled up with zeros:
 *   tiles   [points][panels of channels][tiles][16]
 *   filters [points][panels of the channels that come out][channels that go in, filled up][16]
 */

#include <omp.h>
#include <stdlib.h>
#include <string.h>

typedef float vec __attribute__((vector_size(32), aligned(4))); /* 8 channels */
enum { IN = OUT + 2, LANES = 8, PANEL = 16, POINTS = IN * IN, TILES = 48, ROWS = 6 };

/* The maps in one dimension, of the interpolation points 0, 1, -1, 2 and, for OUT = 4, -2; and infinity. That of the
 * filters is in winograd.py. */
#if OUT == 4
static const float OF_INPUT[IN][IN] = {
    {4, 0, -5, 0, 1, 0}, {0, -4, -4, 1, 1, 0}, {0, 4, -4, -1, 1, 0},
    {0, -2, -1, 2, 1, 0}, {0, 2, -1, -2, 1, 0}, {0, 4, 0, -5, 0, 1},
};
static const float OF_OUTPUT[OUT][IN] = {
    {1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 1},
};
#elif OUT == 3
static const float OF_INPUT[IN][IN] = {
    {2, -1, -2, 1, 0}, {0, -2, -1, 1, 0}, {0, 2, -3, 1, 0}, {0, -1, 0, 1, 0}, {0, 2, -1, -2, 1},
};
static const float OF_OUTPUT[OUT][IN] = {
    {1, 1, 1, 1, 0}, {0, 1, -1, 2, 0}, {0, 1, 1, 4, 1},
};
#endif

typedef struct {
    long height, width, channels; /* of an image */
    long across, tiles;           /* tiles in a row, and in an image */
    long images;                  /* that a thread takes at a time */
    long slots;                   /* room for their tiles, a multiple of ROWS */
    long stride;                  /* floats from point to point; not a power of two, which a cache bears badly */
} Shape;

static long filled(long channels) { return (channels + PANEL - 1) / PANEL * PANEL; }

static Shape shape_of(long height, long width, long channels) {
    Shape s = {.height = height, .width = width, .channels = channels, .across = (width + OUT - 1) / OUT};
    s.tiles = (height + OUT - 1) / OUT * s.across;
    s.images = (TILES + s.tiles - 1) / s.tiles;
    s.slots = (s.images * s.tiles + ROWS - 1) / ROWS * ROWS;
    s.stride = s.slots * filled(channels) + PANEL;
    return s;
}

/* A matrix whose element is at row * down + column * right, so that exchanging those and its lengths transposes it. */
typedef struct {
    const float *elements;
    int down, right, rows, columns;
} Matrix;

#define INPUT_MAP ((Matrix){&OF_INPUT[0][0], IN, 1, IN, IN})
#define INPUT_MAP_TRANSPOSED ((Matrix){&OF_INPUT[0][0], 1, IN, IN, IN})
#define OUTPUT_MAP ((Matrix){&OF_OUTPUT[0][0], IN, 1, OUT, IN})
#define OUTPUT_MAP_TRANSPOSED ((Matrix){&OF_OUTPUT[0][0], 1, IN, IN, OUT})

/* So that a Matrix is constants to the compiler, and what is multiplied by its zeros is left out. */
#define INLINE static inline __attribute__((always_inline))

/* to [width][rows] = (matrix from [columns][width])'. */
INLINE void map_and_turn(Matrix m, const vec *from, vec *to, int width) {
#pragma GCC unroll 6
    for (int row = 0; row < m.rows; row++)
#pragma GCC unroll 6
        for (int c = 0; c < width; c++) {
            vec sum = {0};
#pragma GCC unroll 6
            for (int k = 0; k < m.columns; k++) {
                float factor = m.elements[row * m.down + k * m.right];
                if (factor != 0) sum += factor * from[k * width + c];
            }
            to[c * m.rows + row] = sum;
        }
}

/* to [rows][rows] = matrix from [columns][columns] matrix': twice turned is as it was. */
INLINE void map(Matrix m, const vec *from, vec *to) {
    vec half[IN * IN];
    map_and_turn(m, from, half, m.columns);
    map_and_turn(m, half, to, m.rows);
}

/* A tile of some images: the vector of channels from `channel` on, at the first point. */
static float *at(const Shape *s, const float *tiles, long image, long tile, long channel) {
    return (float *)tiles + (channel / PANEL * s->slots + image * s->tiles + tile) * PANEL + channel % PANEL;
}

/* All tiles of `images` images, one vector of channels of one after the other: those of a panel together, since their
 * points lie in as many lines of the cache. */
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

/* The points of all tiles of some images. A tile has as many pixels a side as the map takes: IN, with the border of a
 * pixel around the outputs that need them, or OUT. */
INLINE void to_points(const Shape *s, Matrix m, const float *images, float *tiles, long num) {
    const int side = m.columns, border = side == IN;
    FOR_EACH_TILE(s, num) {
        vec pixels[IN * IN], points[POINTS];
        long top = tile / s->across * OUT - border, left = tile % s->across * OUT - border;
        for (int r = 0; r < side; r++)
            for (int c = 0; c < side; c++)
                pixels[side * r + c] = inside(s, top + r, left + c)
                                           ? *(const vec *)(pixel(s, images, image, top + r, left + c) + channel)
                                           : (vec){0};
        map(m, pixels, points);
        float *to = at(s, tiles, image, tile, channel);
        for (int z = 0; z < POINTS; z++) *(vec *)(to + z * s->stride) = points[z];
    }
}

/* And back: tiles with a border overlap, and are added up. */
INLINE void from_points(const Shape *s, Matrix m, const float *tiles, float *images, long num) {
    const int side = m.rows, border = side == IN;
    if (border) memset(images, 0, sizeof(float) * num * s->height * s->width * s->channels);
    FOR_EACH_TILE(s, num) {
        vec points[POINTS], pixels[IN * IN];
        long top = tile / s->across * OUT - border, left = tile % s->across * OUT - border;
        const float *from = at(s, tiles, image, tile, channel);
        for (int z = 0; z < POINTS; z++) points[z] = *(const vec *)(from + z * s->stride);
        map(m, points, pixels);
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
INLINE void add_products(const float *in, const float *out, float *sums, long slots, const int num) {
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
            to_points(&in, INPUT_MAP, inputs + i * pixels * num_in, before, num);
            for (long z = 0; z < POINTS; z++)
                multiply(before + z * in.stride, filters + z * size, after + z * out.stride, in.slots, filled(num_in),
                         filled(num_out));
            from_points(&out, OUTPUT_MAP, after, outputs + i * pixels * num_out, num);
        }
        free(before);
        free(after);
    }
}

/* Gradients of the inputs, unless that is NULL, and of the filters at their points, from those of the outputs;
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
            to_points(&in, INPUT_MAP, inputs + i * pixels * num_in, before, num);
            to_points(&out, OUTPUT_MAP_TRANSPOSED, gradients + i * pixels * num_out, after, num);
            for (long z = 0; z < POINTS; z++) {
                float *at_in = before + z * in.stride, *at_out = after + z * out.stride;
                add_gradients(at_in, at_out, own + z * size, in.slots, filled(num_in), filled(num_out));
                if (of_inputs)
                    multiply(at_out, transposed + z * size, at_in, in.slots, filled(num_out), filled(num_in));
            }
            if (of_inputs) from_points(&in, INPUT_MAP_TRANSPOSED, before, of_inputs + i * pixels * num_in, num);
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
