// The writable shared memory of one session: a memfd that the client maps too. The first
// kPromptScratchBytes carry prompts and descriptors; behind them lie the windows of reservations,
// handed out first fit. Everything in here is hostile: bytes may change while they are read, so
// whoever needs a stable value copies it out first. Owned and used by the reactor thread; ingest
// threads read windows that are committed.
#ifndef QUIRE_SERVER_STORE_STAGING_WINDOW_H_
#define QUIRE_SERVER_STORE_STAGING_WINDOW_H_

#include <cstdint>
#include <map>
#include <memory>

#include "base/bytes.h"
#include "base/status.h"
#include "proto/wire.h"

namespace quire::server {

inline constexpr uint64_t kStagingAlignment = 4096;

class StagingWindow {
 public:
  // A sparse memfd of align_up(bytes, 4096), sealed against shrinking and growing (a client that
  // could shrink it would kill the server with SIGBUS).
  static Expected<std::shared_ptr<StagingWindow>> create(uint64_t bytes);
  ~StagingWindow();
  StagingWindow(const StagingWindow&) = delete;
  StagingWindow& operator=(const StagingWindow&) = delete;

  int fd() const { return fd_; }
  uint64_t bytes() const { return bytes_; }
  // The largest reservation that can ever fit.
  uint64_t reservable_bytes() const;
  MutableByteSpan memory() const { return {memory_, bytes_}; }

  // Gives a range its pages, so that nobody waits for them at the first put. Any thread; bytes
  // outside of the window, and a machine that has no memory left, are no error.
  void prefault(uint64_t offset, uint64_t bytes) const;

  // Offset of a free range behind the prompt scratch, for so many bytes and their FillProgress;
  // kBusy where none is large enough right now, kResourceExhausted where none ever will be.
  Expected<uint64_t> allocate(uint64_t bytes);
  // Behind a window of that many bytes at that offset; allocate() makes room for it.
  wire::FillProgress* progress(uint64_t offset, uint64_t bytes) const {
    return reinterpret_cast<wire::FillProgress*>(memory_ + offset + align_up(bytes, 64));
  }
  // Gives the range back, and its pages to the machine.
  void free(uint64_t offset);

 private:
  StagingWindow(int fd, std::byte* memory, uint64_t bytes);

  int fd_;
  std::byte* memory_;
  uint64_t bytes_;
  std::map<uint64_t, uint64_t> taken_;  // offset -> bytes, disjoint
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_STAGING_WINDOW_H_
