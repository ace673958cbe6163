// What a match needs and memory does not hold of every object: tokens and details, read from the
// metadata in batches, kept in a cache of bounded size; and resolving, which asks for them.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cassert>

#include "server/store/store.h"

namespace quire::server {

tiers::SharedDetails Store::known_details(tiers::RowId id) {
  const ObjectEntry* entry = live_of(index_->row(id));
  if (entry != nullptr && entry->details) return entry->details;
  return details_cache_.find(id);
}

Status Store::read_details(std::vector<Digest> ids, DetailsDone done) {
  struct Read {
    std::vector<Digest> ids;
    std::vector<Expected<tiers::MetadataStore::Details>> answers;
  };
  auto read = std::make_shared<Read>();
  read->ids = std::move(ids);
  auto run = [metadata = metadata_.get(), read] {
    read->answers = metadata->get_details(read->ids);
  };
  auto finish = [this, read, done = std::move(done)] {
    std::vector<tiers::SharedDetails> out;
    for (size_t i = 0; i < read->ids.size(); ++i) {
      const tiers::RowId row = index_->find(read->ids[i]);
      out.emplace_back();
      if (row == tiers::kNoRow) continue;
      auto& answer = read->answers[i];
      if (answer) {
        ++counters_.details_read;
        const tiers::RepresentationRecord& record = answer->record;
        auto details = std::make_shared<tiers::IndexDetails>();
        details->variant = record.variant;
        details->object = record.object;
        details->context = record.context;
        details->frame = record.frame;
        details->coverage = record.coverage;
        details->base_position = record.base_position;
        details->created_wall_ms = record.created_wall_ms;
        details->deviation = record.deviation;
        details->tokens = std::make_shared<const tiers::TokenList>(std::move(answer->tokens));
        details_cache_.insert(row, details);
        out.back() = std::move(details);
        continue;
      }
      // Written again a moment ago: the entry in memory knows them.
      if (auto known = known_details(row)) {
        out.back() = std::move(known);
        continue;
      }
      const StatusCode code = answer.status().code();
      const ObjectEntry* entry = live_of(index_->row(row));
      if ((code == StatusCode::kNotFound || code == StatusCode::kCorrupt) &&
          (entry == nullptr || entry->leases == 0)) {
        spdlog::warn("object {} dropped, its record cannot be used: {}", read->ids[i].to_hex(),
                     answer.status().to_string());
        counters_.rocks_corruptions += code == StatusCode::kCorrupt;
        remove_row(row, "its record cannot be used");
      }
    }
    done(Status::ok(), std::move(out));
  };
  if (!read_worker_->submit(std::move(run), std::move(finish))) {
    return Status(StatusCode::kBusy, "too many reads are waiting", kBusyRetryMs);
  }
  return Status::ok();
}

bool Store::try_resolve(ResolveJob& job) {
  tiers::ResolveQuery query;
  query.model.bytes = job.request.model;
  query.tenant = job.tenant;
  query.tenant_salt = *job.salt;
  query.scope = job.scope;
  query.tokens = job.tokens;
  query.prefix = (job.request.flags & wire::kResolvePrefix) != 0;
  query.chunks = (job.request.flags & wire::kResolveChunks) != 0;
  query.statistics = (job.request.flags & wire::kResolveStatistics) != 0;
  query.start_token = job.request.start_token;
  query.matches_max = wire::kResolveEntriesMax;
  const bool last_round = ++job.rounds > kResolveRoundsMax;
  const tiers::ResolveResult result =
      index_->resolve(query, [&](tiers::RowId row) -> tiers::SharedDetails {
        if (auto known = known_details(row)) return known;
        const auto read = job.details.find(index_->row(row).representation);
        return read == job.details.end() ? nullptr : read->second;
      });
  if (!result.missing.empty() && !last_round) {
    job.missing.clear();
    for (const tiers::RowId row : result.missing) {
      job.missing.push_back(index_->row(row).representation);
    }
    return false;
  }
  ++counters_.resolves;
  job.entries.clear();
  job.next_token = static_cast<uint32_t>(job.tokens.size());
  if (!result.missing.empty()) return true;  // a miss: nothing is claimed that was not compared
  job.next_token = result.next_token;
  uint32_t counted_until = 0;
  for (const tiers::IndexMatch& match : result.matches) {
    if (job.entries.size() == wire::kResolveEntriesMax) break;
    fill_resolve_entry(match, job.request.recompute_us_per_token, job.reads_gpu,
                       job.entries.emplace_back());
    if (match.token_begin >= counted_until) {
      counters_.resolved_tokens += match.n_tokens;
      counted_until = match.token_begin + match.n_tokens;
    }
  }
  return true;
}

Status Store::load_details(const std::shared_ptr<ResolveJob>& job, StatusCallback done) {
  return read_details(job->missing,
                      [job, done = std::move(done)](const Status& status,
                                                    std::vector<tiers::SharedDetails> details) {
                        for (size_t i = 0; i < details.size(); ++i) {
                          if (details[i])
                            job->details.insert_or_assign(job->missing[i], std::move(details[i]));
                        }
                        done(status);
                      });
}

}  // namespace quire::server
