#include "server/store/ingest.h"

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "codecs/registry.h"

namespace quire::server {
namespace {

// Small enough that a piece is still in the first levels of cache when the second hash reads it.
constexpr uint64_t kPieceBytes = 16 * 1024;

void relax_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

bool all_zero(ByteSpan bytes) {
  return std::all_of(bytes.begin(), bytes.end(),
                     [](std::byte value) { return value == std::byte{0}; });
}

}  // namespace

Ingest::Ingest(IngestRequest request) : request_(std::move(request)) {
  if (request_.source.size() != request_.target.size()) std::abort();
}

uint64_t Ingest::available_bytes() const {
  uint64_t bytes = announced_bytes_.load(std::memory_order_acquire);
  if (request_.progress != nullptr) {
    const std::atomic_ref<uint64_t> filled(request_.progress->filled_bytes);
    bytes = std::max(bytes, filled.load(std::memory_order_acquire));
  }
  return std::min<uint64_t>(bytes, request_.source.size());
}

// True as soon as there is more to copy.
bool Ingest::watch(uint64_t watch_ns, const std::function<bool()>& others_wait) const {
  if (request_.progress == nullptr) return false;
  const uint64_t until_ns = system_clock().now_ns() + watch_ns;
  do {
    if (available_bytes() > copied_bytes_) return true;
    if (others_wait()) return false;
    relax_cpu();
  } while (system_clock().now_ns() < until_ns);
  return false;
}

void Ingest::follow(uint64_t watch_ns, const std::function<bool()>& others_wait) {
  const auto ask_for_fill = [this](bool ask) {
    if (request_.progress == nullptr) return;
    // Sequentially consistent, as the client's exchange: it sees the request, or we its progress.
    std::atomic_ref<uint32_t>(request_.progress->send_fill).store(ask ? 1 : 0);
  };
  ask_for_fill(false);
  for (;;) {
    copy_until(available_bytes());
    // A client that adds a byte at a time does not keep the others waiting.
    if (others_wait()) break;
    if (watch_ns != 0 && watch(watch_ns, others_wait)) continue;
    ask_for_fill(true);
    if (available_bytes() <= copied_bytes_ || others_wait()) return;
    ask_for_fill(false);
  }
  ask_for_fill(true);
}

void Ingest::copy_until(uint64_t end) {
  while (copied_bytes_ < end) {
    const uint64_t bytes = std::min(kPieceBytes, end - copied_bytes_);
    const MutableByteSpan piece = request_.target.subspan(copied_bytes_, bytes);
    std::memcpy(piece.data(), request_.source.data() + copied_bytes_, bytes);
    whole_.update(piece);
    copied_bytes_ += bytes;
    if (!manifest_tried_) find_manifest();
    if (view_) check_sections();
  }
}

void Ingest::find_manifest() {
  const ByteSpan copied = request_.target.first(copied_bytes_);
  const auto bytes = RepresentationView::manifest_bytes(copied);
  if (bytes && *bytes > copied.size() && *bytes <= request_.target.size()) return;  // not all there
  if (!bytes && copied_bytes_ < kPieceBytes) return;
  manifest_tried_ = true;
  if (!bytes) return;
  // Where this fails, finish() parses what was committed and says why.
  auto view = RepresentationView::parse(request_.target);
  if (!view) return;
  view_ = std::move(*view);
  checked_bytes_ = *bytes;
}

// Sections follow each other, each padded with zeros: one hash is open at a time. It stops at the
// first that does not hold; finish() then looks at all of them.
void Ingest::check_sections() {
  const auto sections = view_->sections();
  while (sections_that_hold_ < sections.size()) {
    const SectionEntry& section = sections[sections_that_hold_];
    const uint64_t end = section.offset + section.bytes;
    const uint64_t padded_end = align_up(end, kSectionAlignment);
    const uint64_t hashed_end = std::min(copied_bytes_, end);
    if (hashed_end > checked_bytes_) {
      section_.update(request_.target.subspan(checked_bytes_, hashed_end - checked_bytes_));
      checked_bytes_ = hashed_end;
    }
    if (copied_bytes_ < padded_end) return;
    const bool holds = section_.hash_64() == section.xxh3 &&
                       all_zero(request_.target.subspan(end, padded_end - end));
    if (!holds) {
      view_.reset();
      return;
    }
    section_.reset();
    checked_bytes_ = padded_end;
    ++sections_that_hold_;
  }
}

Status Ingest::check_copy(const RepresentationView& view, bool sections_hold,
                          const IngestCommit& commit) const {
  const RepresentationHeader& header = view.header();
  if (header.representation != request_.representation) {
    return Status(StatusCode::kInvalidArgument, "the bytes are representation " +
                                                    header.representation.to_hex() +
                                                    ", another one was reserved");
  }
  if (header.tokens.empty()) {
    return Status(StatusCode::kInvalidArgument, "an object without tokens cannot be found again");
  }
  QUIRE_RETURN_IF_ERROR(view.verify_object(*request_.salt));
  if (!sections_hold) QUIRE_RETURN_IF_ERROR(view.verify_sections());
  const auto model = commit.models->find(header.model);
  if (model == commit.models->end()) {
    return Status(StatusCode::kFailedPrecondition,
                  "model " + header.model.to_hex() + " is not registered; register it first");
  }
  return quire::check_sections(view, model->second.descriptor);
}

Expected<RepresentationHeader> Ingest::finish(const IngestCommit& commit) {
  if (commit.bytes > request_.target.size() || commit.bytes < copied_bytes_) {
    return Status(StatusCode::kInvalidArgument, "commit of fewer bytes than were filled");
  }
  copy_until(commit.bytes);
  if (whole_.hash_128() != commit.checksum) {
    return Status(StatusCode::kCorrupt,
                  "the bytes in the staging window are not those of the checksum");
  }
  const bool sections_hold = view_ && commit.bytes == request_.target.size() &&
                             sections_that_hold_ == view_->sections().size();
  if (!sections_hold) {
    auto view = RepresentationView::parse(request_.target.first(commit.bytes));
    if (!view) return view.status();
    view_ = std::move(*view);
  }
  QUIRE_RETURN_IF_ERROR(check_copy(*view_, sections_hold, commit));
  return view_->header();
}

}  // namespace quire::server
