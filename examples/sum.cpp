#include <iostream>

int main() {
    long n, sum = 0;
    while (std::cin >> n) sum += n;
    std::cout << sum << "\n";
}
