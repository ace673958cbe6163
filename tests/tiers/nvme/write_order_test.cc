// The order of writes and syncs that docs/formats/segment.md promises, seen from the device.
#include <algorithm>
#include <map>

#include "tests/tiers/nvme/scripted_device.h"
#include "tests/tiers/nvme/tier_harness.h"
#include "tiers/nvme/segment_format.h"

namespace quire {
namespace {

using Kind = ScriptedDevice::Kind;
using Event = ScriptedDevice::Event;
constexpr uint64_t kBase = 1 << 20;

uint64_t place_of(const NvmeLocation& at) {
  return kBase + at.segment * kTestSegmentBytes + at.offset;
}

// A sync that began after event `from` has ended before event `until`.
bool synced_between(const std::vector<Event>& events, size_t from, size_t until) {
  bool begun = false;
  for (size_t i = from; i < until; ++i) {
    if (events[i].kind != Kind::kSync) continue;
    if (events[i].done && begun) return true;
    begun = begun || !events[i].done;
  }
  return false;
}

// A segment's header with a new generation makes all that was in it worthless. It may reach the
// disk at once, so that what was moved out must be durable before it is written.
TEST(WriteOrder, MovedCopiesAreSyncedBeforeTheirSegmentIsWritten) {
  TierHarness store(8);
  auto script = std::make_shared<ScriptedDevice::Script>();
  ASSERT_EQ("", store.text(store.open_on(std::make_unique<ScriptedDevice>(store.image, script))));
  ASSERT_EQ("", store.text(store.recover()));
  struct Move {
    NvmeLocation from;
    size_t event = 0;  // how many there were when the copy was written
  };
  std::vector<Move> moves;
  NvmeTier::ReclaimHooks hooks;
  hooks.keep = [](const Digest& key, const NvmeLocation&) { return key.bytes[0] < 64; };
  hooks.on_move = [&](const Digest&, const NvmeLocation& from, const NvmeLocation&) {
    moves.push_back({from, script->events.size()});
  };
  store.tier->set_reclaim_hooks(hooks);
  for (uint64_t id = 0; id < 1500; ++id) {
    ASSERT_TRUE(store.write(test_key(id), TestPayload(id)).is_ok());
  }
  uint64_t checked = 0;
  for (const Move& move : moves) {
    const uint64_t header = kBase + move.from.segment * kTestSegmentBytes;
    const auto reused =
        std::find(script->events.begin() + static_cast<int64_t>(move.event), script->events.end(),
                  Event{Kind::kWrite, false, header, kBlockBytes});
    if (reused == script->events.end()) continue;
    ++checked;
    ASSERT_TRUE(synced_between(script->events, move.event,
                               static_cast<size_t>(reused - script->events.begin())))
        << "segment " << move.from.segment;
  }
  EXPECT_GT(checked, 30u);
}

// The header itself must be durable before the first object is.
TEST(WriteOrder, SegmentHeadersAreSyncedBeforeObjects) {
  TierHarness store(8);
  auto script = std::make_shared<ScriptedDevice::Script>();
  ASSERT_EQ("", store.text(store.open_on(std::make_unique<ScriptedDevice>(store.image, script))));
  ASSERT_EQ("", store.text(store.recover()));
  for (uint64_t id = 0; id < 600; ++id) {
    ASSERT_TRUE(store.write(test_key(id), TestPayload(id)).is_ok());
  }
  const std::vector<Event>& events = script->events;
  uint64_t checked = 0;
  for (size_t i = 0; i < events.size(); ++i) {
    const bool is_header = events[i].kind == Kind::kWrite && events[i].done &&
                           (events[i].offset - kBase) % kTestSegmentBytes == 0;
    if (!is_header) continue;
    const uint64_t first_object = events[i].offset + kBlockBytes;
    for (size_t j = i; j < events.size(); ++j) {
      if (events[j].kind != Kind::kWrite || events[j].done || events[j].offset < first_object ||
          events[j].offset >= events[i].offset + kTestSegmentBytes) {
        continue;
      }
      EXPECT_TRUE(synced_between(events, i, j));
      ++checked;
      break;
    }
  }
  EXPECT_GT(checked, 6u);
}

// Five objects in an unsealed segment, and a fault where its walk should go on.
class ContinuedSegment : public testing::Test {
 protected:
  ContinuedSegment() : store_(8) {
    store_.open_and_recover();
    for (uint64_t id = 0; id < 5; ++id) {
      locations_.push_back(*store_.write(test_key(id), TestPayload(id)));
    }
    EXPECT_TRUE(store_.sync().is_ok());
    store_.tier.reset();
  }
  // Where the next object goes.
  NvmeLocation write_more() {
    const auto location = store_.write(test_key(77), TestPayload(77));
    EXPECT_TRUE(location.is_ok());
    return location.is_ok() ? *location : NvmeLocation{};
  }

  TierHarness store_;
  std::vector<NvmeLocation> locations_;
};

TEST_F(ContinuedSegment, IntactIsContinued) {
  store_.open_and_recover();
  const NvmeLocation next = write_more();
  EXPECT_EQ(locations_[4].segment, next.segment);
  EXPECT_GT(next.offset, locations_[4].offset);
}

TEST_F(ContinuedSegment, NothingIsAppendedAtAGarbledHeader) {
  store_.image->bytes()[place_of(locations_[2]) + 70] ^= std::byte{8};
  store_.open_and_recover();
  EXPECT_EQ(2u, store_.recovered.size());
  EXPECT_NE(locations_[2].segment, write_more().segment);
}

TEST_F(ContinuedSegment, NothingIsAppendedWhereTheFootersPlaceIsGarbled) {
  const uint64_t end = kBase + (locations_[0].segment + 1) * kTestSegmentBytes;
  store_.image->bytes()[end - 100] ^= std::byte{8};
  store_.open_and_recover();
  EXPECT_EQ(5u, store_.recovered.size());
  EXPECT_NE(locations_[0].segment, write_more().segment);
}

// What could not be read this time is there the next time.
TEST_F(ContinuedSegment, MisreadIsNotOverwritten) {
  const std::vector<uint64_t> places = {
      place_of(locations_[2]),
      kBase + (locations_[0].segment + 1) * kTestSegmentBytes - kBlockBytes};
  for (const uint64_t place : places) {
    auto script = std::make_shared<ScriptedDevice::Script>();
    script->fault = [place](Kind kind, uint64_t offset, uint64_t bytes) {
      const bool hit = kind == Kind::kRead && offset <= place && place < offset + bytes;
      return hit ? Status(StatusCode::kIoError, "misread") : Status::ok();
    };
    ASSERT_EQ("",
              store_.text(store_.open_on(std::make_unique<ScriptedDevice>(store_.image, script))));
    ASSERT_EQ("", store_.text(store_.recover()));
    EXPECT_NE(locations_[2].segment, write_more().segment);
    ASSERT_EQ("", store_.text(store_.seal()));
    store_.open_and_recover();
    for (uint64_t id = 0; id < 5; ++id) {
      const RecoveredObject* object = store_.find(test_key(id));
      ASSERT_NE(nullptr, object) << id;
      EXPECT_EQ(locations_[id], object->location);
      EXPECT_EQ("", store_.text(store_.read(test_key(id), locations_[id], TestPayload(id))));
    }
    store_.tier.reset();
  }
}

}  // namespace
}  // namespace quire
