// What -fsanitize=thread makes kernels call at every access: here, not in libtsan, which is not
// linked. Only accesses to the running block's shared memory are looked at.
#include <stddef.h>

#include "kernels/executor/block_state.h"

namespace quire_executor {

bool finds_races() {
  return true;
}

namespace {

inline void access(void* at, size_t bytes, bool write, const void* code) {
  Block* block = running_block;
  if (block != nullptr && block->is_shared(at)) block->check_access(at, bytes, write, code);
}

}  // namespace
}  // namespace quire_executor

#define QUIRE_CODE __builtin_return_address(0)
#define QUIRE_HOOKS(size, bytes)                          \
  void __tsan_read##size(void* at) {                      \
    quire_executor::access(at, bytes, false, QUIRE_CODE); \
  }                                                       \
  void __tsan_write##size(void* at) {                     \
    quire_executor::access(at, bytes, true, QUIRE_CODE);  \
  }                                                       \
  void __tsan_unaligned_read##size(void* at) {            \
    quire_executor::access(at, bytes, false, QUIRE_CODE); \
  }                                                       \
  void __tsan_unaligned_write##size(void* at) {           \
    quire_executor::access(at, bytes, true, QUIRE_CODE);  \
  }                                                       \
  void __tsan_volatile_read##size(void* at) {             \
    quire_executor::access(at, bytes, false, QUIRE_CODE); \
  }                                                       \
  void __tsan_volatile_write##size(void* at) {            \
    quire_executor::access(at, bytes, true, QUIRE_CODE);  \
  }

extern "C" {
QUIRE_HOOKS(1, 1)
QUIRE_HOOKS(2, 2)
QUIRE_HOOKS(4, 4)
QUIRE_HOOKS(8, 8)
QUIRE_HOOKS(16, 16)
void __tsan_read_range(void* at, size_t bytes) {
  quire_executor::access(at, bytes, false, QUIRE_CODE);
}
void __tsan_write_range(void* at, size_t bytes) {
  quire_executor::access(at, bytes, true, QUIRE_CODE);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
}
