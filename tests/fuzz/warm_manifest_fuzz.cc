// The JSONL manifest of a warm-up: any text ends in a status, and bad lines cost only themselves.
#include "tests/fuzz/fuzz_target.h"
#include "tools/quire-warm/manifest.h"

namespace {

using quire::fuzz::expect;
namespace warm = quire::warm;

}  // namespace

QUIRE_FUZZ_SEEDS(warm_manifest) {
  warm::ManifestHeader header;
  header.model_name = "tiny";
  warm::ChunkLine chunk;
  chunk.document = "a.md";
  chunk.chunk_id = "1498eaced37a647c";
  chunk.status = warm::ChunkStatus::kFailed;
  chunk.error = "a \"quoted\" reason";
  const std::string text =
      warm::encode_line(header) + warm::encode_line(chunk) + "not JSON\n{\"cut\": ";
  return {{"golden", quire::fuzz::golden_bytes("warm.manifest")},
          {"failed_and_cut", quire::fuzz::bytes_of_text(text)}};
}

QUIRE_FUZZ_TARGET(warm_manifest) {
  const std::string text = quire::fuzz::text_of(input);
  const auto contents = warm::parse_manifest(text);
  if (!contents) {
    expect(!contents.status().message().empty(), "a refusal says why");
    return false;
  }
  expect(contents->bytes_complete <= text.size(), "complete lines lie within the text");
  for (const auto& [key, chunk] : contents->chunks) {
    expect(key == warm::chunk_key(chunk.document, chunk.chunk), "a chunk is found by its key");
    const auto again =
        warm::parse_manifest(warm::encode_line(contents->header) + warm::encode_line(chunk));
    expect(again.is_ok() && again->chunks.size() == 1 && again->lines_bad == 0,
           "a chunk line survives being written again");
  }
  return true;
}
