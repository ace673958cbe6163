#include "server/store/live_objects.h"

#include <cassert>
#include <cstring>

namespace quire::server {

uint64_t LiveObjects::handle_of(const Digest& id) {
  uint64_t handle;
  std::memcpy(&handle, id.bytes.data(), sizeof(handle));
  return handle;
}

ObjectEntry& LiveObjects::create(const Digest& id) {
  uint32_t number;
  if (unused_.empty()) {
    number = static_cast<uint32_t>(entries_.size());
    entries_.emplace_back();
  } else {
    number = unused_.back();
    unused_.pop_back();
  }
  entries_[number] = std::make_unique<ObjectEntry>();
  ObjectEntry& entry = *entries_[number];
  entry.id = id;
  entry.number = number;
  entry.incarnation = next_incarnation_++;
  return entry;
}

void LiveObjects::destroy(ObjectEntry& entry) {
  assert(entry.leases == 0 && !entry.slot && !entry.gpu.slot && !entry.in_policy);
  const uint32_t number = entry.number;
  entries_[number].reset();
  unused_.push_back(number);
}

ObjectEntry* LiveObjects::find(const EntryRef& ref) {
  if (ref.number >= entries_.size()) return nullptr;
  ObjectEntry* entry = entries_[ref.number].get();
  return entry != nullptr && entry->incarnation == ref.incarnation ? entry : nullptr;
}

void LiveObjects::take_handle(ObjectEntry& entry) {
  entry.handle = handle_of(entry.id);
  while (!by_handle_.emplace(entry.handle, entry.number).second) ++entry.handle;
}

ObjectEntry* LiveObjects::find_handle(uint64_t handle) {
  const auto found = by_handle_.find(handle);
  return found == by_handle_.end() ? nullptr : entries_[found->second].get();
}

}  // namespace quire::server
