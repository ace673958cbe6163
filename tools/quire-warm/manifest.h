// The manifest of a warm-up: JSONL, one header line, then a line for each chunk and each finished
// document. It says which stored KV belongs to which document; the store itself stays the truth
// about what is stored. Format: docs/formats/manifest.md.
#ifndef QUIRE_TOOLS_QUIRE_WARM_MANIFEST_H_
#define QUIRE_TOOLS_QUIRE_WARM_MANIFEST_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/hash.h"
#include "base/status.h"

namespace quire::warm {

inline constexpr uint32_t kManifestVersion = 1;
inline constexpr uint64_t kManifestLineBytesMax = 1 << 20;
inline constexpr uint64_t kManifestFileBytesMax = 8ull << 30;

// What all chunks of a manifest have in common; a run with other settings needs another manifest.
struct ManifestHeader {
  Digest model;
  std::string model_name;
  std::string tenant;
  std::string variant;       // fixed_prefix, fixed_prefix_filler, isolated, dummy_sink
  std::string codec;         // raw-f16, int8-channel
  Digest context_reference;  // prefix digest of the fixed prefix; zero where there is none
  uint32_t prefix_tokens = 0;
  uint32_t chunk_tokens = 0;
  uint32_t overlap_tokens = 0;
  uint32_t neighbours = 0;  // chunks in front of each; 0: none
  std::string scope;        // label of the scope that may find them
};

enum class ChunkStatus : uint8_t { kStored = 0, kAlreadyStored = 1, kTooShort = 2, kFailed = 3 };
std::string_view chunk_status_name(ChunkStatus status);

struct ChunkLine {
  std::string document;
  uint64_t chunk = 0;
  std::string chunk_id;
  uint64_t text_begin = 0;  // bytes of the document's canonical text, overlap included
  uint64_t text_end = 0;
  uint32_t n_tokens = 0;
  Digest object;
  Digest variant;
  Digest representation;
  uint64_t bytes = 0;
  ChunkStatus status = ChunkStatus::kStored;
  std::string error;  // kFailed only
  // Object ids of the chunks it was computed behind, in order, the last one right in front of it.
  std::vector<Digest> neighbours;
};

struct DocumentLine {
  std::string document;
  std::string path;
  std::string title;
  uint64_t chunks = 0;
  uint64_t n_tokens = 0;
  bool complete = false;  // every chunk is stored or too short to be
};

std::string encode_line(const ManifestHeader& header);
std::string encode_line(const ChunkLine& chunk);
std::string encode_line(const DocumentLine& document);

// What an existing manifest says.
struct ManifestContents {
  ManifestHeader header;
  // Last line of each chunk, by chunk_key().
  std::unordered_map<std::string, ChunkLine> chunks;
  uint64_t documents_complete = 0;
  uint64_t lines_bad = 0;       // skipped; the store tells what they would have said
  uint64_t bytes_complete = 0;  // what lies behind is a line that was cut off
};

// Parses the text of a manifest; a last line without line end is left out. kCorrupt where the
// header line is not one, kVersionMismatch, kNotFound where there is no complete line.
Expected<ManifestContents> parse_manifest(std::string_view text);

// OK, or what differs and what to do: kModelMismatch for another model, else kFailedPrecondition.
Status check_same_run(const ManifestHeader& existing, const ManifestHeader& wanted);

// "<document>\n<index>".
std::string chunk_key(std::string_view document, uint64_t chunk);

// An open manifest; one process at a time (flock). Not thread safe.
class Manifest {
 public:
  // Opens or makes the file. A last line that was cut off is removed. Errors: those of
  // parse_manifest() (but kNotFound) and check_same_run(), kBusy (another process has it),
  // kIoError.
  static Expected<std::unique_ptr<Manifest>> open(const std::string& path,
                                                  const ManifestHeader& header);
  ~Manifest();
  Manifest(const Manifest&) = delete;
  Manifest& operator=(const Manifest&) = delete;

  const ManifestContents& contents() const { return contents_; }
  // The line of this chunk from an earlier run, or null.
  const ChunkLine* find(std::string_view document, uint64_t chunk) const;

  // One write each; sync() makes them durable.
  Status append(const ChunkLine& chunk);
  Status append(const DocumentLine& document);
  Status sync();

 private:
  Manifest(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  Status load(const ManifestHeader& wanted);
  Status append_line(const std::string& line);

  std::string path_;
  int fd_;
  ManifestContents contents_;
};

}  // namespace quire::warm

#endif  // QUIRE_TOOLS_QUIRE_WARM_MANIFEST_H_
