#include <iostream>

int main() {
    std::cout << "hello from stdout\n";
    std::cerr << "hello from stderr\n";
}
