// The entries in memory, by number and by eviction handle. Reactor thread only.
#ifndef QUIRE_SERVER_STORE_LIVE_OBJECTS_H_
#define QUIRE_SERVER_STORE_LIVE_OBJECTS_H_

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "server/store/object.h"

namespace quire::server {

class LiveObjects {
 public:
  // What eviction policies know an object by: the same each time it is stored.
  static uint64_t handle_of(const Digest& id);

  ObjectEntry& create(const Digest& id);
  // The entry must have no leases and no slot.
  void destroy(ObjectEntry& entry);
  ObjectEntry& operator[](uint32_t number) { return *entries_[number]; }
  const ObjectEntry& operator[](uint32_t number) const { return *entries_[number]; }
  // nullptr where that incarnation is gone.
  ObjectEntry* find(const EntryRef& ref);
  // Gives the entry a handle of its own: handle_of() its id, or the next one that is free.
  void take_handle(ObjectEntry& entry);
  void clear_handle(const ObjectEntry& entry) { by_handle_.erase(entry.handle); }
  // The entry that the policies hold under this handle.
  ObjectEntry* find_handle(uint64_t handle);
  uint32_t size() const { return static_cast<uint32_t>(entries_.size() - unused_.size()); }
  // Visits all; visit() must not create or destroy.
  template <typename Visit>
  void for_each(Visit&& visit) {
    for (const auto& entry : entries_) {
      if (entry != nullptr) visit(*entry);
    }
  }

 private:
  std::vector<std::unique_ptr<ObjectEntry>> entries_;
  std::vector<uint32_t> unused_;
  std::unordered_map<uint64_t, uint32_t> by_handle_;
  uint64_t next_incarnation_ = 1;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_LIVE_OBJECTS_H_
