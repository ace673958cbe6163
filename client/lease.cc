// Leases and reservations: handles of a client's session.
#include <algorithm>
#include <atomic>
#include <utility>

#include "base/clock.h"
#include "client/client.h"
#include "client/session.h"

namespace quire {
namespace {

// How much of a window is handed over at a time.
constexpr uint64_t kFillPartBytes = 64ull << 10;

}  // namespace

Lease::Lease(Lease&& other) noexcept {
  *this = std::move(other);
}

Lease& Lease::operator=(Lease&& other) noexcept {
  if (this == &other) return *this;
  release();
  client_ = std::exchange(other.client_, nullptr);
  bytes_ = std::exchange(other.bytes_, {});
  id_ = other.id_;
  generation_ = other.generation_;
  expires_ns_ = other.expires_ns_;
  return *this;
}

Lease::~Lease() {
  release();
}

Status Lease::check() const {
  if (!valid()) return {StatusCode::kStaleLease, "the lease was released"};
  QUIRE_RETURN_IF_ERROR(client_->session_->healthy());
  if (system_clock().now_ns() >= expires_ns_)
    return {StatusCode::kStaleLease, "the lease has expired"};
  return Status::ok();
}

Status Lease::renew(uint32_t lease_ms) {
  QUIRE_RETURN_IF_ERROR(check());
  if (lease_ms == 0) return {StatusCode::kInvalidArgument, "lease_ms must be at least 1"};
  QUIRE_ASSIGN_OR_RETURN(auto turn, client_->session_->turn());
  const uint64_t asked_ns = system_clock().now_ns();
  ByteWriter body;
  body.write(wire::ReleaseRequest{.n_ids = 1, .lease_ms = lease_ms});
  body.write(id_);
  QUIRE_RETURN_IF_ERROR(turn.call(wire::Op::kRenew, body.bytes()));
  const uint64_t granted_ms = std::min(lease_ms, client_->session_->lease_ms());
  expires_ns_ = std::max(expires_ns_, asked_ns + granted_ms * kNsPerMs);
  return Status::ok();
}

void Lease::release() {
  if (!valid()) return;
  ByteWriter body;
  body.write(wire::ReleaseRequest{.n_ids = 1, .lease_ms = 0});
  body.write(id_);
  std::exchange(client_, nullptr)
      ->session_->send_and_forget(wire::Op::kRelease, wire::kFlagNoReply, body.bytes());
  bytes_ = {};
}

PutWindow::PutWindow(PutWindow&& other) noexcept {
  *this = std::move(other);
}

PutWindow& PutWindow::operator=(PutWindow&& other) noexcept {
  if (this == &other) return *this;
  abort();
  client_ = std::exchange(other.client_, nullptr);
  bytes_ = std::exchange(other.bytes_, {});
  reservation_id_ = other.reservation_id_;
  filled_bytes_ = other.filled_bytes_;
  progress_ = other.progress_;
  return *this;
}

PutWindow::~PutWindow() {
  abort();
}

Status PutWindow::fill(uint64_t bytes) {
  if (!valid())
    return {StatusCode::kFailedPrecondition, "the window was committed or aborted already"};
  if (bytes > bytes_.size() || bytes < filled_bytes_)
    return {StatusCode::kInvalidArgument,
            "fill: must grow, up to the window's " + std::to_string(bytes_.size()) + " bytes"};
  if (bytes == filled_bytes_ || progress_ == nullptr) return Status::ok();
  filled_bytes_ = bytes;
  // Sequentially consistent, as the server's side: it sees our progress, or we its request.
  std::atomic_ref<uint64_t>(progress_->filled_bytes).store(bytes);
  const std::atomic_ref<uint32_t> send_fill(progress_->send_fill);
  if (send_fill.load() == 0 || send_fill.exchange(0) == 0) return Status::ok();
  const wire::FillRequest request{.reservation_id = reservation_id_, .filled_bytes = bytes};
  client_->session_->send_and_forget(wire::Op::kFill, wire::kFlagNoReply, bytes_of(request));
  return Status::ok();
}

Hash128 PutWindow::hand_over(ByteSpan source) {
  Xxh3Stream hash;
  for (uint64_t begin = 0; begin < bytes_.size();) {
    const uint64_t bytes = std::min(kFillPartBytes, bytes_.size() - begin);
    const MutableByteSpan part = bytes_.subspan(begin, bytes);
    if (source.empty()) {
      hash.update(part);
    } else {
      hash.copy_and_update(part, source.subspan(begin, bytes));
    }
    begin += bytes;
    // The commit says of the last part that it is there.
    if (begin < bytes_.size() && begin > filled_bytes_) (void)fill(begin);
  }
  return hash.hash_128();
}

Status PutWindow::commit(wire::AckLevel ack, uint32_t pin_ms) {
  return commit(hand_over({}), ack, pin_ms);
}

Status PutWindow::commit(const Hash128& checksum, wire::AckLevel ack, uint32_t pin_ms) {
  if (!valid())
    return {StatusCode::kFailedPrecondition, "the window was committed or aborted already"};
  const wire::CommitRequest request{.reservation_id = reservation_id_,
                                    .bytes = bytes_.size(),
                                    .checksum_low = checksum.low,
                                    .checksum_high = checksum.high,
                                    .ack = ack,
                                    .pin_ms = pin_ms};
  QUIRE_ASSIGN_OR_RETURN(auto turn, client_->session_->turn());
  const Status committed = turn.call(wire::Op::kCommit, bytes_of(request));
  if (!committed.is_ok()) {
    abort();
    return committed;
  }
  client_ = nullptr;
  bytes_ = {};
  return Status::ok();
}

void PutWindow::abort() {
  if (!valid()) return;
  const wire::AbortRequest request{reservation_id_};
  std::exchange(client_, nullptr)
      ->session_->send_and_forget(wire::Op::kAbort, 0, bytes_of(request));
  bytes_ = {};
}

}  // namespace quire
