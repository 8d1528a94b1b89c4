#include <memory>
#include <vector>

int main() {
    std::vector<std::unique_ptr<std::vector<char>>> blocks;
    for (;;) {
        blocks.push_back(std::make_unique<std::vector<char>>(16 << 20, 1));
    }
}
