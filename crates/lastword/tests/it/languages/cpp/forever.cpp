#include <chrono>
#include <iostream>
#include <thread>

int main() {
    std::cout << "started\n";
    for (;;) {
        std::this_thread::sleep_for(std::chrono::hours(1));
    }
}
