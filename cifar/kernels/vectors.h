/* Vectors of fp32 numbers, those of LANES channels, which lie side by side in channels-last memory: eight, or as many
 * as the source says; and what all sources share: 2x2 max pooling, threads, return codes. */

#include <stdint.h>

#ifdef _OPENMP
#include <omp.h>
#else /* the pragmas are ignored: one thread */
static inline int omp_get_thread_num(void) { return 0; }
#endif

#ifndef LANES
#define LANES 8
#endif
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1)));

/* What every function returns; build.py raises MemoryError for the second. */
enum { DONE = 0, NO_MEMORY = 1 };

/* So that arguments which are constants are known to the compiler. */
#define INLINE static inline __attribute__((always_inline))
#define AT(numbers, offset) (*(vec *)((numbers) + (offset)))

/* Lets build.py tell a compiler that ignored the pragmas. */
int uses_openmp(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

INLINE vec choose(ints where, vec yes, vec no) { return (vec)(((ints)yes & where) | ((ints)no & ~where)); }

/* The maximum of 2x2 pixels, whose second row begins `row` vectors after the first, and its index among the four; the
 * first index of equal ones, as PyTorch has it. */
INLINE vec max_pool(const vec *pixels, const int row, ints *argmax) {
    vec maximum = pixels[0];
    *argmax = (ints){0};
    for (int k = 1; k < 4; k++) {
        vec other = pixels[k / 2 * row + k % 2];
        ints larger = other > maximum;
        maximum = choose(larger, other, maximum);
        *argmax = (larger & k) | (~larger & *argmax);
    }
    return maximum;
}
