#include "codecs/representation.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/codecs/representation_fixture.h"

namespace quire {
namespace {

using testing::golden;
using testing::repair_checksum;
using testing::tiny_header;
using testing::tiny_model;
using testing::tiny_representation;

constexpr uint64_t kManifestHeaderBytes = 256;

template <typename T>
void poke(std::vector<std::byte>& bytes, uint64_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(value));
}

TEST(Representation, RoundTripsHeaderTokensAndSections) {
  RepresentationHeader header = tiny_header(CodecId::kInt8Channel, 300);
  header.context = VariantContext::dummy_sink({7, 8, 9}, 2);
  header.frame = PositionFrame::kPreRope;
  header.base_position = 4321;
  header.coverage.layer_begin = 1;
  fill_ids(header, {});
  const auto bytes = tiny_representation(header);
  const auto view = RepresentationView::parse(bytes);
  ASSERT_TRUE(view.is_ok()) << view.status().to_string();
  EXPECT_EQ(view->header().codec, header.codec);
  EXPECT_EQ(view->header().frame, header.frame);
  EXPECT_EQ(view->header().context, header.context);
  EXPECT_EQ(view->header().model, header.model);
  EXPECT_EQ(view->header().object, header.object);
  EXPECT_EQ(view->header().variant, header.variant);
  EXPECT_EQ(view->header().representation, header.representation);
  EXPECT_EQ(view->header().base_position, 4321u);
  EXPECT_EQ(view->header().coverage, header.coverage);
  EXPECT_EQ(view->header().tokens, header.tokens);
  EXPECT_EQ(view->sections().size(), 2u);
  EXPECT_EQ(view->total_bytes(), bytes.size());
  EXPECT_TRUE(view->verify_sections().is_ok());
  EXPECT_TRUE(view->verify_object({}).is_ok());
  EXPECT_EQ(view->verify_object(std::vector<std::byte>(16)).code(), StatusCode::kCorrupt);
  const auto section = view->section(1, Plane::kValue);
  ASSERT_TRUE(section.is_ok());
  EXPECT_EQ((section->data() - bytes.data()) % kSectionAlignment, 0);
  EXPECT_EQ(view->section(0, Plane::kKey).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(view->section(2, Plane::kKey).status().code(), StatusCode::kNotFound);
}

TEST(Representation, EqualsTheGoldenFiles) {
  for (const auto& [codec, name] :
       {std::pair{CodecId::kRawF16, "representation_raw_f16_v1.bin"},
        {CodecId::kInt8Channel, "representation_int8_channel_v1.bin"}}) {
    const auto bytes = tiny_representation(tiny_header(codec));
    const auto want = golden(name, bytes);
    ASSERT_EQ(bytes, want) << name
                           << ": the stored format changed (docs/formats/representation.md)";
    const auto view = RepresentationView::parse(want);
    ASSERT_TRUE(view.is_ok()) << view.status().to_string();
    EXPECT_TRUE(view->verify_sections().is_ok());
    EXPECT_TRUE(check_sections(*view, tiny_model()).is_ok());
  }
}

TEST(Representation, EveryTruncationAndExtensionIsRefused) {
  auto bytes = tiny_representation(tiny_header(CodecId::kRawF16));
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(RepresentationView::parse(ByteSpan(bytes).first(size)).is_ok()) << size;
  bytes.resize(bytes.size() + 64);
  EXPECT_FALSE(RepresentationView::parse(bytes).is_ok());
}

TEST(Representation, EveryByteFlipIsRefusedOrDetected) {
  for (const CodecId codec : {CodecId::kInt8Channel, CodecId::kRawF16}) {
    const auto bytes = tiny_representation(tiny_header(codec));
    for (size_t offset = 0; offset < bytes.size(); ++offset)
      for (const unsigned bit : {0u, 3u, 7u}) {
        auto damaged = bytes;
        damaged[offset] ^= static_cast<std::byte>(1u << bit);
        const auto view = RepresentationView::parse(damaged);
        if (!view.is_ok()) continue;
        EXPECT_EQ(view->verify_sections().code(), StatusCode::kCorrupt) << offset;
      }
  }
}

// With a right checksum: the fields themselves must be judged.
TEST(Representation, HostileFieldsAreRefusedUnderAValidChecksum) {
  const auto good = tiny_representation(tiny_header(CodecId::kRawF16));
  const auto refused = [&](const char* what, auto change, StatusCode code = StatusCode::kCorrupt) {
    auto bytes = good;
    change(bytes);
    repair_checksum(bytes);
    EXPECT_EQ(RepresentationView::parse(bytes).status().code(), code) << what;
  };
  refused("magic", [](auto& b) { poke(b, 0, uint8_t{'q'}); });
  refused(
      "version", [](auto& b) { poke(b, 8, uint16_t{2}); }, StatusCode::kVersionMismatch);
  refused("codec", [](auto& b) { poke(b, 10, uint16_t{0}); });
  refused("other codec: id", [](auto& b) { poke(b, 10, uint16_t{2}); });
  refused("frame", [](auto& b) { poke(b, 12, uint8_t{2}); });
  refused("reserved0", [](auto& b) { poke(b, 13, uint8_t{1}); });
  refused("flags", [](auto& b) { poke(b, 16, uint32_t{1}); });
  refused("manifest bytes", [](auto& b) { poke(b, 20, uint32_t{64}); });
  refused("manifest bytes", [](auto& b) { poke(b, 20, uint32_t{0xffffffc0}); });
  refused("total", [](auto& b) { poke(b, 24, uint64_t{1} << 40); });
  refused("base position", [](auto& b) { poke(b, 32, uint64_t{kPromptTokensMax} + 1); });
  refused("layer begin", [](auto& b) { poke(b, 40, uint32_t{2}); });
  refused("layer end", [](auto& b) { poke(b, 44, uint32_t{kLayersMax + 1}); });
  refused("more layers than sections", [](auto& b) { poke(b, 44, uint32_t{3}); });
  refused("head end", [](auto& b) { poke(b, 52, uint32_t{0}); });
  refused("head end", [](auto& b) { poke(b, 52, uint32_t{kHeadsMax + 1}); });
  refused("other heads: id", [](auto& b) { poke(b, 52, uint32_t{2}); });
  refused("tokens", [](auto& b) { poke(b, 56, uint32_t{0}); });
  refused("tokens", [](auto& b) { poke(b, 56, uint32_t{0xffffffff}); });
  refused("context bytes", [](auto& b) { poke(b, 60, uint32_t{0xffffffff}); });
  refused("context bytes", [](auto& b) { poke(b, 60, uint32_t{1}); });
  refused("sections", [](auto& b) { poke(b, 64, uint32_t{3}); });
  refused("reserved1", [](auto& b) { poke(b, 68, uint32_t{1}); });
  refused("object", [](auto& b) { poke(b, 104, uint8_t{1}); });
  refused("reserved2", [](auto& b) { poke(b, 255, uint8_t{1}); });
  refused("padding", [](auto& b) { poke(b, 0x1b7, uint8_t{1}); });
  const uint64_t entry = kManifestHeaderBytes + 32;  // layer 0, plane V
  refused("layer", [&](auto& b) { poke(b, entry, uint32_t{1}); });
  refused("plane", [&](auto& b) { poke(b, entry + 4, uint16_t{0}); });
  refused("reserved", [&](auto& b) { poke(b, entry + 6, uint16_t{1}); });
  refused("misaligned", [&](auto& b) { poke(b, entry + 8, uint64_t{513}); });
  refused("overlapping", [&](auto& b) {
    uint64_t first;
    std::memcpy(&first, b.data() + kManifestHeaderBytes + 8, 8);
    poke(b, entry + 8, first);
  });
  refused("in the manifest", [&](auto& b) { poke(b, kManifestHeaderBytes + 8, uint64_t{0}); });
  refused("too long", [&](auto& b) { poke(b, entry + 16, uint64_t{1} << 63); });
  refused("too long", [&](auto& b) { poke(b, entry + 16, ~uint64_t{0}); });
  refused("shorter", [&](auto& b) { poke(b, entry + 16 + 64, uint64_t{0}); });
}

TEST(Representation, PlanRefusesWhatTheParserWouldRefuse) {
  const RepresentationHeader good = tiny_header(CodecId::kRawF16);
  const std::vector<uint64_t> sizes(4, 24);
  EXPECT_TRUE(RepresentationWriter::plan(good, sizes).is_ok());
  const auto refused = [&](auto change) {
    RepresentationHeader header = good;
    change(header);
    return RepresentationWriter::plan(header, sizes).status().code();
  };
  const StatusCode invalid = StatusCode::kInvalidArgument;
  EXPECT_EQ(refused([](auto& h) { h.tokens.clear(); }), invalid);
  EXPECT_EQ(refused([](auto& h) { h.coverage.layer_end = 0; }), invalid);
  EXPECT_EQ(refused([](auto& h) { h.coverage.layer_end = 3; }), invalid);
  EXPECT_EQ(refused([](auto& h) { h.coverage.head_end = 0; }), invalid);
  EXPECT_EQ(refused([](auto& h) { h.base_position = kPromptTokensMax + 1; }), invalid);
  EXPECT_EQ(refused([](auto& h) { h.frame = PositionFrame::kPreRope; }), invalid) << "ids";
  EXPECT_EQ(refused([](auto& h) {
              h.context.kind = ContextKind::kSynthetic;
              h.context.neighbours.resize(kContextIdsMax + 1);
              fill_ids(h, {});
            }),
            invalid);
  const std::vector<uint64_t> huge(4, kRepresentationBytesMax / 3);
  EXPECT_EQ(RepresentationWriter::plan(good, huge).status().code(), StatusCode::kResourceExhausted);
  const std::vector<uint64_t> overflowing(4, ~uint64_t{0} - 100);
  EXPECT_EQ(RepresentationWriter::plan(good, overflowing).status().code(),
            StatusCode::kResourceExhausted);
}

TEST(Representation, FinishClearsWhateverTheBufferHeld) {
  const RepresentationHeader header = tiny_header(CodecId::kRawF16);
  const std::vector<uint64_t> sizes = {24, 24, 0, 24};  // a layer without keys
  const auto writer = RepresentationWriter::plan(header, sizes);
  ASSERT_TRUE(writer.is_ok());
  std::vector<std::byte> made[2];
  for (const int i : {0, 1}) {
    made[i].assign(writer->total_bytes(), static_cast<std::byte>(0x11 * (i + 1)));
    for (uint32_t layer = 0; layer < 2; ++layer)
      for (const Plane plane : {Plane::kKey, Plane::kValue})
        for (std::byte& value : writer->section(made[i], layer, plane)) value = std::byte{7};
    writer->finish(made[i]);
  }
  EXPECT_EQ(made[0], made[1]);
  const auto view = RepresentationView::parse(made[0]);
  ASSERT_TRUE(view.is_ok()) << view.status().to_string();
  EXPECT_TRUE(view->verify_sections().is_ok());
  EXPECT_EQ(view->section(1, Plane::kKey)->size(), 0u);
}

}  // namespace
}  // namespace quire
