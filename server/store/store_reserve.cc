// Put: room for an object, its publication, and the models whose objects may be put.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cassert>

#include "server/store/store.h"
#include "tiers/index/fingerprints.h"

namespace quire::server {

// An id of another tenant or scope is not looked for: what happens next (room, copy, and at last a
// refusal because the ids do not fit this tenant's salt, or the context another scope) is the same
// as for an id that nobody has.
Expected<wire::ReserveReply> Store::reserve(StoreSession& session, const Digest& id,
                                            uint64_t bytes) {
  if (draining_) {
    return Status(StatusCode::kUnavailable, "the server drains and takes no new objects");
  }
  if (const tiers::RowId row = index_->find(id);
      row != tiers::kNoRow && visible(session, row) && !give_way_to_new(row)) {
    return Status(StatusCode::kAlreadyExists, "stored already");
  }
  if (pending_.contains({session.tenant, session.scope, id})) {
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
  Tenant& tenant = tenants_.at(session.tenant);
  if (const Status status = make_room_in_quota(tenant, bytes); !status.is_ok()) {
    ++tenant.refused_puts;
    return status;
  }
  auto offset = session.staging->allocate(bytes);
  if (!offset) {
    counters_.busy_replies += offset.status().code() == StatusCode::kBusy;
    return offset.status();
  }
  auto slot = allocate_slot(bytes, session.tenant);
  if (!slot) {
    session.staging->free(*offset);
    ++counters_.busy_replies;
    return slot.status();
  }
  ObjectEntry& entry = live_.create(id);
  entry.tenant = session.tenant;
  entry.bytes = bytes;
  give_slot(entry, *slot);
  entry.reservation = next_reservation_id_++;
  Reservation reservation;
  reservation.entry = entry.ref();
  reservation.session = session.id;
  reservation.scope = session.scope;
  reservation.bytes = bytes;
  reservation.staging_offset = *offset;
  reservation.deadline_ns = clock_.now_ns() + uint64_t{config_.reservation_ms} * 1'000'000;
  earliest_reservation_ns_ = std::min(earliest_reservation_ns_, reservation.deadline_ns);
  reservations_.emplace(entry.reservation, reservation);
  pending_.emplace(PendingKey{session.tenant, session.scope, id}, entry.ref());
  tenant.reserved_bytes += bytes;
  ++session.reservations;
  return wire::ReserveReply{entry.reservation, *offset};
}

Status Store::publish(ObjectEntry& entry, const RepresentationHeader& header) {
  auto details = std::make_shared<tiers::IndexDetails>();
  details->variant = header.variant;
  details->object = header.object;
  details->context = header.context;
  details->frame = header.frame;
  details->coverage = header.coverage;
  details->base_position = header.base_position;
  details->created_wall_ms = clock_.wall_ms();
  details->tokens = std::make_shared<const tiers::TokenList>(header.tokens);
  tiers::NewRow row;
  row.representation = header.representation;
  row.model = header.model;
  row.tenant = entry.tenant;
  row.scope = header.context.scope;
  row.variant = header.variant;
  row.kind = header.context.kind;
  row.phase = header.context.phase;
  row.codec = static_cast<uint16_t>(header.codec);
  row.checksum = entry.checksum;
  row.bytes = static_cast<uint32_t>(entry.bytes);
  row.n_tokens = static_cast<uint32_t>(header.tokens.size());
  row.fingerprints = tiers::fingerprint_tokens(fingerprint_seed_, header.model, entry.tenant,
                                               header.context, header.tokens);
  auto added = index_->add(row);
  if (!added) return added.status();
  entry.row = *added;
  entry.details = std::move(details);
  entry.state = ObjectState::kSealed;
  index_->row(entry.row).live = entry.number;
  index_->row(entry.row).last_used_s = static_cast<uint32_t>(clock_.wall_ms() / 1000);
  Tenant& tenant = tenants_.at(entry.tenant);
  tenant.bytes += entry.bytes;
  ++tenant.objects;
  enter_policy(entry);
  return Status::ok();
}

// Beyond the write budget only what must be durable is written at once; the rest when it is used
// again (docs/ops/recovery.md).
void Store::start_persist_after_put(ObjectEntry& entry, bool durable) {
  const bool large = entry.bytes >= blob_bytes_max();
  if (!durable && large && over_write_budget_) {
    entry.persist = PersistState::kHeld;
    return;
  }
  start_persist(entry);
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
    --change_batches_in_flight_;
    if (status->is_ok()) {
      auto table = std::make_shared<ModelTable>(*models_);
      table->insert_or_assign(id, RegisteredModel{record.name, model, record.registered_wall_ms});
      models_ = std::move(table);
      apply_verdict(id);
      write_registry_later();
      rebuild_of_known_models();
      spdlog::info("model {} registered as \"{}\"", id.to_hex(), record.name);
    }
    done(*status);
  };
  if (!metadata_worker_->submit([this, batch, status] { *status = metadata_->write(*batch, true); },
                                std::move(finish))) {
    return Status(StatusCode::kBusy, "the metadata queue is full", kBusyRetryMs);
  }
  ++change_batches_in_flight_;
  return Status::ok();
}

}  // namespace quire::server
