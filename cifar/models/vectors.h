/* Eight numbers at a time: of eight channels, which lie side by side in channels-last memory. */

#include <stdint.h>

typedef float vec __attribute__((vector_size(32), aligned(4)));
typedef int32_t ints __attribute__((vector_size(32)));
typedef uint8_t bytes __attribute__((vector_size(8), aligned(1)));
enum { LANES = 8 };

/* So that arguments which are constants are so to the compiler. */
#define INLINE static inline __attribute__((always_inline))
#define AT(numbers, place) (*(vec *)((numbers) + (place)))

INLINE vec choose(ints where, vec yes, vec no) { return (vec)(((ints)yes & where) | ((ints)no & ~where)); }

/* The largest of 2x2 pixels, the second row of which begins `row` vectors after the first, and its place among the four:
 * the first, if several are as large. */
INLINE vec largest(const vec *pixels, const int row, ints *place) {
    vec most = pixels[0];
    *place = (ints){0};
    for (int k = 1; k < 4; k++) {
        vec other = pixels[k / 2 * row + k % 2];
        ints larger = other > most;
        most = choose(larger, other, most);
        *place = (larger & k) | (~larger & *place);
    }
    return most;
}
