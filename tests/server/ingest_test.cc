// Taking an object in part by part: the same verdict and the same bytes as in one piece, whatever
// the parts, the damage and the client's idea of its progress.
#include "server/store/ingest.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "tests/server/server_fixture.h"

namespace quire::server {
namespace {

bool nobody_waits() {
  return false;
}

class IngestTest : public testing::Test {
 protected:
  IngestTest() {
    auto models = std::make_shared<ModelTable>();
    models->emplace(model_id(model_), RegisteredModel{"test", model_, 0});
    models_ = std::move(models);
    use(make_object(model_, 1, 300));
  }

  void use(TestObject object, uint64_t reserved_bytes = 0) {
    object_ = std::move(object);
    source_ = object_.bytes;
    source_.resize(std::max<uint64_t>(reserved_bytes, source_.size()));
    target_.assign(source_.size(), std::byte{0xee});
    progress_ = {};
  }

  Ingest make() {
    return Ingest({source_, target_, &progress_, object_.id, std::make_shared<TenantSalt>()});
  }

  Expected<RepresentationHeader> finish(Ingest& ingest) {
    return ingest.finish({object_.bytes.size(), xxh3_128(object_.bytes), models_});
  }

  // What one pass over the finished copy says of these bytes.
  Expected<RepresentationHeader> judge_whole() {
    Ingest ingest = make();
    return ingest.finish(
        {object_.bytes.size(), xxh3_128(ByteSpan(source_).first(object_.bytes.size())), models_});
  }

  ModelDescriptor model_ = test_model();
  std::shared_ptr<const ModelTable> models_;
  TestObject object_;
  std::vector<std::byte> source_;
  std::vector<std::byte> target_;
  wire::FillProgress progress_;
};

TEST_F(IngestTest, AnyPartsGiveTheSameCopyAndVerdict) {
  const uint64_t seed = 31;
  SCOPED_TRACE("seed " + std::to_string(seed) +
               ", replay: server_ingest_test --gtest_filter=*AnyParts*");
  std::mt19937_64 random(seed);
  for (int round = 0; round < 150; ++round) {
    use(make_object(model_, random(), 1 + random() % 400));
    Ingest ingest = make();
    // Bytes beyond what the client is said to have written are not there yet.
    std::vector<std::byte> late = source_;
    std::fill(source_.begin(), source_.end(), std::byte{0x77});
    const size_t step = 1 + random() % (round % 3 == 0 ? 50 : 60'000);
    for (uint64_t at = 0; at < late.size();) {
      const uint64_t part = std::min<uint64_t>(late.size() - at, 1 + random() % step);
      std::memcpy(source_.data() + at, late.data() + at, part);
      at += part;
      if (random() % 4 == 0) break;
      if (random() % 2 == 0) {
        ingest.announce(at);
      } else {
        progress_.filled_bytes = at;
      }
      ingest.follow(0, nobody_waits);
      ASSERT_EQ(ingest.copied_bytes(), at);
      ASSERT_EQ(progress_.send_fill, 1u);
    }
    source_ = late;
    const auto header = finish(ingest);
    ASSERT_TRUE(header.is_ok()) << header.status().to_string();
    ASSERT_EQ(header->representation, object_.id);
    ASSERT_EQ(header->tokens, object_.tokens);
    ASSERT_EQ(target_, object_.bytes);
  }
}

// The checksum fits the damaged bytes, so that the manifest, its ids and each section must tell.
TEST_F(IngestTest, DamageAnywhereIsFoundAsInOnePass) {
  const uint64_t seed = 32;
  SCOPED_TRACE("seed " + std::to_string(seed) +
               ", replay: server_ingest_test --gtest_filter=*Damage*");
  std::mt19937_64 random(seed);
  const TestObject sound = make_object(model_, 5, 33);  // sections of 2,112 bytes, each padded
  for (int round = 0; round < 600; ++round) {
    use(sound);
    const uint64_t at = round < 400 ? random() % 700 : random() % source_.size();
    source_[at] ^= static_cast<std::byte>(1u << random() % 8);
    const auto whole = judge_whole();
    ASSERT_FALSE(whole.is_ok()) << "byte " << at;
    Ingest ingest = make();
    for (uint64_t filled = 0; filled < source_.size(); filled += 1 + random() % 3000) {
      ingest.announce(filled);
      ingest.follow(0, nobody_waits);
    }
    const auto parts = ingest.finish({source_.size(), xxh3_128(source_), models_});
    ASSERT_FALSE(parts.is_ok()) << "byte " << at;
    ASSERT_EQ(parts.status().code(), whole.status().code()) << "byte " << at;
    ASSERT_EQ(parts.status().message(), whole.status().message()) << "byte " << at;
  }
}

// Sections that do not fit what the manifest says of them, over a checksum that fits: only the
// sections' own checksums can tell, also after the stream has gone past them.
TEST_F(IngestTest, ASwappedSectionIsFound) {
  use(make_object(model_, 6, 512));
  std::swap(source_[source_.size() - 70], source_[source_.size() - 7'000]);
  source_[source_.size() - 70] ^= std::byte{1};
  Ingest ingest = make();
  ingest.announce(source_.size());
  ingest.follow(0, nobody_waits);
  EXPECT_EQ(ingest.finish({source_.size(), xxh3_128(source_), models_}).status().code(),
            StatusCode::kCorrupt);
}

TEST_F(IngestTest, WhatChangesAfterItWasCopiedIsNotSeen) {
  Ingest ingest = make();
  ingest.announce(source_.size() / 2);
  ingest.follow(0, nobody_waits);
  std::fill(source_.begin(), source_.begin() + static_cast<int64_t>(source_.size() / 2),
            std::byte{0});
  EXPECT_TRUE(finish(ingest).is_ok());
  EXPECT_EQ(target_, object_.bytes);
}

TEST_F(IngestTest, WhatChangesBeforeItIsCopiedIsCorrupt) {
  Ingest ingest = make();
  ingest.announce(source_.size() / 2);
  ingest.follow(0, nobody_waits);
  source_[source_.size() / 2] ^= std::byte{1};
  EXPECT_EQ(finish(ingest).status().code(), StatusCode::kCorrupt);
}

TEST_F(IngestTest, FewerBytesThanReserved) {
  use(make_object(model_, 7, 100), 300'000);
  Ingest ingest = make();
  ingest.announce(object_.bytes.size() / 3);
  ingest.follow(0, nobody_waits);
  const auto header = finish(ingest);
  ASSERT_TRUE(header.is_ok()) << header.status().to_string();
  EXPECT_TRUE(std::equal(object_.bytes.begin(), object_.bytes.end(), target_.begin()));

  use(make_object(model_, 7, 100), 300'000);
  Ingest beyond = make();
  beyond.announce(object_.bytes.size() + 1);
  beyond.follow(0, nobody_waits);
  EXPECT_EQ(finish(beyond).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(IngestTest, ProgressThatLiesIsHarmless) {
  Ingest ingest = make();
  progress_.filled_bytes = 1000;
  ingest.follow(0, nobody_waits);
  EXPECT_EQ(ingest.copied_bytes(), 1000u);
  progress_.filled_bytes = 10;  // back
  ingest.follow(0, nobody_waits);
  EXPECT_EQ(ingest.copied_bytes(), 1000u);
  progress_.filled_bytes = UINT64_MAX;  // beyond
  ingest.follow(0, nobody_waits);
  EXPECT_EQ(ingest.copied_bytes(), source_.size());
  EXPECT_TRUE(finish(ingest).is_ok());
}

// A client that adds a byte at a time gets one turn while others wait.
TEST_F(IngestTest, OthersComeFirst) {
  Ingest ingest = make();
  progress_.filled_bytes = 1;
  int asked = 0;
  ingest.follow(1'000'000'000, [&] {
    ++asked;
    ++progress_.filled_bytes;
    return true;
  });
  EXPECT_EQ(asked, 1);
  EXPECT_EQ(ingest.copied_bytes(), 1u);
  EXPECT_EQ(progress_.send_fill, 1u);
}

TEST_F(IngestTest, ModelsAreThoseOfTheCommit) {
  Ingest ingest = make();
  ingest.announce(source_.size());
  ingest.follow(0, nobody_waits);
  const IngestCommit commit{source_.size(), xxh3_128(source_), std::make_shared<ModelTable>()};
  EXPECT_EQ(ingest.finish(commit).status().code(), StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace quire::server
