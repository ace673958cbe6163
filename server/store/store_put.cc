// Put: commit (copy, check, publish) and abort.
#include <algorithm>
#include <cassert>
#include <cstring>

#include "server/store/store.h"

namespace quire::server {
Status Store::commit(StoreSession& session, const wire::CommitRequest& request,
                     StatusCallback done) {
  const auto found = reservations_.find(request.reservation_id);
  if (found == reservations_.end() || found->second.session != session.id) {
    return Status(StatusCode::kNotFound, "no such reservation (expired, aborted or never made)");
  }
  const Reservation& reservation = found->second;
  ObjectEntry& entry = *live_.find(reservation.entry);
  if (entry.state != ObjectState::kReserved) {
    return Status(StatusCode::kFailedPrecondition, "this reservation is being committed already");
  }
  if (request.bytes == 0 || request.bytes > reservation.bytes) {
    return Status(StatusCode::kInvalidArgument, "commit of " + std::to_string(request.bytes) +
                                                    " bytes; reserved were " +
                                                    std::to_string(reservation.bytes));
  }
  if (request.ack != wire::AckLevel::kMemory && request.ack != wire::AckLevel::kDurable) {
    return Status(StatusCode::kInvalidArgument, "unknown acknowledgement level");
  }
  auto job = std::make_shared<IngestRequest>();
  job->source = session.staging->memory().subspan(reservation.staging_offset, request.bytes);
  job->target = slab_->whole(*entry.slot).first(request.bytes);
  job->checksum = {request.checksum_low, request.checksum_high};
  job->representation = entry.id;
  job->salt = session.salt;
  job->models = models_;
  auto result = std::make_shared<Expected<RepresentationHeader>>(
      Status(StatusCode::kInternal, "ingest did not run"));
  const MutableByteSpan whole = slab_->whole(*entry.slot);
  // The staging window stays mapped for as long as the job may read it, also when the client is
  // gone.
  auto run = [job, result, whole, staging = session.staging] {
    *result = ingest(*job);
    // No earlier object's bytes behind the payload.
    std::memset(whole.data() + job->target.size(), 0, whole.size() - job->target.size());
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
  entry.checksum = job->checksum;
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
  if (status.is_ok()) status = publish(entry, *header);
  if (!status.is_ok()) {
    ++counters_.refused_puts;
    free_reservation(reservation_id);
    done(status);
    return;
  }
  free_reservation(reservation_id);
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
  const auto found = reservations_.find(reservation_id);
  if (found == reservations_.end() || found->second.session != session.id) {
    return Status(StatusCode::kNotFound, "no such reservation (expired, aborted or never made)");
  }
  if (live_.find(found->second.entry)->state != ObjectState::kReserved) {
    return Status(StatusCode::kFailedPrecondition, "this reservation is being committed");
  }
  free_reservation(reservation_id);
  return Status::ok();
}

}  // namespace quire::server
