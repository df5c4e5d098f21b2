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
