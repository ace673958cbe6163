#include "kernels/executor/fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define QUIRE_FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define QUIRE_FIBER_ASAN 1
#endif
#endif
#ifdef QUIRE_FIBER_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Saves the callee-saved registers on the current stack, its top in *save, and goes on where the
// stack `load` left off. swapcontext() would do, at two system calls a switch.
extern "C" void quire_executor_switch(void** save, void* load);
asm(R"(
.text
.globl quire_executor_switch
.hidden quire_executor_switch
.type quire_executor_switch,@function
quire_executor_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size quire_executor_switch, .-quire_executor_switch
)");
#endif

namespace quire_executor {
namespace {

constexpr size_t kGuardBytes = 4096;
constexpr size_t kStackBytes = 256 << 10;

thread_local Fiber* entering = nullptr;

}  // namespace

#if defined(__x86_64__)
struct Fiber::Context {
  void* fiber = nullptr;
  void* scheduler = nullptr;
};
#else
struct Fiber::Context {
  ucontext_t fiber;
  ucontext_t scheduler;
};
#endif

void fiber_main(Fiber* self) {
  self->after_switch(nullptr, true);
  self->entry_(self->argument_);
  self->finished_ = true;
  self->suspend();
  abort();  // a finished fiber is never resumed
}

extern "C" {
static void quire_executor_entry() {
  fiber_main(entering);
}
}

Fiber::Fiber() : context_(new Context) {
  void* mapping = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED || mprotect(mapping, kGuardBytes, PROT_NONE) != 0) {
    perror("executor: mapping the stack of a thread");
    abort();
  }
  mapping_ = static_cast<unsigned char*>(mapping);
  stack_ = mapping_ + kGuardBytes;
}

Fiber::~Fiber() {
  munmap(mapping_, kGuardBytes + kStackBytes);
  delete context_;
}

void Fiber::start(Entry entry, void* argument) {
  entry_ = entry;
  argument_ = argument;
  finished_ = false;
  fiber_fake_stack_ = nullptr;
#if defined(__x86_64__)
  // Six saved registers, the return address, and the misalignment a call leaves.
  auto** top = reinterpret_cast<void**>(stack_ + kStackBytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&quire_executor_entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context_->fiber = top;
#else
  getcontext(&context_->fiber);
  context_->fiber.uc_stack.ss_sp = stack_;
  context_->fiber.uc_stack.ss_size = kStackBytes;
  context_->fiber.uc_link = nullptr;
  makecontext(&context_->fiber, quire_executor_entry, 0);
#endif
}

void Fiber::resume() {
  entering = this;
  before_switch(&scheduler_fake_stack_, stack_, kStackBytes);
#if defined(__x86_64__)
  quire_executor_switch(&context_->scheduler, context_->fiber);
#else
  swapcontext(&context_->scheduler, &context_->fiber);
#endif
  after_switch(scheduler_fake_stack_, false);
}

void Fiber::suspend() {
  before_switch(finished_ ? nullptr : &fiber_fake_stack_, scheduler_bottom_, scheduler_bytes_);
#if defined(__x86_64__)
  quire_executor_switch(&context_->fiber, context_->scheduler);
#else
  swapcontext(&context_->fiber, &context_->scheduler);
#endif
  after_switch(fiber_fake_stack_, true);
}

#ifdef QUIRE_FIBER_ASAN
void Fiber::before_switch(void** fake_stack, const void* bottom, size_t bytes) {
  __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
}
void Fiber::after_switch(void* fake_stack, bool into_fiber) {
  if (into_fiber)
    __sanitizer_finish_switch_fiber(fake_stack, &scheduler_bottom_, &scheduler_bytes_);
  else
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}
#else
void Fiber::before_switch(void**, const void*, size_t) {}
void Fiber::after_switch(void*, bool) {}
#endif

}  // namespace quire_executor
