// Whether looking for an event for a moment before sleeping is worth it: yes while it finds
// something, ever more rarely while it does not. Where both ends of a socket run on one core, the
// one that spins keeps the other from answering (docs/decisions/005, 007). Not thread safe.
#ifndef QUIRE_BASE_SPIN_GATE_H_
#define QUIRE_BASE_SPIN_GATE_H_

#include <algorithm>
#include <cstdint>

namespace quire {

class SpinGate {
 public:
  // Turns that are let pass after so many vain ones that doubling has come to its end.
  static constexpr uint32_t kSkipsMax = 63;

  // Ask before each wait; where true, report() what came of it.
  bool should_spin() {
    if (skips_left_ == 0) return true;
    --skips_left_;
    return false;
  }
  void report(bool found) {
    skips_ = found ? 0 : std::min(2 * skips_ + 1, kSkipsMax);
    skips_left_ = skips_;
  }

 private:
  uint32_t skips_ = 0;
  uint32_t skips_left_ = 0;
};

}  // namespace quire

#endif  // QUIRE_BASE_SPIN_GATE_H_
