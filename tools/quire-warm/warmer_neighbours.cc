// Chunks behind their neighbours: the corpus is read once, what is stored and still has all of its
// neighbours stays, and the rest is computed group by group.
#include <optional>

#include "tools/quire-warm/warmer.h"

namespace quire::warm {

// Equal texts are one entry: a text is not its own neighbour.
struct Warmer::Corpus {
  struct Place {
    uint64_t document = 0;  // index in documents
    ChunkLine line;
  };
  struct Entry {
    Digest object;
    std::vector<TokenId> tokens;
    std::string text;  // until it is embedded
    std::vector<Place> places;
    bool kept = false;
  };
  struct OpenDocument {
    DocumentLine line;
    uint64_t chunks_left = 0;
    bool changed = false;
  };

  std::vector<Entry> entries;
  std::unordered_map<Digest, uint64_t, DigestHasher> entry_of;
  std::vector<OpenDocument> documents;
  bool manifest_changed = false;
};

Status Warmer::warm_behind_neighbours() {
  Corpus corpus;
  QUIRE_RETURN_IF_ERROR(read_all(
      [&](const corpus::Document& document) { return collect_document(document, corpus); }));
  Status status = find_kept(corpus);
  std::vector<ChunkGroup> groups;
  if (status) status = embed_and_group(corpus, groups);
  for (size_t i = 0; status && i < groups.size(); ++i) status = warm_group(corpus, groups[i]);
  manifest_changed_ |= corpus.manifest_changed;
  return status;
}

Status Warmer::collect_document(const corpus::Document& document, Corpus& corpus) {
  ++summary_.documents;
  const auto chunks = chunks_of(document);
  if (!chunks) {
    report({document.id, 0, chunks.status()});
    return chunks.status().code() == StatusCode::kCancelled ? chunks.status() : Status::ok();
  }
  if (chunks->empty()) ++summary_.documents_empty;
  const uint64_t place = corpus.documents.size();
  corpus.documents.push_back(
      {{document.id, document.path, document.title, chunks->size(), 0, true}, chunks->size()});
  for (const corpus::Chunk& chunk : *chunks) {
    ChunkLine line;
    line.document = document.id;
    line.chunk = chunk.index;
    line.chunk_id = chunk.id;
    line.text_begin = chunk.text_begin;
    line.text_end = chunk.end;
    QUIRE_ASSIGN_OR_RETURN(auto tokens, target_.tokenize(chunk.text(document)));
    line.n_tokens = static_cast<uint32_t>(tokens.size());
    if (tokens.size() < kMatchTokensMin) {
      line.status = ChunkStatus::kTooShort;
      QUIRE_RETURN_IF_ERROR(finish_line(corpus, place, line, 0));
      continue;
    }
    QUIRE_ASSIGN_OR_RETURN(const ChunkIds ids, target_.identify(tokens));
    line.object = ids.object;
    const auto [known, is_new] = corpus.entry_of.emplace(ids.object, corpus.entries.size());
    if (is_new)
      corpus.entries.push_back(
          {ids.object, std::move(tokens), std::string(chunk.text(document)), {}, false});
    corpus.entries[known->second].places.push_back({place, std::move(line)});
  }
  return Status::ok();
}

Status Warmer::find_kept(Corpus& corpus) {
  for (uint64_t i = 0; i < corpus.entries.size(); ++i) {
    if (stop_.load()) return {StatusCode::kCancelled, "interrupted"};
    for (const Corpus::Place& place : corpus.entries[i].places) {
      ChunkLine line = place.line;
      QUIRE_ASSIGN_OR_RETURN(const bool kept, is_kept(corpus, i, line));
      if (!kept) continue;
      corpus.entries[i].kept = true;
      QUIRE_RETURN_IF_ERROR(finish_entry(corpus, i, line, 0));
      break;
    }
  }
  return Status::ok();
}

// By what the manifest says of this line, and the store of its KV.
Expected<bool> Warmer::is_kept(const Corpus& corpus, uint64_t entry, ChunkLine& line) {
  const ChunkLine* before =
      manifest_ == nullptr ? nullptr : manifest_->find(line.document, line.chunk);
  if (before == nullptr || before->object != line.object || before->neighbours.empty())
    return false;
  for (const Digest& neighbour : before->neighbours) {
    if (corpus.entry_of.contains(neighbour)) continue;
    ++summary_.chunks_stale;
    return false;
  }
  const std::vector<TokenId>& tokens = corpus.entries[entry].tokens;
  QUIRE_ASSIGN_OR_RETURN(const ChunkIds ids, target_.identify_behind(tokens, before->neighbours));
  QUIRE_ASSIGN_OR_RETURN(const auto stored, target_.find_stored(tokens, ids));
  if (!stored) return false;
  line.variant = ids.variant;
  line.representation = ids.representation;
  line.neighbours = before->neighbours;
  line.status = ChunkStatus::kAlreadyStored;
  line.bytes = bytes_of(line, *stored, ids);
  return true;
}

Status Warmer::embed_and_group(Corpus& corpus, std::vector<ChunkGroup>& groups) {
  std::vector<uint64_t> wanted;
  std::vector<uint32_t> chunk_tokens;
  for (uint64_t i = 0; i < corpus.entries.size(); ++i) {
    chunk_tokens.push_back(static_cast<uint32_t>(corpus.entries[i].tokens.size()));
    if (!corpus.entries[i].kept) wanted.push_back(i);
  }
  if (wanted.empty()) return Status::ok();
  QUIRE_RETURN_IF_ERROR(check_neighbour_chunks(corpus.entries.size()));
  progress_.note("finding neighbours among " + format_count(corpus.entries.size()) + " chunks");
  std::vector<std::string> texts;
  texts.reserve(corpus.entries.size());
  for (Corpus::Entry& entry : corpus.entries) texts.push_back(std::move(entry.text));
  QUIRE_ASSIGN_OR_RETURN(const Embeddings embeddings, neighbours_.embedder->embed(texts));
  QUIRE_ASSIGN_OR_RETURN(groups,
                         plan_groups(embeddings, chunk_tokens, wanted, neighbours_.groups, stop_));
  return Status::ok();
}

Status Warmer::warm_group(Corpus& corpus, const ChunkGroup& group) {
  std::vector<WarmNeighbour> front;
  const auto put_in_front = [&](uint64_t i) {
    front.push_back({corpus.entries[i].object, corpus.entries[i].tokens});
  };
  uint64_t lead_tokens = 0;
  for (const uint64_t lead : group.leads) {
    put_in_front(lead);
    lead_tokens += corpus.entries[lead].tokens.size();
  }
  bool computed = false;
  for (const uint64_t member : group.members) {
    if (stop_.load()) return {StatusCode::kCancelled, "interrupted"};
    ChunkLine line = corpus.entries[member].places.front().line;
    const uint64_t compute_us_before = summary_.compute_us;
    const Status status = store_behind(corpus.entries[member].tokens, front, line);
    if (!status) QUIRE_RETURN_IF_ERROR(chunk_failed(status, line));
    const uint64_t compute_us = summary_.compute_us - compute_us_before;
    computed |= compute_us > 0;
    QUIRE_RETURN_IF_ERROR(finish_entry(corpus, member, line, compute_us));
    put_in_front(member);
  }
  if (computed) summary_.lead_tokens_computed += lead_tokens;
  return manifest_ != nullptr && corpus.manifest_changed ? manifest_->sync() : Status::ok();
}

Status Warmer::store_behind(std::span<const TokenId> tokens, std::span<const WarmNeighbour> front,
                            ChunkLine& line) {
  for (const WarmNeighbour& neighbour : front) line.neighbours.push_back(neighbour.object);
  QUIRE_ASSIGN_OR_RETURN(const ChunkIds ids, target_.identify_behind(tokens, line.neighbours));
  return store_missing(tokens, ids, line, [&] { return target_.store_behind(tokens, front, ids); });
}

// Every place of an entry has the same outcome; the first of them did the work.
Status Warmer::finish_entry(Corpus& corpus, uint64_t entry, const ChunkLine& outcome,
                            uint64_t compute_us) {
  ChunkStatus status = outcome.status;
  for (const Corpus::Place& place : corpus.entries[entry].places) {
    ChunkLine line = outcome;
    line.document = place.line.document;
    line.chunk = place.line.chunk;
    line.chunk_id = place.line.chunk_id;
    line.text_begin = place.line.text_begin;
    line.text_end = place.line.text_end;
    line.status = status;
    QUIRE_RETURN_IF_ERROR(finish_line(corpus, place.document, line, compute_us));
    compute_us = 0;
    if (status == ChunkStatus::kStored) status = ChunkStatus::kAlreadyStored;
  }
  return Status::ok();
}

Status Warmer::finish_line(Corpus& corpus, uint64_t document, const ChunkLine& line,
                           uint64_t compute_us) {
  Corpus::OpenDocument& open = corpus.documents[document];
  open.line.n_tokens += line.n_tokens;
  open.line.complete &= line.status != ChunkStatus::kFailed;
  manifest_changed_ = false;
  QUIRE_RETURN_IF_ERROR(count_chunk(line, compute_us));
  open.changed |= manifest_changed_;
  if (--open.chunks_left == 0 && open.changed && manifest_ != nullptr)
    QUIRE_RETURN_IF_ERROR(manifest_->append(open.line));
  corpus.manifest_changed |= open.changed;
  return Status::ok();
}

}  // namespace quire::warm
