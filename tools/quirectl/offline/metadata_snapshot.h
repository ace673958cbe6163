// The metadata store opened without changing it: RocksDB replays its log and writes when it opens a
// database, so a copy is opened. Its tables and blobs are links to the real files, which RocksDB
// never changes once written; its log and manifest, which are small, are copied.
#ifndef QUIRE_TOOLS_QUIRECTL_OFFLINE_METADATA_SNAPSHOT_H_
#define QUIRE_TOOLS_QUIRECTL_OFFLINE_METADATA_SNAPSHOT_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "tiers/rocks/metadata_store.h"

namespace quire::ctl {

class MetadataSnapshot {
 public:
  // directory: <data>/meta, of which the caller holds the locks. Errors: those of RocksStore::open
  // with create_if_missing off, and kIoError, kNoSpace of the temporary directory ($TMPDIR).
  static Expected<MetadataSnapshot> open(const std::string& directory);
  MetadataSnapshot(MetadataSnapshot&&) noexcept = default;
  ~MetadataSnapshot();

  const tiers::MetadataStore& store() const { return *store_; }

 private:
  explicit MetadataSnapshot(std::string path) : path_(std::make_unique<std::string>(path)) {}

  std::unique_ptr<std::string> path_;  // null where it was moved from
  std::unique_ptr<tiers::MetadataStore> store_;
};

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_OFFLINE_METADATA_SNAPSHOT_H_
