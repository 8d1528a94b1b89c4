#include <csignal>
#include <iostream>

int main() {
    std::cout << "last line\n";
    std::raise(SIGKILL);
}
