#include "server/store/staging_window.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <string>

namespace quire::server {
namespace {

// A window whose range is freed keeps this many bytes warm: giving pages back costs a page fault
// each at the next put.
constexpr uint64_t kKeepWarmBytes = 64ull << 20;

Status errno_status(const char* what) {
  return Status(StatusCode::kResourceExhausted, std::string(what) + ": " + std::strerror(errno));
}

}  // namespace

Expected<std::shared_ptr<StagingWindow>> StagingWindow::create(uint64_t bytes) {
  bytes = align_up(bytes, kStagingAlignment);
  const int fd = ::memfd_create("quire-staging", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return errno_status("memfd_create for a staging window");
  if (::ftruncate(fd, static_cast<off_t>(bytes)) != 0 ||
      ::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    const Status status = errno_status("size and seals of a staging window");
    ::close(fd);
    return status;
  }
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (memory == MAP_FAILED) {
    const Status status = errno_status("mapping a staging window");
    ::close(fd);
    return status;
  }
  return std::shared_ptr<StagingWindow>(
      new StagingWindow(fd, static_cast<std::byte*>(memory), bytes));
}

StagingWindow::StagingWindow(int fd, std::byte* memory, uint64_t bytes)
    : fd_(fd), memory_(memory), bytes_(bytes) {}

StagingWindow::~StagingWindow() {
  ::munmap(memory_, bytes_);
  ::close(fd_);
}

uint64_t StagingWindow::reservable_bytes() const {
  constexpr uint64_t kOtherBytes = wire::kPromptScratchBytes + sizeof(wire::FillProgress);
  return bytes_ > kOtherBytes ? bytes_ - kOtherBytes : 0;
}

void StagingWindow::prefault(uint64_t offset, uint64_t bytes) const {
  if (offset >= bytes_) return;
#ifdef MADV_POPULATE_WRITE
  ::madvise(memory_ + offset, std::min(bytes, bytes_ - offset), MADV_POPULATE_WRITE);
#endif
}

Expected<uint64_t> StagingWindow::allocate(uint64_t bytes) {
  if (bytes == 0 || bytes > reservable_bytes()) {
    return Status(StatusCode::kResourceExhausted,
                  "object of " + std::to_string(bytes) +
                      " bytes does not fit this session's staging"
                      " window; connect with a larger staging_bytes");
  }
  const uint64_t rounded =
      align_up(align_up(bytes, 64) + sizeof(wire::FillProgress), kStagingAlignment);
  uint64_t candidate = wire::kPromptScratchBytes;
  for (const auto& [offset, taken] : taken_) {
    if (offset - candidate >= rounded) break;
    candidate = offset + taken;
  }
  if (bytes_ - candidate < rounded) {
    return Status(StatusCode::kBusy, "the staging window is full of earlier reservations", 5);
  }
  taken_.emplace(candidate, rounded);
  *progress(candidate, bytes) = wire::FillProgress{.send_fill = 1};
  return candidate;
}

void StagingWindow::free(uint64_t offset) {
  const auto found = taken_.find(offset);
  assert(found != taken_.end());
  const uint64_t end = offset + found->second;
  taken_.erase(found);
  const uint64_t warm_end = wire::kPromptScratchBytes + kKeepWarmBytes;
  if (end > warm_end) {
    const uint64_t begin = std::max(offset, warm_end);
    ::madvise(memory_ + begin, end - begin, MADV_REMOVE);
  }
}

}  // namespace quire::server
