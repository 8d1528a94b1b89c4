#include <stdio.h>
#include <unistd.h>

int main(void) {
    printf("started\n");
    for (;;) {
        pause();
    }
}
