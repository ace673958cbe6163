// The database of a store without the store: what RocksDB alone does with the same options and the
// same files. The floor of quire-bench; no checks, no records.
#ifndef QUIRE_TIERS_ROCKS_BARE_DATABASE_H_
#define QUIRE_TIERS_ROCKS_BARE_DATABASE_H_

#include <memory>
#include <span>
#include <string>

#include "tiers/rocks/rocks_store.h"

namespace quire::tiers {

class BareDatabase {
 public:
  // A store's directory; nobody else may have it open.
  static Expected<std::unique_ptr<BareDatabase>> open(const std::string& directory,
                                                      const RocksOptions& options = {});
  ~BareDatabase();

  // Gets the payload and gives it back: its bytes.
  Expected<uint64_t> get_blob(const Digest& id) const;
  // Walks all representations: how many.
  Expected<uint64_t> scan_representations() const;
  // Looks up records and tokens together: how many of either were found.
  Expected<uint64_t> get_details(std::span<const Digest> ids) const;

 private:
  struct State;
  explicit BareDatabase(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_ROCKS_BARE_DATABASE_H_
