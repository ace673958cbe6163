// A small seeded generator (splitmix64) for fault injection and simulation; the same sequence on
// every platform.
#ifndef QUIRE_TIERS_IO_SEEDED_RANDOM_H_
#define QUIRE_TIERS_IO_SEEDED_RANDOM_H_

#include <cstdint>

namespace quire {

class SeededRandom {
 public:
  explicit SeededRandom(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  // 0 .. limit - 1; limit is not 0.
  uint64_t below(uint64_t limit) { return next() % limit; }
  bool chance(double probability) {
    return static_cast<double>(next() >> 11) * 0x1.0p-53 < probability;
  }

 private:
  uint64_t state_;
};

}  // namespace quire

#endif  // QUIRE_TIERS_IO_SEEDED_RANDOM_H_
