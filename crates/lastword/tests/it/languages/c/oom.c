#include <stdlib.h>
#include <string.h>

int main(void) {
    for (;;) {
        char *block = malloc(16 << 20);
        if (block == NULL) {
            return 3;
        }
        memset(block, 1, 16 << 20);
        /* So that no compiler finds the block unused. */
        __asm__ volatile("" : : "r"(block) : "memory");
    }
}
