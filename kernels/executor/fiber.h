// One stack that is run in slices on the caller's OS thread. No signals, no locks.
#ifndef QUIRE_KERNELS_EXECUTOR_FIBER_H_
#define QUIRE_KERNELS_EXECUTOR_FIBER_H_

#include <stddef.h>

namespace quire_executor {

// The stack is mapped once with a guard page below it and reused by start(). A fiber that was
// started and has not finished is abandoned by its destructor: its locals are not destroyed.
class Fiber {
 public:
  using Entry = void (*)(void* argument);

  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() calls entry(argument) on this fiber's stack.
  void start(Entry entry, void* argument);
  // From the scheduler: runs the fiber until it calls suspend() or its entry returns.
  void resume();
  // From the fiber: back to the scheduler.
  void suspend();
  bool finished() const { return finished_; }

 private:
  friend void fiber_main(Fiber* self);
  void before_switch(void** fake_stack, const void* bottom, size_t bytes);
  void after_switch(void* fake_stack, bool into_fiber);

  struct Context;
  Context* context_;
  unsigned char* mapping_ = nullptr;
  unsigned char* stack_ = nullptr;
  Entry entry_ = nullptr;
  void* argument_ = nullptr;
  bool finished_ = true;
  void* fiber_fake_stack_ = nullptr;
  void* scheduler_fake_stack_ = nullptr;
  const void* scheduler_bottom_ = nullptr;
  size_t scheduler_bytes_ = 0;
};

}  // namespace quire_executor

#endif  // QUIRE_KERNELS_EXECUTOR_FIBER_H_
