#include "tools/quire-warm/warmer.h"

namespace quire::warm {
namespace {

// Errors after which every further chunk would fail the same way.
bool ends_the_run(StatusCode code) {
  switch (code) {
    case StatusCode::kUnavailable:
    case StatusCode::kCancelled:
    case StatusCode::kNoSpace:
    case StatusCode::kModelMismatch:
    case StatusCode::kPermissionDenied:
    case StatusCode::kVersionMismatch:
    case StatusCode::kFailedPrecondition:
      return true;
    default:
      return false;
  }
}

Status cancelled() {
  return {StatusCode::kCancelled, "interrupted"};
}

}  // namespace

Warmer::Warmer(WarmTarget& target, const corpus::ChunkOptions& chunking, Manifest* manifest,
               Progress& progress, const std::atomic<bool>& stop)
    : target_(target), chunking_(chunking), manifest_(manifest), progress_(progress), stop_(stop) {}

void Warmer::report(const corpus::SourceError& error) {
  files_failed_.insert(error.path);
  summary_.files_failed = files_failed_.size();
  std::string text = error.to_string();
  if (errors_seen_.insert(text).second) progress_.message("error: " + text);
}

Status Warmer::read_all(const std::function<Status(const corpus::Document&)>& on_document) {
  for (const corpus::SourceFile& file : files_.files) {
    Status status;
    const bool went_on = corpus::read_documents(
        file,
        [&](corpus::Document document) {
          status = stop_.load() ? cancelled() : on_document(document);
          return status.is_ok();
        },
        [this](const corpus::SourceError& error) { report(error); });
    if (!went_on) return status;
    if (stop_.load()) return cancelled();
  }
  return Status::ok();
}

Expected<std::vector<corpus::Chunk>> Warmer::chunks_of(const corpus::Document& document) {
  Status failed;
  const corpus::TokenCounter count = [&](std::string_view text) -> uint64_t {
    const auto tokens = target_.tokenize(text);
    if (!tokens && failed.is_ok()) failed = tokens.status();
    return tokens ? tokens->size() : 0;
  };
  auto chunks = corpus::chunk_document(document, chunking_, count);
  if (!failed) return failed;
  return chunks;
}

Expected<WarmSummary> Warmer::scan(const std::vector<std::string>& paths) {
  files_ = corpus::list_files(paths);
  for (const corpus::SourceError& error : files_.errors) report(error);
  QUIRE_RETURN_IF_ERROR(
      read_all([this](const corpus::Document& document) { return scan_document(document); }));
  WarmSummary found = std::move(summary_);
  found.files = files_.files.size();
  found.files_skipped = files_.skipped;
  progress_.set_total_tokens(found.tokens);
  // The run counts anew; what it cannot read is counted and reported once.
  summary_ = WarmSummary{};
  summary_.files = found.files;
  summary_.files_skipped = found.files_skipped;
  summary_.files_failed = files_failed_.size();
  return found;
}

Status Warmer::scan_document(const corpus::Document& document) {
  ++summary_.documents;
  const auto chunks = chunks_of(document);
  if (!chunks) {
    if (ends_the_run(chunks.status().code())) return chunks.status();
    report({document.id, 0, chunks.status()});
    return Status::ok();
  }
  if (chunks->empty()) ++summary_.documents_empty;
  for (const corpus::Chunk& chunk : *chunks) {
    QUIRE_ASSIGN_OR_RETURN(const auto tokens, target_.tokenize(chunk.text(document)));
    ++summary_.chunks;
    summary_.tokens += tokens.size();
    if (tokens.size() < kMatchTokensMin) {
      ++summary_.chunks_too_short;
      continue;
    }
    // Names of neighbours take some bytes, too.
    const std::vector<Digest> names(neighbours_.embedder == nullptr
                                        ? 0
                                        : kGroupLeads +
                                              group_members(neighbours_.groups.neighbours) - 1);
    QUIRE_ASSIGN_OR_RETURN(const ChunkIds ids, names.empty()
                                                   ? target_.identify(tokens)
                                                   : target_.identify_behind(tokens, names));
    summary_.bytes += ids.bytes_max;
  }
  return Status::ok();
}

Status Warmer::run() {
  const Status status =
      neighbours_.embedder != nullptr
          ? warm_behind_neighbours()
          : read_all([this](const corpus::Document& document) { return warm_document(document); });
  progress_.finish();
  // What was noted before an interruption is kept.
  if (manifest_ != nullptr && manifest_changed_) QUIRE_RETURN_IF_ERROR(manifest_->sync());
  return status;
}

Status Warmer::warm_document(const corpus::Document& document) {
  ++summary_.documents;
  const auto chunks = chunks_of(document);
  if (!chunks) {
    if (ends_the_run(chunks.status().code())) return chunks.status();
    report({document.id, 0, chunks.status()});
    return Status::ok();
  }
  if (chunks->empty()) ++summary_.documents_empty;
  const bool changed_before = manifest_changed_;
  manifest_changed_ = false;
  DocumentLine line{document.id, document.path, document.title, chunks->size(), 0, true};
  for (const corpus::Chunk& chunk : *chunks) {
    ChunkLine chunk_line;
    const Status status = warm_chunk(document, chunk, chunk_line);
    if (!status) {
      manifest_changed_ |= changed_before;
      return status;
    }
    line.n_tokens += chunk_line.n_tokens;
    line.complete &= chunk_line.status != ChunkStatus::kFailed;
  }
  if (manifest_ == nullptr || !manifest_changed_) {
    manifest_changed_ |= changed_before;
    return Status::ok();
  }
  QUIRE_RETURN_IF_ERROR(manifest_->append(line));
  manifest_changed_ = false;
  return manifest_->sync();
}

Status Warmer::warm_chunk(const corpus::Document& document, const corpus::Chunk& chunk,
                          ChunkLine& line) {
  if (stop_.load()) return cancelled();
  line.document = document.id;
  line.chunk = chunk.index;
  line.chunk_id = chunk.id;
  line.text_begin = chunk.text_begin;
  line.text_end = chunk.end;
  QUIRE_ASSIGN_OR_RETURN(const auto tokens, target_.tokenize(chunk.text(document)));
  line.n_tokens = static_cast<uint32_t>(tokens.size());
  const uint64_t compute_us_before = summary_.compute_us;
  const Status status = tokens.size() < kMatchTokensMin ? Status::ok() : store_chunk(tokens, line);
  if (tokens.size() < kMatchTokensMin) line.status = ChunkStatus::kTooShort;
  if (!status) QUIRE_RETURN_IF_ERROR(chunk_failed(status, line));
  return count_chunk(line, summary_.compute_us - compute_us_before);
}

// OK where the run goes on.
Status Warmer::chunk_failed(const Status& status, ChunkLine& line) {
  if (ends_the_run(status.code())) return status;
  line.status = ChunkStatus::kFailed;
  line.error = status.to_string();
  report({line.document, 0,
          Status(status.code(), "chunk " + std::to_string(line.chunk) + ": " + line.error)});
  return Status::ok();
}

Status Warmer::count_chunk(const ChunkLine& line, uint64_t compute_us) {
  ++summary_.chunks;
  summary_.tokens += line.n_tokens;
  summary_.bytes += line.bytes;
  switch (line.status) {
    case ChunkStatus::kStored:
      ++summary_.chunks_stored;
      break;
    case ChunkStatus::kAlreadyStored:
      ++summary_.chunks_already_stored;
      break;
    case ChunkStatus::kTooShort:
      ++summary_.chunks_too_short;
      break;
    case ChunkStatus::kFailed:
      ++summary_.chunks_failed;
      break;
  }
  progress_.add(line.n_tokens, compute_us > 0, compute_us, line.document);
  return note_chunk(line);
}

Status Warmer::store_chunk(std::span<const TokenId> tokens, ChunkLine& line) {
  QUIRE_ASSIGN_OR_RETURN(const ChunkIds ids, target_.identify(tokens));
  line.object = ids.object;
  return store_missing(tokens, ids, line, [&] { return target_.store(tokens, ids); });
}

Status Warmer::store_missing(std::span<const TokenId> tokens, const ChunkIds& ids, ChunkLine& line,
                             const std::function<Expected<StoreResult>()>& store) {
  line.variant = ids.variant;
  line.representation = ids.representation;
  QUIRE_ASSIGN_OR_RETURN(const std::optional<uint64_t> stored, target_.find_stored(tokens, ids));
  line.status = ChunkStatus::kAlreadyStored;
  if (stored) {
    line.bytes = bytes_of(line, *stored, ids);
    return Status::ok();
  }
  QUIRE_ASSIGN_OR_RETURN(const StoreResult result, store());
  summary_.compute_us += result.compute_us;
  summary_.tokens_computed += tokens.size();
  line.bytes = bytes_of(line, result.bytes, ids);
  if (result.already_stored) return Status::ok();
  line.status = ChunkStatus::kStored;
  summary_.bytes_stored += line.bytes;
  return Status::ok();
}

// Where the store did not say: what an earlier run wrote down, or the most it can be.
uint64_t Warmer::bytes_of(const ChunkLine& line, uint64_t stored, const ChunkIds& ids) const {
  if (stored > 0) return stored;
  const ChunkLine* before =
      manifest_ == nullptr ? nullptr : manifest_->find(line.document, line.chunk);
  const bool known = before != nullptr && before->representation == ids.representation;
  return known && before->bytes > 0 ? before->bytes : ids.bytes_max;
}

Status Warmer::note_chunk(const ChunkLine& line) {
  if (manifest_ == nullptr) return Status::ok();
  const ChunkLine* before = manifest_->find(line.document, line.chunk);
  const bool known = before != nullptr && before->chunk_id == line.chunk_id &&
                     before->representation == line.representation && before->bytes == line.bytes &&
                     before->status != ChunkStatus::kFailed && line.status != ChunkStatus::kFailed;
  if (known) return Status::ok();
  manifest_changed_ = true;
  return manifest_->append(line);
}

}  // namespace quire::warm
