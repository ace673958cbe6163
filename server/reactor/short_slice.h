// The reactor has little to do at a time and everybody waits for it: it asks the scheduler for
// short slices, so that it runs when it is woken although every core is busy copying.
#ifndef QUIRE_SERVER_REACTOR_SHORT_SLICE_H_
#define QUIRE_SERVER_REACTOR_SHORT_SLICE_H_

namespace quire::server {

// For the calling thread; needs no privilege. False where the kernel does not know how (before
// 6.12 it is accepted and ignored) or a sandbox forbids it: nothing is lost but latency.
bool ask_for_short_slices();

}  // namespace quire::server

#endif  // QUIRE_SERVER_REACTOR_SHORT_SLICE_H_
