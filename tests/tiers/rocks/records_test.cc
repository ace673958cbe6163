#include "tiers/rocks/records.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>

#include "tests/tiers/rocks/samples.h"

namespace quire::tiers {
namespace {

using Bytes = std::vector<std::byte>;

const Digest kKey = sample_digest(1);
constexpr uint32_t kTenant = 7;
constexpr std::string_view kStateKey = "warm/cursor";

struct Kind {
  const char* file;
  Bytes encoded;
  std::function<Status(ByteSpan)> parse;            // under its own key
  std::function<Status(ByteSpan)> parse_other_key;  // under another
};

std::vector<Kind> all_kinds() {
  const Digest other = sample_digest(2);
  const Bytes value = {std::byte{0xde}, std::byte{0xad}};
  return {
      {"metadata_representation_v3.bin", encode_record(kKey, sample_representation()),
       [](ByteSpan bytes) { return parse_representation_record(kKey, bytes).status(); },
       [=](ByteSpan bytes) { return parse_representation_record(other, bytes).status(); }},
      {"metadata_tokens.bin", encode_record(kKey, sample_tokens()),
       [](ByteSpan bytes) { return parse_tokens_record(kKey, bytes).status(); },
       [=](ByteSpan bytes) { return parse_tokens_record(other, bytes).status(); }},
      {"metadata_model.bin", encode_record(kKey, sample_model()),
       [](ByteSpan bytes) { return parse_model_record(kKey, bytes).status(); },
       [=](ByteSpan bytes) { return parse_model_record(other, bytes).status(); }},
      {"metadata_tenant_v2.bin", encode_record(kTenant, sample_tenant()),
       [](ByteSpan bytes) { return parse_tenant_record(kTenant, bytes).status(); },
       [](ByteSpan bytes) { return parse_tenant_record(kTenant + 1, bytes).status(); }},
      {"metadata_state.bin", encode_state_record(kStateKey, value),
       [](ByteSpan bytes) { return parse_state_record(kStateKey, bytes).status(); },
       [](ByteSpan bytes) { return parse_state_record("other", bytes).status(); }},
  };
}

// As an attacker would: a change with a checksum that fits.
void reseal(Bytes& record, ByteSpan key) {
  const uint64_t sum = xxh3_64(ByteSpan(record).first(record.size() - 8), xxh3_64(key));
  std::memcpy(record.data() + record.size() - 8, &sum, 8);
}

ByteSpan key_bytes(const Digest& key) {
  return std::as_bytes(std::span(key.bytes));
}

TEST(Records, RoundTrip) {
  RepresentationRecord representation = sample_representation();
  EXPECT_EQ(*parse_representation_record(kKey, encode_record(kKey, representation)),
            representation);
  representation.location = PayloadLocation::kRocks;
  representation.nvme = {};
  representation.context = VariantContext::dummy_sink({1, 2, 3}, 2);
  representation.pinned_until_wall_ms = kPinnedForever;
  EXPECT_EQ(*parse_representation_record(kKey, encode_record(kKey, representation)),
            representation);
  EXPECT_EQ(*parse_tokens_record(kKey, encode_record(kKey, sample_tokens())), sample_tokens());
  EXPECT_EQ(*parse_model_record(kKey, encode_record(kKey, sample_model())), sample_model());
  EXPECT_EQ(*parse_tenant_record(kTenant, encode_record(kTenant, sample_tenant())),
            sample_tenant());
  EXPECT_TRUE(parse_state_record(kStateKey, encode_state_record(kStateKey, {}))->empty());
}

TEST(Records, RandomRepresentationsRoundTrip) {
  constexpr uint64_t kSeed = 5;
  std::mt19937_64 random(kSeed);
  for (int i = 0; i < 500; ++i) {
    RepresentationRecord record = sample_representation();
    record.n_tokens = 1 + random() % kChunkTokensMax;
    record.bytes = random();
    record.nvme = {static_cast<uint32_t>(random()), random(), random(), record.bytes, random()};
    record.base_position = random();
    record.hits = random();
    record.checksum = {random(), random()};
    record.coverage = {static_cast<uint32_t>(random()), static_cast<uint32_t>(random()),
                       static_cast<uint32_t>(random()), static_cast<uint32_t>(random())};
    record.tokens_fingerprint = random();
    record.first_fingerprint = static_cast<uint32_t>(random());
    record.level_fingerprint = static_cast<uint32_t>(random());
    record.last_used_wall_ms = random();
    record.priority = static_cast<uint8_t>(random());
    record.strikes = static_cast<uint8_t>(random());
    record.deviation = static_cast<float>(random() % 1000) / 64;
    const auto parsed = parse_representation_record(kKey, encode_record(kKey, record));
    ASSERT_TRUE(parsed) << "seed " << kSeed << ", record " << i;
    ASSERT_EQ(*parsed, record);
  }
}

TEST(Records, EveryTruncationIsRefused) {
  for (const Kind& kind : all_kinds()) {
    ASSERT_TRUE(kind.parse(kind.encoded)) << kind.file;
    for (size_t size = 0; size < kind.encoded.size(); ++size)
      ASSERT_EQ(kind.parse(ByteSpan(kind.encoded).first(size)).code(), StatusCode::kCorrupt)
          << kind.file << " cut to " << size;
    Bytes longer = kind.encoded;
    longer.push_back(std::byte{0});
    EXPECT_EQ(kind.parse(longer).code(), StatusCode::kCorrupt) << kind.file;
  }
}

TEST(Records, EveryBitFlipIsRefused) {
  for (const Kind& kind : all_kinds()) {
    for (size_t bit = 0; bit < kind.encoded.size() * 8; ++bit) {
      Bytes flipped = kind.encoded;
      flipped[bit / 8] ^= std::byte(1u << bit % 8);
      const StatusCode code = kind.parse(flipped).code();
      // A flip in the version field reads as a later version.
      const bool in_version = bit / 8 == 6 || bit / 8 == 7;
      ASSERT_TRUE(code == StatusCode::kCorrupt ||
                  (in_version && code == StatusCode::kVersionMismatch))
          << kind.file << " bit " << bit;
    }
  }
}

TEST(Records, ARecordUnderAnotherKeyIsRefused) {
  for (const Kind& kind : all_kinds())
    EXPECT_EQ(kind.parse_other_key(kind.encoded).code(), StatusCode::kCorrupt) << kind.file;
}

TEST(Records, LaterVersionsAreRefusedAsSuch) {
  for (const Kind& kind : all_kinds()) {
    Bytes later = kind.encoded;
    later[6] = std::byte(std::to_integer<int>(later[6]) + 1);
    const Status status = kind.parse(later);
    EXPECT_EQ(status.code(), StatusCode::kVersionMismatch) << kind.file;
    EXPECT_NE(status.message().find("later Quire"), std::string::npos);
  }
}

TEST(Records, WrongFieldsBehindAGoodChecksumAreRefused) {
  const Bytes good = encode_record(kKey, sample_representation());
  const auto change = [&](size_t offset, uint8_t value) {
    Bytes bad = good;
    bad[sizeof(RecordHeader) + offset] = std::byte{value};
    reseal(bad, key_bytes(kKey));
    return parse_representation_record(kKey, bad).status().code();
  };
  EXPECT_EQ(change(216, 4), StatusCode::kOk) << "hits may be anything";
  EXPECT_EQ(change(106, 2), StatusCode::kCorrupt) << "frame";
  EXPECT_EQ(change(107, 3), StatusCode::kCorrupt) << "location";
  EXPECT_EQ(change(107, 2), StatusCode::kCorrupt) << "NVMe place of a payload that is elsewhere";
  EXPECT_EQ(change(108, 1), StatusCode::kCorrupt) << "context length";
  EXPECT_EQ(change(111, 0xff), StatusCode::kCorrupt) << "huge context length";
  EXPECT_EQ(change(102, 0xff), StatusCode::kCorrupt) << "token count";
  EXPECT_EQ(change(164, 1), StatusCode::kCorrupt) << "reserved";
  EXPECT_EQ(change(184, 1), StatusCode::kCorrupt) << "payload bytes";
  EXPECT_EQ(change(248, 7), StatusCode::kOk) << "priority may be anything";
  EXPECT_EQ(change(249, 255), StatusCode::kOk) << "strikes may be anything";
  for (size_t offset = 250; offset < 252; ++offset)
    EXPECT_EQ(change(offset, 1), StatusCode::kCorrupt) << "reserved " << offset;
  EXPECT_EQ(change(254, 0), StatusCode::kOk) << "another deviation";
  EXPECT_EQ(change(255, 0xbe), StatusCode::kCorrupt) << "a negative deviation";
  EXPECT_EQ(change(255, 0x7f), StatusCode::kCorrupt) << "a deviation that is not finite";
  EXPECT_EQ(change(256, 9), StatusCode::kCorrupt) << "context kind";

  Bytes tokens = encode_record(kKey, sample_tokens());
  tokens[sizeof(RecordHeader)] = std::byte{4};
  reseal(tokens, key_bytes(kKey));
  EXPECT_EQ(parse_tokens_record(kKey, tokens).status().code(), StatusCode::kCorrupt);
  Bytes tenant = encode_record(kTenant, sample_tenant());
  tenant[sizeof(RecordHeader) + 15] = std::byte{1};
  reseal(tenant, std::as_bytes(std::span(&kTenant, 1)));
  EXPECT_EQ(parse_tenant_record(kTenant, tenant).status().code(), StatusCode::kCorrupt)
      << "a share above the limit";
  Bytes model = encode_record(kKey, sample_model());
  model[sizeof(RecordHeader) + 11] = std::byte{0xff};
  reseal(model, key_bytes(kKey));
  EXPECT_EQ(parse_model_record(kKey, model).status().code(), StatusCode::kCorrupt);
}

Bytes read_golden(const std::string& name) {
  std::ifstream file(std::string(QUIRE_SOURCE_DIR) + "/tests/data/" + name, std::ios::binary);
  EXPECT_TRUE(file) << name;
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

// Set QUIRE_WRITE_GOLDEN=1 to write them anew, after a deliberate change of version.
TEST(Records, GoldenFiles) {
  for (const Kind& kind : all_kinds()) {
    if (std::getenv("QUIRE_WRITE_GOLDEN") != nullptr)
      std::ofstream(std::string(QUIRE_SOURCE_DIR) + "/tests/data/" + kind.file, std::ios::binary)
          .write(reinterpret_cast<const char*>(kind.encoded.data()),
                 static_cast<std::streamsize>(kind.encoded.size()));
    const Bytes golden = read_golden(kind.file);
    EXPECT_EQ(golden, kind.encoded) << kind.file << ": the format changed without a new version";
    EXPECT_TRUE(kind.parse(golden)) << kind.file;
  }
}

TEST(Records, GoldenFilesOfVersionTwoAreRead) {
  const Bytes good = read_golden("metadata_representation_v2.bin");
  EXPECT_EQ(*parse_representation_record(kKey, good), sample_representation_v2());
  // What version 3 put there was reserved.
  for (size_t offset = 249; offset < 256; ++offset) {
    Bytes bad = good;
    bad[sizeof(RecordHeader) + offset] = std::byte{1};
    reseal(bad, key_bytes(kKey));
    EXPECT_EQ(parse_representation_record(kKey, bad).status().code(), StatusCode::kCorrupt)
        << offset;
  }
}

// Written by the programs of their time; nothing here can write them.
TEST(Records, GoldenFilesOfVersionOneAreRead) {
  EXPECT_EQ(*parse_representation_record(kKey, read_golden("metadata_representation.bin")),
            sample_representation_v1());
  EXPECT_EQ(*parse_object_record(kKey, read_golden("metadata_object.bin")), sample_object());
  EXPECT_EQ(*parse_tenant_record(kTenant, read_golden("metadata_tenant.bin")), sample_tenant_v1());
}

TEST(Records, DamagedRecordsOfVersionOneAreRefused) {
  const Bytes representation = read_golden("metadata_representation.bin");
  const Bytes object = read_golden("metadata_object.bin");
  const Bytes tenant = read_golden("metadata_tenant.bin");
  const auto parses = [](const Bytes& bytes) {
    return parse_representation_record(kKey, bytes).is_ok() ||
           parse_object_record(kKey, bytes).is_ok() || parse_tenant_record(kTenant, bytes).is_ok();
  };
  for (const Bytes& good : {representation, object, tenant}) {
    ASSERT_TRUE(parses(good));
    for (size_t size = 0; size < good.size(); ++size)
      ASSERT_FALSE(parses({good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)}));
    for (size_t bit = 0; bit < good.size() * 8; ++bit) {
      Bytes flipped = good;
      flipped[bit / 8] ^= std::byte(1u << bit % 8);
      ASSERT_FALSE(parses(flipped)) << "bit " << bit;
    }
  }
  // The body of version 1 under the number of version 2 is too short for it.
  Bytes relabelled = representation;
  relabelled[6] = std::byte{2};
  reseal(relabelled, key_bytes(kKey));
  EXPECT_EQ(parse_representation_record(kKey, relabelled).status().code(), StatusCode::kCorrupt);
}

}  // namespace
}  // namespace quire::tiers
