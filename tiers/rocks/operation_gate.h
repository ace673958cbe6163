// Lets close() wait for the calls in flight and refuse later ones. Calls may nest on one thread (a
// scan's visitor reads the store), which a shared_mutex would not allow.
#ifndef QUIRE_TIERS_ROCKS_OPERATION_GATE_H_
#define QUIRE_TIERS_ROCKS_OPERATION_GATE_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace quire::tiers {

class OperationGate {
 public:
  // Leaves at the end of its scope; false where the gate is closed.
  class Pass {
   public:
    explicit Pass(OperationGate& gate) : gate_(gate), entered_(gate.enter()) {}
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;
    ~Pass() {
      if (entered_) gate_.leave();
    }
    explicit operator bool() const { return entered_; }

   private:
    OperationGate& gate_;
    bool entered_;
  };

  // Returns once nobody is inside; false where it was closed before. Not from inside.
  bool close() {
    std::unique_lock lock(mutex_);
    const bool first = !closed_;
    closed_ = true;
    empty_.wait(lock, [this] { return inside_ == 0; });
    return first;
  }

 private:
  bool enter() {
    const std::lock_guard lock(mutex_);
    if (closed_) return false;
    ++inside_;
    return true;
  }
  void leave() {
    const std::lock_guard lock(mutex_);
    if (--inside_ == 0) empty_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable empty_;
  uint64_t inside_ = 0;
  bool closed_ = false;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_ROCKS_OPERATION_GATE_H_
