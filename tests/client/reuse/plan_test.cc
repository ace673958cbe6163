#include "client/reuse/plan.h"

#include <gtest/gtest.h>

#include <random>

#include "codecs/codec_ids.h"
#include "codecs/registry.h"

namespace quire::reuse {
namespace {

Digest digest_of(uint8_t seed) {
  Digest digest;
  digest.bytes.fill(seed);
  return digest;
}

Match chunk(uint32_t begin, uint32_t n_tokens, ContextKind kind = ContextKind::kIsolated,
            uint8_t reference = 0) {
  Match match;
  match.kind = wire::MatchKind::kChunk;
  match.token_begin = begin;
  match.n_tokens = n_tokens;
  match.context_kind = kind;
  match.context_reference = digest_of(reference);
  match.codec = static_cast<uint16_t>(CodecId::kInt8Channel);
  return match;
}

Match prefix(uint32_t begin, uint32_t n_tokens, CodecId codec = CodecId::kRawF16) {
  Match match = chunk(begin, n_tokens, ContextKind::kContextual);
  match.kind = wire::MatchKind::kPrefix;
  match.codec = static_cast<uint16_t>(codec);
  return match;
}

// "prefix 0+64, chunk 64+100@3, fresh 164+8"
std::string text_of(const Expected<Plan>& plan) {
  if (!plan.is_ok()) return plan.status().to_string();
  std::string text;
  for (const Segment& segment : plan->segments) {
    if (!text.empty()) text += ", ";
    text += std::string(segment_kind_name(segment.kind)) + " " +
            std::to_string(segment.token_begin) + "+" + std::to_string(segment.n_tokens);
    if (segment.source_begin != 0) text += "@" + std::to_string(segment.source_begin);
  }
  return text;
}

TEST(MakePlan, NothingStoredIsAllFresh) {
  EXPECT_EQ(text_of(make_plan(100, {})), "fresh 0+100");
}

TEST(MakePlan, PrefixChunksGapsAndQuestion) {
  const std::vector<Match> matches = {prefix(0, 64),   prefix(64, 64),  chunk(128, 256),
                                      chunk(384, 100), chunk(500, 200), chunk(720, 30)};
  EXPECT_EQ(text_of(make_plan(800, matches)),
            "prefix 0+64, prefix 64+64, chunk 128+256, chunk 384+100, fresh 484+16, "
            "chunk 500+200, fresh 700+20, chunk 720+30, fresh 750+50");
}

TEST(MakePlan, AlternativesOfAChunkByContext) {
  const std::vector<Match> matches = {
      chunk(0, 50, ContextKind::kContextual),     chunk(0, 50, ContextKind::kDeltaOf),
      chunk(0, 50, ContextKind::kSynthetic),      chunk(0, 50, ContextKind::kFixedPrefix, 9),
      chunk(0, 50, ContextKind::kDummySink),      chunk(0, 50, ContextKind::kIsolated),
      chunk(0, 50, ContextKind::kFixedPrefix, 2), chunk(0, 50, ContextKind::kFixedPrefix, 1)};
  PlanPreferences preferences;
  preferences.fixed_prefixes = {digest_of(1), digest_of(2)};
  // Best first: take the winner away and plan again.
  const uint32_t expected[] = {7, 6, 5, 4, 3, 2};
  std::vector<Match> left = matches;
  for (const uint32_t index : expected) {
    const auto plan = make_plan(60, left, preferences);
    ASSERT_EQ(text_of(plan), "chunk 0+50, fresh 50+10") << index;
    EXPECT_EQ(plan->segments[0].match_index, index);
    EXPECT_EQ(plan->segments[0].match.context_kind, matches[index].context_kind);
    left.erase(left.begin() + index);
  }
  EXPECT_EQ(text_of(make_plan(60, left, preferences)), "fresh 0+60");
}

TEST(MakePlan, SyntheticVariantsFirstWhereWanted) {
  const std::vector<Match> matches = {chunk(0, 50, ContextKind::kIsolated),
                                      chunk(0, 50, ContextKind::kFixedPrefix, 1),
                                      chunk(0, 50, ContextKind::kSynthetic)};
  PlanPreferences preferences;
  preferences.fixed_prefixes = {digest_of(1)};
  EXPECT_EQ(make_plan(60, matches, preferences)->segments[0].match_index, 1u);
  preferences.synthetic_first = true;
  EXPECT_EQ(make_plan(60, matches, preferences)->segments[0].match_index, 2u);
  EXPECT_EQ(make_plan(60, std::span(matches).first(2), preferences)->segments[0].match_index, 1u);
}

// Without the prompt's identity nothing is proven, but a system prompt that ends where the chunk
// begins tells as much.
TEST(MakePlan, AFixedPrefixInPlaceGoesBeforeSyntheticVariants) {
  std::vector<Match> matches = {chunk(20, 50, ContextKind::kSynthetic),
                                chunk(20, 50, ContextKind::kFixedPrefix, 2),
                                chunk(20, 50, ContextKind::kFixedPrefix, 1)};
  for (Match& match : matches) match.base_position = 20;
  PlanPreferences preferences;
  preferences.synthetic_first = true;
  const auto chosen = [&] {
    const auto plan = make_plan(80, matches, preferences);
    EXPECT_EQ(text_of(plan), "fresh 0+20, chunk 20+50, fresh 70+10");
    EXPECT_FALSE(plan->segments[1].exact);
    return plan->segments[1].match_index;
  };
  EXPECT_EQ(chosen(), 0u);  // behind some other text of that length
  preferences.fixed_prefixes = {digest_of(1), digest_of(2)};
  EXPECT_EQ(chosen(), 2u);
  matches[2].base_position = 19;
  EXPECT_EQ(chosen(), 1u);
  matches[1].base_position = 21;
  EXPECT_EQ(chosen(), 0u);
  matches[1].base_position = 20;
  // Where the prompt is known and its ids say otherwise, no position is believed.
  const std::vector<TokenId> tokens(80);
  preferences.prompt = PromptIdentity{tokens, {}, {}, {}};
  EXPECT_EQ(chosen(), 0u);
}

TEST(MakePlan, DecodeVariantsAreNotUsed) {
  Match match = chunk(0, 50);
  match.phase = Phase::kDecode;
  EXPECT_EQ(text_of(make_plan(60, std::vector{match})), "fresh 0+60");
}

TEST(MakePlan, EqualContextsByLoadTime) {
  std::vector<Match> matches = {chunk(0, 50), chunk(0, 50), chunk(0, 50)};
  matches[0].load_us = 30;
  matches[1].load_us = 10;
  matches[2].load_us = 20;
  const auto plan = make_plan(60, matches);
  ASSERT_TRUE(plan.is_ok());
  EXPECT_EQ(plan->segments[0].match_index, 1u);
}

// Soon before near, near before lossless, lossless before a smaller codec id, then what comes
// first; all of it within one kind of context.
TEST(MakePlan, EqualContextsByLoadTimeAndCodec) {
  const auto stored = [](CodecId codec, wire::TierId tier, uint32_t load_us) {
    Match match = chunk(0, 50, ContextKind::kSynthetic);
    match.codec = static_cast<uint16_t>(codec);
    match.tier = tier;
    match.load_us = load_us;
    return match;
  };
  using wire::TierId;
  std::vector<Match> best_first = {stored(CodecId::kInt8Channel, TierId::kHost, 5),
                                   stored(CodecId::kInt8Channel, TierId::kHost, 6),
                                   stored(static_cast<CodecId>(999), TierId::kHost, 6),
                                   stored(CodecId::kRawF16, TierId::kNvme, 6),
                                   stored(CodecId::kInt8Channel, TierId::kGpu, 9),
                                   stored(CodecId::kRawBf16, TierId::kHost, 30),
                                   stored(CodecId::kBf16Exp4, TierId::kHost, 30),
                                   stored(CodecId::kRawBf16, TierId::kNvme, 90),
                                   stored(CodecId::kInt8Channel, TierId::kNvme, 90),
                                   stored(CodecId::kRawBf16, TierId::kNone, UINT32_MAX),
                                   stored(CodecId::kRawBf16, TierId::kNone, UINT32_MAX)};
  for (uint32_t seed = 0; seed < 50; ++seed) {
    std::vector<Match> left = best_first;
    std::shuffle(left.begin(), left.end() - 1, std::mt19937(seed));
    for (const Match& best : best_first) {
      const auto plan = make_plan(60, left);
      ASSERT_TRUE(plan.is_ok());
      const auto key = [](const Match& match) {
        return std::tuple(match.codec, match.tier, match.load_us);
      };
      const uint32_t at = plan->segments[0].match_index;
      EXPECT_EQ(key(left[at]), key(best)) << "seed " << seed;
      for (uint32_t i = 0; i < at; ++i) EXPECT_NE(key(left[i]), key(best)) << "seed " << seed;
      left.erase(left.begin() + at);
    }
  }
  std::vector<Match> kinds = {stored(CodecId::kRawBf16, TierId::kGpu, 1), chunk(0, 50)};
  kinds[1].load_us = UINT32_MAX;
  EXPECT_EQ(make_plan(60, kinds)->segments[0].match_index, 1u);
  // A caller to whom the codec's loss matters refuses the codec.
  const std::vector<Match> copies = {stored(CodecId::kRawBf16, TierId::kNvme, 400),
                                     stored(CodecId::kInt8Channel, TierId::kHost, 20)};
  EXPECT_EQ(make_plan(60, copies)->segments[0].match_index, 1u);
  PlanPreferences lossless;
  lossless.codecs = {static_cast<uint16_t>(CodecId::kRawBf16)};
  EXPECT_EQ(make_plan(60, copies, lossless)->segments[0].match_index, 0u);
}

// As Python's twin of this order has it (client/python/quire/transformers/sources.py).
TEST(MakePlan, LosslessCodecsHaveTheFirstIds) {
  for (const CodecInfo& codec : codecs())
    EXPECT_EQ(codec.lossless, static_cast<uint16_t>(codec.id) <= 7) << codec.name;
}

TEST(MakePlan, ExactPrefixPrefersRawBytes) {
  std::vector<Match> matches = {prefix(0, 64, CodecId::kInt8Channel), prefix(0, 64)};
  matches[0].load_us = 1;
  matches[1].load_us = 50;
  const auto plan = make_plan(100, matches);
  ASSERT_TRUE(plan.is_ok());
  EXPECT_EQ(plan->segments[0].match_index, 1u);
}

TEST(MakePlan, PrefixEndsAtItsFirstHole) {
  EXPECT_EQ(text_of(make_plan(300, std::vector{prefix(0, 64), prefix(128, 64)})),
            "prefix 0+64, fresh 64+236");
  EXPECT_EQ(text_of(make_plan(300, std::vector{prefix(64, 64)})), "fresh 0+300");
}

TEST(MakePlan, ChunkBehindACoveredHeadIsSliced) {
  EXPECT_EQ(text_of(make_plan(300, std::vector{prefix(0, 64), chunk(40, 100)})),
            "prefix 0+64, chunk 64+76@24, fresh 140+160");
  EXPECT_EQ(text_of(make_plan(300, std::vector{prefix(0, 64), chunk(40, 24 + 15)})),
            "prefix 0+64, fresh 64+236");
}

TEST(MakePlan, LastTokenIsAlwaysFresh) {
  EXPECT_EQ(text_of(make_plan(100, std::vector{prefix(0, 100)})), "prefix 0+99, fresh 99+1");
  EXPECT_EQ(text_of(make_plan(100, std::vector{chunk(0, 100)})), "chunk 0+99, fresh 99+1");
  EXPECT_EQ(text_of(make_plan(1, std::vector{chunk(0, 1)})), "fresh 0+1");
}

TEST(MakePlan, QuestionStaysFresh) {
  PlanPreferences preferences;
  preferences.fresh_tail_tokens = 30;
  EXPECT_EQ(text_of(make_plan(100, std::vector{chunk(0, 100)}, preferences)),
            "chunk 0+70, fresh 70+30");
  preferences.fresh_tail_tokens = 1000;
  EXPECT_EQ(text_of(make_plan(100, std::vector{chunk(0, 100)}, preferences)), "fresh 0+100");
}

TEST(MakePlan, SlowMatchesAreLeftAlone) {
  std::vector<Match> matches = {chunk(0, 50), chunk(50, 50)};
  matches[0].load_us = 100;
  matches[0].recompute_us = 99;
  matches[1].load_us = 100;
  matches[1].recompute_us = 0;  // unknown
  EXPECT_EQ(text_of(make_plan(110, matches)), "fresh 0+50, chunk 50+50, fresh 100+10");
  PlanPreferences preferences;
  preferences.skip_slow = false;
  EXPECT_EQ(text_of(make_plan(110, matches, preferences)), "chunk 0+50, chunk 50+50, fresh 100+10");
}

TEST(MakePlan, SlowAlternativeGivesWayToAFastOne) {
  std::vector<Match> matches = {chunk(0, 50), chunk(0, 50, ContextKind::kDummySink)};
  matches[0].load_us = 100;
  matches[0].recompute_us = 50;
  const auto plan = make_plan(60, matches);
  ASSERT_TRUE(plan.is_ok());
  EXPECT_EQ(plan->segments[0].match_index, 1u);
}

TEST(MakePlan, PreferencesSwitchPartsOff) {
  const std::vector<Match> matches = {prefix(0, 64), chunk(64, 100),
                                      chunk(164, 50, ContextKind::kDummySink)};
  PlanPreferences preferences;
  preferences.use_prefix = false;
  EXPECT_EQ(text_of(make_plan(300, matches, preferences)),
            "fresh 0+64, chunk 64+100, chunk 164+50, fresh 214+86");
  preferences = {};
  preferences.use_chunks = false;
  EXPECT_EQ(text_of(make_plan(300, matches, preferences)), "prefix 0+64, fresh 64+236");
  preferences = {};
  preferences.dummy_sink_only = true;
  EXPECT_EQ(text_of(make_plan(300, matches, preferences)),
            "prefix 0+64, fresh 64+100, chunk 164+50, fresh 214+86");
  preferences = {};
  preferences.codecs = {static_cast<uint16_t>(CodecId::kRawF16)};
  EXPECT_EQ(text_of(make_plan(300, matches, preferences)), "prefix 0+64, fresh 64+236");
}

TEST(MakePlan, HostileMatchesAreRefused) {
  for (const Match& bad :
       {chunk(0, 0), chunk(101, 1), chunk(50, 51), chunk(10, UINT32_MAX), chunk(UINT32_MAX, 10)})
    EXPECT_EQ(make_plan(100, std::vector{bad}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(make_plan(0, {}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(make_plan(kPromptTokensMax + 1, {}).status().code(), StatusCode::kInvalidArgument);
}

// Any list of matches, however they overlap, gives a plan that obeys the rules, and whose segments
// are slices of the matches they name.
TEST(MakePlan, PropertyAnyMatchesGiveASoundPlan) {
  const uint32_t seed = 20240611;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const auto below = [&](uint32_t limit) { return static_cast<uint32_t>(random() % limit); };
  for (int round = 0; round < 3000; ++round) {
    const uint32_t n_tokens = 1 + below(400);
    std::vector<Match> matches;
    for (uint32_t i = below(12); i > 0; --i) {
      const uint32_t begin = below(n_tokens);
      const uint32_t length = 1 + below(n_tokens - begin);
      Match match = below(3) == 0 ? prefix(below(2) * begin, length)
                                  : chunk(begin, length, static_cast<ContextKind>(below(6)));
      match.load_us = below(3);
      match.recompute_us = below(3);
      match.phase = static_cast<Phase>(below(5) == 0);
      matches.push_back(match);
    }
    PlanPreferences preferences;
    preferences.fresh_tail_tokens = below(20);
    preferences.skip_slow = below(2) == 0;
    const auto plan = make_plan(n_tokens, matches, preferences);
    ASSERT_TRUE(plan.is_ok());
    ASSERT_TRUE(check_plan(*plan).is_ok()) << text_of(plan);
    EXPECT_GE(plan->segments.back().n_tokens,
              std::min(n_tokens, std::max(1u, preferences.fresh_tail_tokens)));
    bool seen_other = false;
    for (const Segment& segment : plan->segments) {
      if (segment.kind == SegmentKind::kFresh) {
        seen_other = true;
        continue;
      }
      const Match& match = matches.at(segment.match_index);
      EXPECT_EQ(segment.token_begin, match.token_begin + segment.source_begin);
      EXPECT_LE(segment.source_begin + segment.n_tokens, match.n_tokens);
      EXPECT_EQ(segment.kind == SegmentKind::kPrefix, match.kind == wire::MatchKind::kPrefix);
      // An exact prefix has nothing but prefix before it.
      EXPECT_FALSE(segment.kind == SegmentKind::kPrefix && seen_other);
      if (segment.kind == SegmentKind::kChunk) {
        seen_other = true;
        EXPECT_EQ(match.phase, Phase::kPrefill);
        EXPECT_NE(match.context_kind, ContextKind::kContextual);
        EXPECT_NE(match.context_kind, ContextKind::kDeltaOf);
      }
      EXPECT_FALSE(preferences.skip_slow && match.load_us > match.recompute_us &&
                   match.recompute_us != 0);
    }
  }
}

TEST(CheckPlan, FindsWhatIsWrong) {
  const auto fresh = [](uint32_t begin, uint32_t count) {
    Segment segment;
    segment.token_begin = begin;
    segment.n_tokens = count;
    return segment;
  };
  Segment reused = fresh(5, 5);
  reused.kind = SegmentKind::kChunk;
  EXPECT_TRUE(check_plan({{fresh(0, 10)}, 10}).is_ok());
  const Plan broken[] = {{{}, 0},
                         {{fresh(0, 10)}, 11},
                         {{fresh(0, 10)}, 9},
                         {{fresh(0, 4), fresh(5, 5)}, 10},
                         {{fresh(0, 6), fresh(5, 5)}, 10},
                         {{fresh(0, 0), fresh(0, 10)}, 10},
                         {{fresh(0, 5), reused}, 10}};
  for (const Plan& plan : broken) EXPECT_FALSE(check_plan(plan).is_ok());
}

}  // namespace
}  // namespace quire::reuse
