// The copy of tenants, models and verdicts beside RocksDB. What parses can be written again to the
// same.
#include "base/hash.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/tiers/rocks/samples.h"
#include "tiers/rocks/registry_file.h"

namespace {

using quire::ByteSpan;
using quire::fuzz::expect;
namespace tiers = quire::tiers;

bool check(ByteSpan bytes) {
  const auto registry = tiers::parse_registry(bytes);
  if (!registry) return false;
  const auto encoded = tiers::encode_registry(*registry);
  expect(encoded.is_ok(), "a registry that was read can be written");
  const auto again = tiers::parse_registry(*encoded);
  expect(again.is_ok() && *again == *registry, "a registry survives being written again");
  return true;
}

// Length and checksum as the writer would have made them.
void repair(std::vector<std::byte>& bytes) {
  constexpr size_t kFileBytesOffset = 8;  // docs/formats/registry.md
  if (bytes.size() < 64) return;
  const uint64_t size = bytes.size();
  std::memcpy(bytes.data() + kFileBytesOffset, &size, sizeof(size));
  const uint64_t checksum = quire::xxh3_64(ByteSpan(bytes).first(bytes.size() - 8));
  std::memcpy(bytes.data() + bytes.size() - 8, &checksum, sizeof(checksum));
}

}  // namespace

QUIRE_FUZZ_SEEDS(registry) {
  tiers::Registry registry;
  registry.fingerprint_seed = 5;
  registry.store_id = {1, 2};
  quire::fuzz::Seeds seeds;
  seeds.emplace_back("empty", *tiers::encode_registry(registry));
  registry.tenants.emplace_back(7, tiers::sample_tenant());
  registry.models.emplace_back(tiers::sample_digest(1), tiers::sample_model());
  registry.states.emplace_back("verdict/80", std::vector<std::byte>{std::byte{4}});
  seeds.emplace_back("one_of_each", *tiers::encode_registry(registry));
  // As version 1 wrote it.
  seeds.emplace_back("version_1", quire::fuzz::golden_bytes("metadata_registry.bin"));
  return seeds;
}

QUIRE_FUZZ_TARGET(registry) {
  const bool accepted = check(input);
  std::vector<std::byte> repaired(input.begin(), input.end());
  repair(repaired);
  check(repaired);
  return accepted;
}
