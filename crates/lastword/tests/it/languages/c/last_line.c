#include <signal.h>
#include <stdio.h>

int main(void) {
    printf("last line\n");
    raise(SIGKILL);
}
