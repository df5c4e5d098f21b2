/* Runs winograd.c, which the build includes before this file, on buffers of exactly the size that it is told: compiled
 * with AddressSanitizer, every read or write outside them ends the program. */

#include <stdio.h>

static float *numbers(long count) {
    float *values = malloc(sizeof(float) * count);
    for (long i = 0; i < count; i++) values[i] = (float)(i % 7) - 3;
    return values;
}

static int run(long images, long height, long width, long num_in, long num_out, int pool, long threads) {
    long inputs = images * height * width * num_in, weights = 9 * num_in * num_out;
    long outputs = images * (pool ? height / 2 * (width / 2) : height * width) * num_out;
    long domain = ELEMENTS * filled(num_in) * filled(num_out);
    float *in = numbers(inputs), *weight = numbers(weights), *out = numbers(outputs), *grad = numbers(inputs);
    float *filters = numbers(domain), *transposed = numbers(domain), *grad_filters = numbers(domain);
    uint8_t *argmax = pool ? malloc(outputs) : 0;
    int failed = transform_filters(weight, filters, num_in, num_out, 9 * num_in, 9, 1, threads) ||
                 transform_filters(weight, transposed, num_out, num_in, 9, 9 * num_in, 1, threads) ||
                 winograd_forward(in, filters, out, argmax, images, height, width, num_in, num_out, threads) ||
                 winograd_backward(in, out, argmax, transposed, grad, grad_filters, images, height, width, num_in,
                                   num_out, threads) ||
                 transform_grad_filters(grad_filters, weight, num_in, num_out, 9 * num_in, 9, 1, threads);
    float *all[] = {in, weight, out, grad, filters, transposed, grad_filters};
    for (int i = 0; i < 7; i++) free(all[i]);
    free(argmax);
    return failed;
}

int main(void) {
    static const long shapes[][5] = {/* images, height, width, input and output channels */
                                     {1, 2, 2, 8, 8},    {3, 31, 31, 24, 40}, {5, 15, 14, 16, 24}, {9, 7, 7, 8, 16},
                                     {100, 3, 3, 16, 8}, {2, 9, 6, 40, 8},    {4, 5, 11, 8, 56}};
    for (unsigned long i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        for (int pool = 0; pool < 2; pool++)
            for (long threads = 1; threads < 3; threads++) {
                const long *s = shapes[i];
                if (run(s[0], s[1], s[2], s[3], s[4], pool, threads)) return 1;
            }
    puts("done");
    return 0;
}
