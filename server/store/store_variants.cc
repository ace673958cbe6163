// Variants of one text: which scope knows of them, how many are kept, and what came of their uses.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>

#include "codecs/codec_ids.h"
#include "server/store/store.h"

namespace quire::server {

Digest Store::enter_scope(StoreSession& session, std::string_view label) {
  session.scope = scope_id(*session.salt, label);
  return session.scope;
}

bool Store::visible(const StoreSession& session, tiers::RowId row) const {
  return index_->visible(index_->row(row), session.tenant, session.scope);
}

bool Store::may_go(tiers::RowId id, uint64_t wall_ms) const {
  const tiers::IndexRow& row = index_->row(id);
  const ObjectEntry* entry = live_of(row);
  const bool waited_for = entry != nullptr && (entry->leases != 0 || !entry->load_waiters.empty() ||
                                               !entry->durable_waiters.empty());
  return !waited_for && !pinned(row, wall_ms);
}

// A struck-out variant may be stored anew: what is there makes room for it.
bool Store::give_way_to_new(tiers::RowId row) {
  if (index_->row(row).strikes < tiers::kStrikesMax) return false;
  if (!may_go(row, clock_.wall_ms())) return false;
  remove_row(row, "struck out, and stored anew");
  return true;
}

std::vector<tiers::RowId> Store::rows_of_variant(tiers::RowId id) const {
  std::vector<tiers::RowId> rows = index_->same_text(id);
  const uint32_t tag = index_->row(id).variant_tag;
  std::erase_if(rows, [&](tiers::RowId row) { return index_->row(row).variant_tag != tag; });
  if (rows.empty()) rows.push_back(id);  // no chunk match
  return rows;
}

namespace {

struct VariantUse {
  uint32_t tag = 0;
  uint64_t hits = 0;
  uint32_t strikes = UINT32_MAX;  // the least of its representations: one may have been stored anew
  uint32_t last_used_s = 0;
  bool stays = false;
  std::vector<tiers::RowId> rows{};
};

// Decision 012: what struck out, then the least (1 + hits) / (1 + strikes), then the older use.
bool goes_before(const VariantUse& a, const VariantUse& b) {
  const bool a_out = a.strikes >= tiers::kStrikesMax;
  const bool b_out = b.strikes >= tiers::kStrikesMax;
  if (a_out != b_out) return a_out;
  const uint64_t a_gain = (1 + a.hits) * (1 + b.strikes);
  const uint64_t b_gain = (1 + b.hits) * (1 + a.strikes);
  if (a_gain != b_gain) return a_gain < b_gain;
  return a.last_used_s < b.last_used_s;
}

}  // namespace

void Store::limit_variants(tiers::RowId newest) {
  const uint64_t wall_ms = clock_.wall_ms();
  const uint32_t newest_tag = index_->row(newest).variant_tag;
  std::vector<VariantUse> variants;
  for (const tiers::RowId id : index_->same_text(newest)) {
    const tiers::IndexRow& row = index_->row(id);
    auto variant = std::ranges::find(variants, row.variant_tag, &VariantUse::tag);
    if (variant == variants.end()) {
      variants.push_back({.tag = row.variant_tag, .stays = row.variant_tag == newest_tag});
      variant = variants.end() - 1;
    }
    variant->hits += row.hits;
    // Statistics keep the strikes that their KV lost when it was stored anew.
    const bool statistics = row.codec == static_cast<uint16_t>(CodecId::kStatistics);
    if (!statistics) variant->strikes = std::min<uint32_t>(variant->strikes, row.strikes);
    variant->last_used_s = std::max(variant->last_used_s, row.last_used_s);
    variant->stays |= !may_go(id, wall_ms);
    variant->rows.push_back(id);
  }
  for (VariantUse& variant : variants)
    if (variant.strikes == UINT32_MAX) variant.strikes = 0;
  size_t count = variants.size();
  std::erase_if(variants, [](const VariantUse& variant) { return variant.stays; });
  std::ranges::sort(variants, goes_before);
  for (const VariantUse& variant : variants) {
    if (count-- <= kVariantsPerObjectMax) return;
    for (const tiers::RowId row : variant.rows) remove_row(row, "one variant more than are kept");
    ++counters_.variant_evictions;
  }
}

void Store::note_deviation(tiers::RowId row, float deviation) {
  const auto changed = [deviation](const tiers::SharedDetails& known) {
    auto details = std::make_shared<tiers::IndexDetails>(*known);
    details->deviation = deviation;
    return details;
  };
  ObjectEntry* entry = live_of(index_->row(row));
  if (entry != nullptr && entry->details) {
    entry->details = changed(entry->details);
  } else if (const auto known = details_cache_.find(row)) {
    details_cache_.insert(row, changed(known));
  }
}

wire::FeedbackReply Store::feedback(const StoreSession& session,
                                    std::span<const wire::FeedbackItem> items) {
  wire::FeedbackReply answer;
  for (const wire::FeedbackItem& item : items) {
    const tiers::RowId told = index_->find(Digest{item.representation});
    if (told == tiers::kNoRow || !visible(session, told)) {
      ++answer.missing;
      continue;
    }
    ++answer.applied;
    for (const tiers::RowId id : rows_of_variant(told)) {
      tiers::IndexRow& row = index_->row(id);
      tiers::RepresentationPatch patch;
      if ((item.flags & wire::kFeedbackStrike) != 0 && row.strikes < UINT8_MAX) {
        row.strikes = row.strikes + 1;
        patch.strikes = static_cast<uint8_t>(row.strikes);
      }
      if ((item.flags & wire::kFeedbackDeviation) != 0) {
        note_deviation(id, item.deviation);
        patch.deviation = item.deviation;
      }
      // What has no record yet says it with its first one.
      const ObjectEntry* entry = live_of(row);
      const bool recorded = entry == nullptr || entry->has_record;
      if (recorded && (patch.strikes || patch.deviation))
        changes_.patch_representations.emplace_back(row.representation, patch);
    }
  }
  return answer;
}

}  // namespace quire::server
