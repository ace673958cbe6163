// Text through a model into a KvDump.
#ifndef QUIRE_BENCH_CODEC_CAPTURE_DUMP_H_
#define QUIRE_BENCH_CODEC_CAPTURE_DUMP_H_

#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "bench/codec/kv_dump.h"
#include "client/llama/engine.h"

namespace quire::bench {

// Prefills tokens from position 0 and keeps all KV, K turned back to before rope (exact angles),
// and the queries of the last n_queries. An engine with f32 KV gives K and V as they were computed.
Expected<KvDump> capture_dump(LlamaEngine& engine, std::span<const TokenId> tokens,
                              uint32_t n_queries);

// The first n_tokens of the documents' text, BOS included where the model has one. kNotFound where
// there are no documents, kInvalidArgument where they are too short.
Expected<std::vector<TokenId>> text_tokens(const LlamaEngine& engine,
                                           const std::vector<std::string>& paths,
                                           uint32_t n_tokens);

}  // namespace quire::bench

#endif  // QUIRE_BENCH_CODEC_CAPTURE_DUMP_H_
