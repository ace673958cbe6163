#include "server/reactor/short_slice.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace quire::server {
namespace {

// The shortest that the scheduler grants.
constexpr uint64_t kSliceNs = 100'000;

// struct sched_attr of the kernel, first version; glibc has none.
struct SchedulingAttributes {
  uint32_t size = sizeof(SchedulingAttributes);
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime_ns = 0;
  uint64_t deadline_ns = 0;
  uint64_t period_ns = 0;
};
static_assert(sizeof(SchedulingAttributes) == 48);

}  // namespace

bool ask_for_short_slices() {
  constexpr uint32_t kNormalPolicy = 0;  // SCHED_OTHER
  SchedulingAttributes attributes;
  if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) != 0) return false;
  // Whoever gave the server a policy of its own knows better.
  if (attributes.policy != kNormalPolicy) return false;
  attributes.runtime_ns = kSliceNs;
  return ::syscall(SYS_sched_setattr, 0, &attributes, 0) == 0;
}

}  // namespace quire::server
