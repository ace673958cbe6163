#include "tests/sim/sim_metadata.h"

#include <cstdlib>
#include <utility>

namespace quire::sim {

void SimMetadata::apply(const Batch& batch) {
  tiers::MetadataBatch rows;
  for (const auto& [version, location] : batch.puts) {
    tiers::RepresentationRecord record;
    record.location = tiers::PayloadLocation::kNvme;
    record.n_tokens = 1;
    record.bytes = version.bytes;
    record.checksum = version.checksum;
    record.nvme = {location.segment, location.generation, location.offset, location.payload_bytes,
                   location.sequence};
    rows.put_representations.emplace_back(make_key(version.key), record);
  }
  for (const uint32_t key : batch.deletes) rows.delete_representations.push_back(make_key(key));
  if (!store_.write(rows, true).is_ok()) std::abort();  // memory does not fail
}

void SimMetadata::write(const Batch& batch, bool sync) {
  unsynced_.push_back(batch);
  if (!sync) return;
  for (const Batch& waiting : std::exchange(unsynced_, {})) apply(waiting);
}

void SimMetadata::crash(bool power_cut, SeededRandom& random) {
  if (power_cut) unsynced_.resize(random.below(unsynced_.size() + 1));
  for (const Batch& survivor : std::exchange(unsynced_, {})) apply(survivor);
  store_.reopen();
}

std::map<uint32_t, SimMetadata::Row> SimMetadata::records() const {
  std::map<uint32_t, Row> rows;
  const auto report =
      store_.scan_representations([&](const Digest& key, tiers::RepresentationRecord&& record) {
        rows[key_number(key)] = {record.bytes, record.checksum};
        return true;
      });
  if (!report.is_ok() || report->corrupt != 0) std::abort();
  return rows;
}

}  // namespace quire::sim
