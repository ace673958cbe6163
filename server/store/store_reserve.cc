// Put: room for an object, its publication, and the models whose objects may be put.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cassert>
#include <cstring>

#include "server/store/store.h"

namespace quire::server {
Expected<wire::ReserveReply> Store::reserve(StoreSession& session, const Digest& id,
                                            uint64_t bytes) {
  if (draining_) {
    return Status(StatusCode::kUnavailable, "the server drains and takes no new objects");
  }
  if (const ObjectEntry* entry = find(id); entry != nullptr) {
    if (entry->tenant != session.tenant) {
      // Ids are salted hashes: only a caller that was given this id can come here.
      return Status(StatusCode::kPermissionDenied,
                    "this id does not belong to the session's tenant");
    }
    if (entry->state == ObjectState::kSealed) {
      return Status(StatusCode::kAlreadyExists, "stored already");
    }
    ++counters_.busy_replies;
    return Status(StatusCode::kBusy, "somebody is storing this id right now", kBusyRetryMs);
  }
  if (bytes == 0) return Status(StatusCode::kInvalidArgument, "an object has at least one byte");
  if (bytes > object_bytes_max_) {
    return Status(StatusCode::kResourceExhausted, "object of " + std::to_string(bytes) +
                                                      " bytes; this server's largest is " +
                                                      std::to_string(object_bytes_max_));
  }
  if (session.reservations >= config_.reservations_per_session_max) {
    return Status(StatusCode::kResourceExhausted, "too many reservations of this session");
  }
  if (by_handle_.contains(handle_of(id))) {
    return Status(StatusCode::kResourceExhausted, "another id starts with the same 8 bytes");
  }
  auto offset = session.staging->allocate(bytes);
  if (!offset) {
    counters_.busy_replies += offset.status().code() == StatusCode::kBusy;
    return offset.status();
  }
  auto slot = allocate_slot(bytes);
  if (!slot) {
    session.staging->free(*offset);
    ++counters_.busy_replies;
    return slot.status();
  }
  ObjectEntry& entry = create_entry(id, session.tenant, bytes);
  entry.slot = *slot;
  entry.reservation = next_reservation_id_++;
  Reservation reservation;
  reservation.id = id;
  reservation.session = session.id;
  reservation.bytes = bytes;
  reservation.staging_offset = *offset;
  reservation.deadline_ns = clock_.now_ns() + uint64_t{config_.reservation_ms} * 1'000'000;
  earliest_reservation_ns_ = std::min(earliest_reservation_ns_, reservation.deadline_ns);
  reservations_.emplace(entry.reservation, reservation);
  ++session.reservations;
  return wire::ReserveReply{entry.reservation, *offset};
}

Status Store::publish(ObjectEntry& entry, const RepresentationHeader& header) {
  tiers::IndexEntry indexed;
  indexed.representation = header.representation;
  indexed.variant = header.variant;
  indexed.object = header.object;
  indexed.model = header.model;
  indexed.tenant = entry.tenant;
  indexed.context = header.context;
  indexed.codec = static_cast<uint16_t>(header.codec);
  indexed.frame = header.frame;
  indexed.coverage = header.coverage;
  indexed.base_position = header.base_position;
  indexed.bytes = entry.bytes;
  indexed.cookie = reinterpret_cast<uint64_t>(&entry);
  indexed.tokens = index_.object_tokens(header.model, entry.tenant, header.object);
  if (!indexed.tokens || *indexed.tokens != header.tokens) {
    indexed.tokens = std::make_shared<tiers::TokenList>(header.tokens);
  }
  auto added = index_.add(std::move(indexed));
  if (!added) return added.status();
  entry.index = *added;
  entry.state = ObjectState::kSealed;
  policy_->insert(handle_of(entry.id), entry.slot->slot_bytes);
  return Status::ok();
}

Status Store::register_model(const Digest& id, const std::string& name, ByteSpan descriptor,
                             StatusCallback done) {
  auto model = ModelDescriptor::parse(descriptor);
  if (!model) return model.status();
  QUIRE_RETURN_IF_ERROR(model->validate());
  if (model_id(*model) != id) {
    return Status(StatusCode::kModelMismatch, "the descriptor's hash is another model id");
  }
  if (models_->contains(id)) {
    loop_.post([done = std::move(done)] { done(Status::ok()); });
    return Status::ok();
  }
  if (models_->size() >= kModelsMax) {
    return Status(StatusCode::kResourceExhausted, "the server knows its maximum of models");
  }
  tiers::ModelRecord record;
  record.name = name;
  record.registered_wall_ms = clock_.wall_ms();
  record.descriptor.assign(descriptor.begin(), descriptor.end());
  auto batch = std::make_shared<tiers::MetadataBatch>();
  batch->put_models.emplace_back(id, record);
  auto status = std::make_shared<Status>();
  auto finish = [this, id, record, status, model = std::move(*model), done = std::move(done)] {
    --writes_of_records_in_flight_;
    if (status->is_ok()) {
      auto table = std::make_shared<ModelTable>(*models_);
      index_.set_model_movable(id, model.movable().is_ok());
      table->insert_or_assign(id, RegisteredModel{record.name, model, record.registered_wall_ms});
      models_ = std::move(table);
      spdlog::info("model {} registered as \"{}\"", id.to_hex(), record.name);
    }
    done(*status);
  };
  if (!metadata_worker_->submit([this, batch, status] { *status = metadata_->write(*batch, true); },
                                std::move(finish))) {
    return Status(StatusCode::kBusy, "the metadata queue is full", kBusyRetryMs);
  }
  ++writes_of_records_in_flight_;
  return Status::ok();
}

}  // namespace quire::server
