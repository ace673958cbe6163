// Put: fill (copy as it comes), commit (copy the rest, check, publish) and abort.
#include <algorithm>
#include <cassert>
#include <cstring>
#include <thread>

#include "server/store/store.h"

namespace quire::server {
namespace {

// How long the ingest worker looks for more of a window before it asks to be told: longer than a
// client takes for a part, shorter than two wake-ups. With one core, looking would keep the client
// from writing.
constexpr uint64_t kFillWatchNs = 50'000;

uint64_t fill_watch_ns() {
  static const bool alone = std::thread::hardware_concurrency() < 2;
  return alone ? 0 : kFillWatchNs;
}

}  // namespace

Expected<Reservation*> Store::find_reservation(const StoreSession& session, uint64_t id) {
  const auto found = reservations_.find(id);
  if (found == reservations_.end() || found->second.session != session.id ||
      found->second.abandoned) {
    return Status(StatusCode::kNotFound, "no such reservation (expired, aborted or never made)");
  }
  if (live_.find(found->second.entry)->state != ObjectState::kReserved) {
    return Status(StatusCode::kFailedPrecondition, "this reservation is being committed already");
  }
  return &found->second;
}

Ingest& Store::ingest_of(const StoreSession& session, Reservation& reservation) {
  if (reservation.ingest == nullptr) {
    const ObjectEntry& entry = *live_.find(reservation.entry);
    IngestRequest request;
    request.source =
        session.staging->memory().subspan(reservation.staging_offset, reservation.bytes);
    request.target = slab_->whole(*entry.slot).first(reservation.bytes);
    request.progress = session.staging->progress(reservation.staging_offset, reservation.bytes);
    request.representation = entry.id;
    request.salt = session.salt;
    reservation.ingest = std::make_shared<Ingest>(std::move(request));
  }
  return *reservation.ingest;
}

Status Store::fill(StoreSession& session, const wire::FillRequest& request) {
  QUIRE_ASSIGN_OR_RETURN(Reservation* const reservation,
                         find_reservation(session, request.reservation_id));
  if (request.filled_bytes > reservation->bytes ||
      request.filled_bytes < reservation->filled_bytes) {
    return Status(StatusCode::kInvalidArgument,
                  "filled_bytes " + std::to_string(request.filled_bytes) + " after " +
                      std::to_string(reservation->filled_bytes) + "; reserved were " +
                      std::to_string(reservation->bytes));
  }
  if (request.filled_bytes == reservation->filled_bytes) return Status::ok();
  reservation->filled_bytes = request.filled_bytes;
  ingest_of(session, *reservation).announce(request.filled_bytes);
  // One job at a time for a reservation, however many fills come.
  if (!reservation->copying) start_copy(session, request.reservation_id, *reservation);
  return Status::ok();
}

void Store::start_copy(const StoreSession& session, uint64_t reservation_id,
                       Reservation& reservation) {
  // The staging window stays mapped for as long as the job may read it, also when the client is
  // gone. A full queue costs nothing but the head start: commit takes in what is missing.
  reservation.copying = ingest_worker_->submit(
      [ingest = reservation.ingest, staging = session.staging, worker = ingest_worker_.get()] {
        ingest->follow(fill_watch_ns(), [worker] { return worker->queued() != 0; });
      },
      [this, reservation_id] { finish_copy(reservation_id); });
}

void Store::finish_copy(uint64_t reservation_id) {
  Reservation& reservation = reservations_.at(reservation_id);
  reservation.copying = false;
  if (reservation.abandoned) return free_reservation(reservation_id);
  // Once it is being committed, the job of the commit copies.
  if (live_.find(reservation.entry)->state != ObjectState::kReserved) return;
  if (reservation.ingest->copied_bytes() < reservation.filled_bytes) {
    start_copy(*sessions_.at(reservation.session), reservation_id, reservation);
  }
}

void Store::prefault(const StoreSession& session) {
  // In steps, between which other sessions' objects are taken in.
  constexpr uint64_t kStepBytes = 1ull << 20;
  for (uint64_t offset = 0; offset < wire::kPrefaultBytes; offset += kStepBytes) {
    const bool queued = ingest_worker_->submit(
        [staging = session.staging, offset] {
          staging->prefault(wire::kPromptScratchBytes + offset, kStepBytes);
        },
        nullptr);
    if (!queued) return;
  }
}

Status Store::commit(StoreSession& session, const wire::CommitRequest& request,
                     StatusCallback done) {
  QUIRE_ASSIGN_OR_RETURN(Reservation* const reservation,
                         find_reservation(session, request.reservation_id));
  if (request.bytes == 0 || request.bytes > reservation->bytes ||
      request.bytes < reservation->filled_bytes) {
    return Status(StatusCode::kInvalidArgument,
                  "commit of " + std::to_string(request.bytes) + " bytes; reserved were " +
                      std::to_string(reservation->bytes) + ", filled " +
                      std::to_string(reservation->filled_bytes));
  }
  if (request.ack != wire::AckLevel::kMemory && request.ack != wire::AckLevel::kDurable) {
    return Status(StatusCode::kInvalidArgument, "unknown acknowledgement level");
  }
  ObjectEntry& entry = *live_.find(reservation->entry);
  ingest_of(session, *reservation);
  const IngestCommit judged{request.bytes, {request.checksum_low, request.checksum_high}, models_};
  auto result = std::make_shared<Expected<RepresentationHeader>>(
      Status(StatusCode::kInternal, "ingest did not run"));
  const MutableByteSpan tail = slab_->whole(*entry.slot).subspan(request.bytes);
  auto run = [ingest = reservation->ingest, judged, result, tail, staging = session.staging] {
    *result = ingest->finish(judged);
    // No earlier object's bytes behind the payload.
    std::memset(tail.data(), 0, tail.size());
  };
  auto finish = [this, request, result, done = std::move(done)] {
    finish_ingest(request.reservation_id, request, std::move(*result), done);
  };
  if (!ingest_worker_->submit(std::move(run), std::move(finish))) {
    ++counters_.busy_replies;
    return Status(StatusCode::kBusy, "too many commits are waiting", kBusyRetryMs);
  }
  entry.state = ObjectState::kFilling;
  entry.bytes = request.bytes;
  entry.checksum = judged.checksum;
  ++ingests_in_flight_;
  return Status::ok();
}

void Store::finish_ingest(uint64_t reservation_id, const wire::CommitRequest& request,
                          Expected<RepresentationHeader> header, const StatusCallback& done) {
  --ingests_in_flight_;
  const auto found = reservations_.find(reservation_id);
  assert(found != reservations_.end());
  ObjectEntry& entry = *live_.find(found->second.entry);
  assert(entry.state == ObjectState::kFilling);
  entry.state = ObjectState::kReserved;
  Status status = header.status();
  // What is bound is stored from within its scope only; the rest is in none.
  if (status.is_ok() && is_bound(header->context) && header->context.scope != found->second.scope) {
    status = Status(StatusCode::kPermissionDenied, "this variant belongs to another scope");
  }
  if (status.is_ok()) status = publish(entry, *header);
  if (!status.is_ok()) {
    ++counters_.refused_puts;
    free_reservation(reservation_id);
    done(status);
    return;
  }
  free_reservation(reservation_id);
  limit_variants(entry.row);
  ++counters_.puts;
  counters_.put_bytes += entry.bytes;
  if (request.pin_ms != 0) set_pin(entry.row, clock_.wall_ms() + request.pin_ms);
  if (request.ack == wire::AckLevel::kDurable) {
    entry.durable_waiters.push_back(done);
    start_persist_after_put(entry, true);
    return;
  }
  start_persist_after_put(entry, false);
  done(Status::ok());
}

Status Store::abort(StoreSession& session, uint64_t reservation_id) {
  QUIRE_RETURN_IF_ERROR(find_reservation(session, reservation_id).status());
  free_reservation(reservation_id);
  return Status::ok();
}

}  // namespace quire::server
