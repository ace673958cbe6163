// For containers whose memory is reported: adds what they hold to a counter.
#ifndef QUIRE_TIERS_INDEX_COUNTING_ALLOCATOR_H_
#define QUIRE_TIERS_INDEX_COUNTING_ALLOCATOR_H_

#include <cstddef>
#include <cstdint>
#include <memory>

namespace quire::tiers {

template <typename T>
class CountingAllocator {
 public:
  using value_type = T;

  // bytes outlives the container.
  explicit CountingAllocator(uint64_t* bytes) : bytes_(bytes) {}
  template <typename U>
  CountingAllocator(const CountingAllocator<U>& other) : bytes_(other.counter()) {}

  T* allocate(size_t count) {
    *bytes_ += count * sizeof(T);
    return std::allocator<T>{}.allocate(count);
  }
  void deallocate(T* memory, size_t count) {
    *bytes_ -= count * sizeof(T);
    std::allocator<T>{}.deallocate(memory, count);
  }
  uint64_t* counter() const { return bytes_; }
  template <typename U>
  bool operator==(const CountingAllocator<U>& other) const {
    return bytes_ == other.counter();
  }

 private:
  uint64_t* bytes_;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_INDEX_COUNTING_ALLOCATOR_H_
