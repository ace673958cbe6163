#include <algorithm>

#include "tiers/rocks/rocks_store.h"
#include "tools/quirectl/offline/fsck.h"
#include "tools/quirectl/offline/interrupt.h"

namespace quire::ctl {
namespace {

constexpr size_t kBatchChangesMax = 512;

// Hands out changes in batches of a limited size; each is written as one and synced.
class BatchWriter {
 public:
  explicit BatchWriter(tiers::MetadataStore& store) : store_(store) {}

  // changes(batch) adds one.
  template <typename Changes>
  Status add(const Changes& changes) {
    changes(batch_);
    return ++count_ < kBatchChangesMax ? Status::ok() : flush();
  }

  Status flush() {
    if (count_ == 0) return Status::ok();
    if (interrupted())
      return {StatusCode::kCancelled, "interrupted: a part is repaired, run it again for the rest"};
    QUIRE_RETURN_IF_ERROR(store_.write(batch_, true));
    batch_.clear();
    count_ = 0;
    return Status::ok();
  }

 private:
  tiers::MetadataStore& store_;
  tiers::MetadataBatch batch_;
  size_t count_ = 0;
};

Status write_plan(tiers::MetadataStore& store, const RepairPlan& plan) {
  using tiers::MetadataBatch;
  BatchWriter writer(store);
  for (const auto& entry : plan.put_tenants)
    QUIRE_RETURN_IF_ERROR(writer.add([&](MetadataBatch& b) { b.put_tenants.push_back(entry); }));
  for (const auto& entry : plan.put_models)
    QUIRE_RETURN_IF_ERROR(writer.add([&](MetadataBatch& b) { b.put_models.push_back(entry); }));
  for (const auto& entry : plan.put_states)
    QUIRE_RETURN_IF_ERROR(writer.add([&](MetadataBatch& b) { b.put_state.push_back(entry); }));
  for (const auto& entry : plan.put_tokens) {
    // Long texts: a batch of its own.
    QUIRE_RETURN_IF_ERROR(writer.add([&](MetadataBatch& b) { b.put_tokens.push_back(entry); }));
    QUIRE_RETURN_IF_ERROR(writer.flush());
  }
  for (const auto& entry : plan.put_records)
    QUIRE_RETURN_IF_ERROR(
        writer.add([&](MetadataBatch& b) { b.put_representations.push_back(entry); }));
  for (const Digest& id : plan.drop_records)
    QUIRE_RETURN_IF_ERROR(
        writer.add([&](MetadataBatch& b) { b.delete_representations.push_back(id); }));
  for (const Digest& id : plan.drop_blobs)
    QUIRE_RETURN_IF_ERROR(writer.add([&](MetadataBatch& b) { b.delete_blobs.push_back(id); }));
  return writer.flush();
}

}  // namespace

Status apply_repair(const std::string& data_directory, const RepairPlan& plan) {
  tiers::RocksOptions options;
  options.create_if_missing = false;
  QUIRE_ASSIGN_OR_RETURN(const auto store,
                         tiers::RocksStore::open(data_directory + "/meta", options));
  const Status written = write_plan(*store, plan);
  const Status closed = store->close();
  return written.is_ok() ? closed : written;
}

}  // namespace quire::ctl
