// The chunks of a prompt: documents cut as quire-warm cuts them.
#ifndef QUIRE_TOOLS_QUIRE_ASK_DOCUMENTS_H_
#define QUIRE_TOOLS_QUIRE_ASK_DOCUMENTS_H_

#include <string>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "client/llama/engine.h"
#include "tools/quire-ask/options.h"

namespace quire::ask {

struct PromptChunk {
  std::string document;
  uint64_t index = 0;  // within the document
  std::vector<TokenId> tokens;
};

// In the order of the prompt. kInvalidArgument, kNotFound, kIoError with what to do about it;
// kModelMismatch for a manifest of another model.
Expected<std::vector<PromptChunk>> load_chunks(const LlamaEngine& engine, const Options& options);

}  // namespace quire::ask

#endif  // QUIRE_TOOLS_QUIRE_ASK_DOCUMENTS_H_
