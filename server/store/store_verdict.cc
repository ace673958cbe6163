// Verdicts of models: kept in the metadata's state, and what they mean for finding.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "server/store/store.h"

namespace quire::server {
namespace {

// Somebody measured, and what came out cannot be read: it may have been a no, so chunks stay where
// they are until the model is measured again.
Verdict unreadable_verdict(const Status& why, uint64_t wall_ms) {
  Verdict verdict;
  verdict.chunks = false;
  verdict.reason = "the stored verdict cannot be read, measure again: " + why.message();
  verdict.reason.resize(std::min(verdict.reason.size(), kVerdictTextBytesMax));
  for (char& c : verdict.reason)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  verdict.measured_wall_ms = wall_ms;
  verdict.tool = "quired";
  return verdict;
}

}  // namespace

// Chunks are found where the rope can be moved and nobody measured that they should not be.
void Store::apply_verdict(const Digest& id) {
  const auto model = models_->find(id);
  if (model == models_->end()) return;
  const auto verdict = verdicts_.find(id);
  const bool allowed = verdict == verdicts_.end() || verdict->second.chunks;
  index_->set_model_movable(id, allowed && model->second.descriptor.movable().is_ok());
}

// models: those with a record, whether it can be read or not: a model may be registered again.
// Where a stored verdict cannot be read, the registry copy's counts.
Status Store::recover_verdicts(const std::vector<Digest>& models, const tiers::Registry& copy) {
  const std::map<std::string, std::vector<std::byte>> copied(copy.states.begin(),
                                                             copy.states.end());
  for (const Digest& id : models) {
    const std::string key = verdict_state_key(id);
    const auto stored = metadata_->get_state(key);
    if (!stored && stored.status().code() == StatusCode::kNotFound) continue;
    if (!stored && stored.status().code() == StatusCode::kIoError) return stored.status();
    auto verdict = stored ? Verdict::parse(*stored) : Expected<Verdict>(stored.status());
    if (!verdict) {
      warn("the stored verdict of model " + id.to_hex() +
           " cannot be read: " + verdict.status().message());
      const auto found = copied.find(key);
      auto from_copy = found == copied.end() ? verdict : Verdict::parse(found->second);
      verdict =
          from_copy ? std::move(from_copy) : unreadable_verdict(verdict.status(), clock_.wall_ms());
    }
    verdicts_[id] = std::move(*verdict);
    apply_verdict(id);
  }
  return Status::ok();
}

void Store::set_verdict(const Digest& model, const std::optional<Verdict>& verdict,
                        StatusCallback done) {
  if (!models_->contains(model))
    return done(Status(StatusCode::kNotFound, "model " + model.to_hex() + " is not registered"));
  auto batch = std::make_shared<tiers::MetadataBatch>();
  if (verdict) {
    if (const Status status = verdict->validate(); !status.is_ok()) return done(status);
    batch->put_state.emplace_back(verdict_state_key(model), verdict->encode());
  } else {
    batch->delete_state.push_back(verdict_state_key(model));
  }
  auto status = std::make_shared<Status>();
  auto run = [metadata = metadata_.get(), batch, status] {
    *status = metadata->write(*batch, true);
  };
  auto finish = [this, model, verdict, status, done] {
    --change_batches_in_flight_;
    if (!status->is_ok()) return done(*status);
    if (verdict) {
      verdicts_.insert_or_assign(model, *verdict);
    } else {
      verdicts_.erase(model);
    }
    apply_verdict(model);
    spdlog::info("verdict of model {}: {}", model.to_hex(),
                 !verdict          ? "none"
                 : verdict->chunks ? "chunks are reused"
                                   : "exact prefixes only");
    // Acknowledged when the copy has it, too: from then on it outlives RocksDB.
    write_registry_later([done] { done(Status::ok()); });
  };
  if (!metadata_worker_->submit(std::move(run), std::move(finish)))
    return done(Status(StatusCode::kBusy, "the metadata queue is full", kBusyRetryMs));
  ++change_batches_in_flight_;
}

void Store::add_verdict_warnings(std::vector<std::string>& out) const {
  size_t told = 0;
  size_t more = 0;
  for (const auto& [id, verdict] : verdicts_) {
    if (verdict.chunks) continue;
    if (told++ >= kVerdictWarningsMax) {
      ++more;
      continue;
    }
    const auto model = models_->find(id);
    out.push_back("model \"" + (model == models_->end() ? id.to_hex() : model->second.name) +
                  "\" reuses exact prefixes only, by its verdict: " + verdict.reason);
  }
  if (more != 0) out.push_back(std::to_string(more) + " more models reuse exact prefixes only");
}

}  // namespace quire::server
