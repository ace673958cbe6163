// Shared memory of a block: poisoned at its start, every allocation between red zones.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "kernels/executor/block_state.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

namespace quire_executor {
namespace {

constexpr size_t kArenaBytes = 512u << 10;
constexpr size_t kRedZoneBytes = 1024;  // keeps the alignment of swizzled tiles
constexpr unsigned char kPoison = 0xff;
constexpr unsigned char kRedZone = 0xfd;

size_t align_up(size_t bytes) {
  return (bytes + kRedZoneBytes - 1) / kRedZoneBytes * kRedZoneBytes;
}

}  // namespace

Block::~Block() {
  ASAN_UNPOISON_MEMORY_REGION(arena_, kArenaBytes);
  free(arena_);
}

void Block::reset_shared() {
  thread_local Races pool;  // keeps its memory between launches
  races = finds_races() && current_schedule.find_races ? &pool : nullptr;
  if (races != nullptr) races->start(static_cast<uint32_t>(warps.size()), kArenaBytes);
  ASAN_UNPOISON_MEMORY_REGION(arena_, kArenaBytes);
  memset(arena_, kRedZone, kArenaBytes);
  ASAN_POISON_MEMORY_REGION(arena_, kArenaBytes);
  arena_used_ = kRedZoneBytes;
  static_allocations.clear();
  allocations_.clear();
  dynamic = {allocate(dynamic_bytes_, QUIRE_HERE), dynamic_bytes_};
}

unsigned char* Block::allocate(size_t bytes, const Site& site) {
  const size_t end = arena_used_ + align_up(bytes) + kRedZoneBytes;
  if (end > kArenaBytes) fail(site, "shared memory: %zu bytes more than there are", bytes);
  unsigned char* data = arena_ + arena_used_;
  ASAN_UNPOISON_MEMORY_REGION(data, bytes);
  memset(data, kPoison, bytes);
  allocations_.push_back({data, bytes});
  if (races != nullptr) races->forget(arena_used_, bytes);
  arena_used_ = end;
  return data;
}

void Block::check_red_zones() {
  ASAN_UNPOISON_MEMORY_REGION(arena_, kArenaBytes);
  const unsigned char* at = arena_;
  auto check = [&](const unsigned char* end) {
    for (; at < end; ++at)
      if (*at != kRedZone) {
        const Allocation* before = nullptr;
        for (const Allocation& one : allocations_)
          if (one.data <= at) before = &one;
        fail(QUIRE_HERE,
             "a write outside shared memory, %td bytes after the start of a %zu byte one",
             before == nullptr ? at - arena_ : at - before->data,
             before == nullptr ? size_t{0} : before->bytes);
      }
  };
  for (const Allocation& one : allocations_) {
    check(one.data);
    at = one.data + one.bytes;
  }
  check(arena_ + arena_used_);
}

const Allocation* Block::allocation_of(const void* address, size_t bytes) const {
  const auto* at = static_cast<const unsigned char*>(address);
  for (const Allocation& one : allocations_)
    if (at >= one.data && at + bytes <= one.data + one.bytes) return &one;
  return nullptr;
}

bool Block::is_shared(const void* at) const {
  const auto* byte = static_cast<const unsigned char*>(at);
  return byte >= arena_ && byte < arena_ + kArenaBytes;
}

void Block::check_access(const void* at, size_t bytes, bool write, const void* code) {
  if (races == nullptr || allocation_of(at, bytes) == nullptr) return;
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(at) - arena_);
  const Races::Race race =
      write ? races->write(offset, bytes, running, code) : races->read(offset, bytes, running);
  if (race.found) report_race(race, write, code);
}

// By a bulk copy that this thread issues.
uint32_t Block::check_copy(const void* at, size_t bytes, bool write) {
  if (races == nullptr) return 0;
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(at) - arena_);
  const Races::Race race = write ? races->write_later(offset, bytes, running, nullptr)
                                 : races->read_later(offset, bytes, running);
  if (race.found) report_race(race, write, nullptr);
  return races->copies();
}

void Block::report_race(const Races::Race& race, bool write, const void* code) {
  const unsigned char* at = arena_ + race.offset;
  const Allocation* array = allocation_of(at, 1);
  const auto place_of = [](const void* address) {
    Dl_info info = {};
    if (address == nullptr || dladdr(address, &info) == 0) return ptrdiff_t{0};
    return static_cast<const char*>(address) - static_cast<const char*>(info.dli_fbase);
  };
  if (race.unfenced)
    fail(current().site,
         "a bulk copy reads byte %td of an array of %zu, which warp %u wrote (addr2line -e program "
         "0x%tx) without a fence_async_shared() after it",
         at - array->data, array->bytes, race.other_warp, place_of(race.other_code));
  char other[64];
  if (race.other_warp == races->warps())
    snprintf(other, sizeof(other), "an asynchronous copy");
  else
    snprintf(other, sizeof(other), "warp %u", race.other_warp);
  fail(
      current().site,
      "race on shared memory, byte %td of an array of %zu: this thread %s it (addr2line -e program "
      "0x%tx) after it met others here, %s %s it (0x%tx), and nothing orders the two",
      at - array->data, array->bytes, write ? "writes" : "reads", place_of(code), other,
      race.other_wrote ? "wrote" : "read", place_of(race.other_code));
}

unsigned char* static_shared(const void* tag, size_t bytes, const Site& site) {
  Block& block = block_here();
  auto found = block.static_allocations.find(tag);
  if (found != block.static_allocations.end()) return found->second.data;
  size_t total = bytes;
  for (const auto& [other, one] : block.static_allocations) total += one.bytes;
  if (total > kStaticSharedBytesMax)
    fail(site, "%zu bytes of static shared memory: at most %zu", total, kStaticSharedBytesMax);
  if (total + block.dynamic.bytes > device().shared_bytes_max)
    fail(site, "%zu bytes of static and %zu of dynamic shared memory: at most %zu", total,
         block.dynamic.bytes, device().shared_bytes_max);
  unsigned char* data = block.allocate(bytes, site);
  block.static_allocations.emplace(tag, Allocation{data, bytes});
  return data;
}

unsigned char* dynamic_shared(size_t* bytes) {
  Block& block = block_here();
  *bytes = block.dynamic.bytes;
  return block.dynamic.data;
}

void check_aligned(const void* address, size_t alignment, const char* what, const Site& site) {
  if (reinterpret_cast<uintptr_t>(address) % alignment != 0)
    fail(site, "%s: address %p is not a multiple of %zu", what, address, alignment);
}

void report_read(const void* address, size_t bytes) {
  block_here().check_access(address, bytes, false, nullptr);
}

void check_shared(const void* address, size_t bytes, size_t alignment, const char* what,
                  const Site& site) {
  check_aligned(address, alignment, what, site);
  if (block_here().allocation_of(address, bytes) == nullptr)
    fail(site, "%s: %zu bytes at %p are not shared memory of this block", what, bytes, address);
}

}  // namespace quire_executor
