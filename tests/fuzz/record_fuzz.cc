// Records of the metadata store, every kind. The first byte of an input chooses the kind. What
// parses must parse again from its own encoding to the same record.
#include "base/hash.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/tiers/rocks/samples.h"
#include "tiers/rocks/records.h"

namespace {

using quire::ByteSpan;
using quire::fuzz::expect;
namespace tiers = quire::tiers;

const quire::Digest kId = tiers::sample_digest(1);
constexpr uint32_t kTenant = 7;
constexpr std::string_view kStateKey = "checkpoint";

struct Kind {
  const char* name;
  ByteSpan key;
  bool (*check)(ByteSpan bytes);
  std::vector<std::byte> (*sample)();
};

template <typename Parse, typename Encode>
bool round_trip(ByteSpan bytes, Parse parse, Encode encode) {
  const auto record = parse(bytes);
  if (!record) return false;
  const auto again = parse(encode(*record));
  expect(again.is_ok() && *again == *record, "a record survives being written again");
  return true;
}

template <auto parse, typename Key, const Key& key>
bool check_record(ByteSpan bytes) {
  return round_trip(
      bytes, [](ByteSpan given) { return parse(key, given); },
      [](const auto& record) { return tiers::encode_record(key, record); });
}

bool check_state(ByteSpan bytes) {
  return round_trip(
      bytes, [](ByteSpan given) { return tiers::parse_state_record(kStateKey, given); },
      [](const auto& value) { return tiers::encode_state_record(kStateKey, value); });
}

template <typename T>
ByteSpan key_bytes(const T& key) {
  return std::as_bytes(std::span(&key, 1));
}

// A new kind is one line here.
const std::vector<Kind>& kinds() {
  using quire::Digest;
  static const std::vector<Kind> all = {
      {"representation", key_bytes(kId.bytes),
       check_record<tiers::parse_representation_record, Digest, kId>,
       [] { return tiers::encode_record(kId, tiers::sample_representation()); }},
      {"tokens", key_bytes(kId.bytes), check_record<tiers::parse_tokens_record, Digest, kId>,
       [] { return tiers::encode_record(kId, tiers::sample_tokens()); }},
      {"model", key_bytes(kId.bytes), check_record<tiers::parse_model_record, Digest, kId>,
       [] { return tiers::encode_record(kId, tiers::sample_model()); }},
      {"tenant", key_bytes(kTenant), check_record<tiers::parse_tenant_record, uint32_t, kTenant>,
       [] { return tiers::encode_record(kTenant, tiers::sample_tenant()); }},
      {"state", std::as_bytes(std::span(kStateKey)), check_state,
       [] { return tiers::encode_state_record(kStateKey, quire::fuzz::bytes_of_text("value")); }},
  };
  return all;
}

// Lengths and the checksum as the record's writer would have made them.
void repair(std::vector<std::byte>& bytes, ByteSpan key) {
  tiers::RecordHeader header;
  if (bytes.size() < sizeof(header) + sizeof(uint64_t)) return;
  std::memcpy(&header, bytes.data(), sizeof(header));
  header.magic = tiers::kRecordMagic;
  header.body_bytes = static_cast<uint32_t>(bytes.size() - sizeof(header) - sizeof(uint64_t));
  std::memcpy(bytes.data(), &header, sizeof(header));
  const uint64_t checksum =
      quire::xxh3_64(ByteSpan(bytes).first(bytes.size() - 8), quire::xxh3_64(key));
  std::memcpy(bytes.data() + bytes.size() - 8, &checksum, 8);
}

}  // namespace

QUIRE_FUZZ_SEEDS(record) {
  quire::fuzz::Seeds seeds;
  for (size_t i = 0; i < kinds().size(); ++i) {
    std::vector<std::byte> bytes = kinds()[i].sample();
    bytes.insert(bytes.begin(), static_cast<std::byte>(i));
    seeds.emplace_back(kinds()[i].name, std::move(bytes));
  }
  return seeds;
}

QUIRE_FUZZ_TARGET(record) {
  if (input.empty()) return false;
  const Kind& kind = kinds()[static_cast<size_t>(input[0]) % kinds().size()];
  const ByteSpan bytes = input.subspan(1);
  const bool accepted = kind.check(bytes);
  std::vector<std::byte> repaired(bytes.begin(), bytes.end());
  repair(repaired, kind.key);
  kind.check(repaired);
  return accepted;
}
