#include "tiers/rocks/registry_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <set>
#include <span>

#include "tiers/rocks/durable_file.h"
#include "tiers/rocks/metadata_store.h"

namespace quire::tiers {
namespace {

struct RegistryHeader {
  uint32_t magic = kRegistryMagic;
  uint16_t version = kRegistryVersion;
  uint16_t reserved = 0;
  uint64_t file_bytes = 0;  // all of it
  uint64_t fingerprint_seed = 0;
  uint64_t store_id[2] = {};
  uint32_t n_tenants = 0;
  uint32_t n_models = 0;
};
static_assert(sizeof(RegistryHeader) == 48);

struct StatesHeader {  // behind the header, from version 2 on
  uint32_t n_states = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(StatesHeader) == 8);

struct TenantEntry {  // the record follows
  uint32_t tenant = 0;
  uint32_t record_bytes = 0;
};
static_assert(sizeof(TenantEntry) == 8);

struct ModelEntry {  // the record follows
  Digest model;
  uint32_t record_bytes = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(ModelEntry) == 40);

struct StateEntry {  // the key and the record follow
  uint32_t key_bytes = 0;
  uint32_t record_bytes = 0;
};
static_assert(sizeof(StateEntry) == 8);

constexpr uint64_t kTrailerBytes = sizeof(uint64_t);

Status corrupt(const std::string& what) {
  return {StatusCode::kCorrupt, "registry file: " + what};
}
Status invalid(const std::string& what) {
  return {StatusCode::kInvalidArgument, "registry: " + what};
}

Status validate(const Registry& registry) {
  if (registry.tenants.size() > kRegistryTenantsMax) return invalid("too many tenants");
  if (registry.models.size() > kRegistryModelsMax) return invalid("too many models");
  std::set<uint32_t> tenants;
  for (const auto& [number, record] : registry.tenants) {
    if (!tenants.insert(number).second) return invalid("a tenant is named twice");
    if (record.name.size() > kTenantNameBytesMax || record.salt.size() > kTenantSaltBytesMax)
      return invalid("a tenant's name or salt is too long");
    if (record.hard_bytes != 0 && record.soft_bytes > record.hard_bytes)
      return invalid("a tenant's soft_bytes is above its hard_bytes");
  }
  std::set<Digest> models;
  for (const auto& [id, record] : registry.models) {
    if (!models.insert(id).second) return invalid("a model is named twice");
    if (record.name.size() > kModelNameBytesMax ||
        record.descriptor.size() > kRecordBodyBytesMax / 2)
      return invalid("a model's name or descriptor is too long");
  }
  if (registry.states.size() > kRegistryStatesMax) return invalid("too many states");
  std::set<std::string_view> keys;
  for (const auto& [key, value] : registry.states) {
    if (!keys.insert(key).second) return invalid("a state is named twice");
    if (key.empty() || key.size() > kStateKeyBytesMax || value.size() > kRecordBodyBytesMax / 2)
      return invalid("a state's key or value has a wrong size");
  }
  return Status::ok();
}

Status parse_tenants(ByteReader& reader, uint32_t count, Registry& registry) {
  std::set<uint32_t> seen;
  for (uint32_t i = 0; i < count; ++i) {
    const auto entry = reader.read<TenantEntry>();
    const ByteSpan bytes = reader.read_bytes(entry.record_bytes);
    if (!reader.ok()) return corrupt("cut off");
    QUIRE_ASSIGN_OR_RETURN(TenantRecord record, parse_tenant_record(entry.tenant, bytes));
    if (!seen.insert(entry.tenant).second) return corrupt("a tenant is named twice");
    registry.tenants.emplace_back(entry.tenant, std::move(record));
  }
  return Status::ok();
}

Status parse_models(ByteReader& reader, uint32_t count, Registry& registry) {
  std::set<Digest> seen;
  for (uint32_t i = 0; i < count; ++i) {
    const auto entry = reader.read<ModelEntry>();
    const ByteSpan bytes = reader.read_bytes(entry.record_bytes);
    if (!reader.ok() || entry.reserved != 0) return corrupt("cut off");
    QUIRE_ASSIGN_OR_RETURN(ModelRecord record, parse_model_record(entry.model, bytes));
    if (!seen.insert(entry.model).second) return corrupt("a model is named twice");
    registry.models.emplace_back(entry.model, std::move(record));
  }
  return Status::ok();
}

Status parse_states(ByteReader& reader, uint32_t count, Registry& registry) {
  std::set<std::string> seen;
  for (uint32_t i = 0; i < count; ++i) {
    const auto entry = reader.read<StateEntry>();
    if (entry.key_bytes == 0 || entry.key_bytes > kStateKeyBytesMax)
      return corrupt("a state's key has a wrong size");
    const ByteSpan key_bytes = reader.read_bytes(entry.key_bytes);
    const ByteSpan bytes = reader.read_bytes(entry.record_bytes);
    if (!reader.ok()) return corrupt("cut off");
    std::string key(reinterpret_cast<const char*>(key_bytes.data()), key_bytes.size());
    QUIRE_ASSIGN_OR_RETURN(std::vector<std::byte> value, parse_state_record(key, bytes));
    if (!seen.insert(key).second) return corrupt("a state is named twice");
    registry.states.emplace_back(std::move(key), std::move(value));
  }
  return Status::ok();
}

}  // namespace

Expected<std::vector<std::byte>> encode_registry(const Registry& registry) {
  QUIRE_RETURN_IF_ERROR(validate(registry));
  RegistryHeader header;
  header.fingerprint_seed = registry.fingerprint_seed;
  std::memcpy(header.store_id, registry.store_id.data(), sizeof(header.store_id));
  header.n_tenants = static_cast<uint32_t>(registry.tenants.size());
  header.n_models = static_cast<uint32_t>(registry.models.size());
  ByteWriter writer;
  writer.write(header);
  writer.write(StatesHeader{.n_states = static_cast<uint32_t>(registry.states.size())});
  for (const auto& [number, record] : registry.tenants) {
    const std::vector<std::byte> bytes = encode_record(number, record);
    writer.write(TenantEntry{number, static_cast<uint32_t>(bytes.size())});
    writer.write_bytes(bytes);
  }
  for (const auto& [id, record] : registry.models) {
    const std::vector<std::byte> bytes = encode_record(id, record);
    writer.write(ModelEntry{id, static_cast<uint32_t>(bytes.size()), 0});
    writer.write_bytes(bytes);
    if (writer.size() > kRegistryBytesMax - kTrailerBytes) return invalid("too large");
  }
  for (const auto& [key, value] : registry.states) {
    const std::vector<std::byte> bytes = encode_state_record(key, value);
    writer.write(
        StateEntry{static_cast<uint32_t>(key.size()), static_cast<uint32_t>(bytes.size())});
    writer.write_text(key);
    writer.write_bytes(bytes);
    if (writer.size() > kRegistryBytesMax - kTrailerBytes) return invalid("too large");
  }
  std::vector<std::byte> file = writer.take();
  header.file_bytes = file.size() + kTrailerBytes;
  std::memcpy(file.data(), &header, sizeof(header));
  const uint64_t checksum = xxh3_64(file);
  const auto trailer = std::as_bytes(std::span(&checksum, 1));
  file.insert(file.end(), trailer.begin(), trailer.end());
  return file;
}

Expected<Registry> parse_registry(ByteSpan bytes) {
  ByteReader reader(bytes);
  const auto header = reader.read<RegistryHeader>();
  if (!reader.ok() || header.magic != kRegistryMagic) return corrupt("not a registry");
  if (header.version > kRegistryVersion)
    return Status(StatusCode::kVersionMismatch, "registry file: version " +
                                                    std::to_string(header.version) +
                                                    " is of a later Quire; use that one");
  if (header.version == 0 || header.reserved != 0) return corrupt("damaged header");
  if (header.file_bytes != bytes.size() || bytes.size() > kRegistryBytesMax ||
      bytes.size() < sizeof(header) + kTrailerBytes)
    return corrupt("wrong length");
  const ByteSpan summed = bytes.first(bytes.size() - kTrailerBytes);
  if (ByteReader(bytes.subspan(summed.size())).read<uint64_t>() != xxh3_64(summed))
    return corrupt("checksum does not match");
  if (header.n_tenants > kRegistryTenantsMax || header.n_models > kRegistryModelsMax)
    return corrupt("too many entries");
  Registry registry;
  registry.fingerprint_seed = header.fingerprint_seed;
  std::memcpy(registry.store_id.data(), header.store_id, sizeof(header.store_id));
  ByteReader entries(summed.subspan(sizeof(header)));
  StatesHeader states;
  if (header.version >= 2) states = entries.read<StatesHeader>();
  if (!entries.ok() || states.reserved != 0) return corrupt("damaged header");
  if (states.n_states > kRegistryStatesMax) return corrupt("too many entries");
  QUIRE_RETURN_IF_ERROR(parse_tenants(entries, header.n_tenants, registry));
  QUIRE_RETURN_IF_ERROR(parse_models(entries, header.n_models, registry));
  QUIRE_RETURN_IF_ERROR(parse_states(entries, states.n_states, registry));
  if (!entries.at_end()) return corrupt("wrong length");
  return registry;
}

Status write_registry(const std::string& path, const Registry& registry) {
  QUIRE_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, encode_registry(registry));
  return replace_file(path, path + ".tmp", bytes,
                      {"rocks_registry_written", "rocks_registry_renamed"});
}

Expected<Registry> read_registry(const std::string& path) {
  const ScopedFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.fd < 0) return errno_status(errno, "cannot open " + quoted(path));
  struct stat info;
  if (::fstat(file.fd, &info) != 0) return errno_status(errno, "cannot read " + quoted(path));
  if (!S_ISREG(info.st_mode) || info.st_size < 0 ||
      static_cast<uint64_t>(info.st_size) > kRegistryBytesMax)
    return corrupt(quoted(path) + " has a wrong size");
  std::vector<std::byte> bytes(static_cast<size_t>(info.st_size));
  size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t count = ::read(file.fd, bytes.data() + filled, bytes.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno_status(errno, "cannot read " + quoted(path));
    if (count == 0) break;  // somebody cut it: the parser says so
    filled += static_cast<size_t>(count);
  }
  bytes.resize(filled);
  Expected<Registry> registry = parse_registry(bytes);
  if (!registry)
    return Status(registry.status().code(), quoted(path) + ": " + registry.status().message());
  return registry;
}

}  // namespace quire::tiers
