// Where a connector's prompts find KV and leave it: a quired, or the memory of this process (no
// server, nothing kept). One thread at a time.
#ifndef QUIRE_CLIENT_LLAMA_KV_SOURCE_H_
#define QUIRE_CLIENT_LLAMA_KV_SOURCE_H_

#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/status.h"
#include "client/client.h"
#include "client/llama/engine.h"
#include "client/reuse/encode.h"
#include "client/reuse/plan.h"
#include "client/reuse/salient.h"
#include "codecs/representation.h"

namespace quire {

// Bytes kept readable as long as this lives.
class HeldKv {
 public:
  virtual ~HeldKv() = default;
  // In the order of the ids asked for; empty where it could not be had.
  std::vector<ByteSpan> bytes;
  // Why one of those could not, kDeadlineExceeded or kUnavailable before all else: no more can be
  // had then. OK where all are here.
  Status lost;
  // OK while what was read can be trusted (leases not expired); ask after the last read.
  virtual Status check() const { return Status::ok(); }
};

class KvSource {
 public:
  virtual ~KvSource() = default;
  virtual ByteSpan tenant_salt() const = 0;
  // The trust domain that bound variants are in; zero: the tenant's own.
  virtual Digest scope() const { return {}; }
  virtual Expected<std::vector<Match>> resolve(const Digest& model,
                                               std::span<const TokenId> tokens) = 0;
  // What is gone, too slow, or finds no room is lost alone; all of it where the server is gone.
  virtual Expected<std::unique_ptr<HeldKv>> acquire(std::span<const Digest> representations) = 0;
  // Stores what an engine captured. header: ids filled in.
  virtual Expected<reuse::PutResult> put(const RepresentationHeader& header,
                                         const ModelDescriptor& model,
                                         const KvCapture& capture) = 0;
};

std::unique_ptr<KvSource> make_memory_source();
// client must outlive the source.
std::unique_ptr<KvSource> make_server_source(Client& client);

// The header of a capture of these tokens, ids filled in: frame local, all layers and heads.
RepresentationHeader capture_header(const LlamaEngine& engine, const KvCapture& capture,
                                    std::span<const TokenId> tokens, const VariantContext& context,
                                    CodecId codec, ByteSpan tenant_salt);

// The raw codec that keeps this engine's KV bit for bit.
CodecId exact_codec(const LlamaEngine& engine);

// OK, or kUnsupported: a codec that promises to keep every bit of an element type which is narrower
// than this engine's KV, so that it would round it silently. Says which codecs to use.
Status check_codec(const LlamaEngine& engine, CodecId codec);

// The capture of a chunk for this codec: mixed ones get salient marks.
Expected<KvCapture> capture_for(LlamaEngine& engine, std::span<const TokenId> front,
                                std::span<const TokenId> chunk, CodecId codec,
                                double salient_share = reuse::kSalientShareDefault);

// Rows and salient marks of a capture, for encoding it.
reuse::EncodeOptions encode_options(const KvCapture& capture);

// Captures the system prefix and stores it as the exact prefix. kAlreadyStored costs a capture too,
// so ask resolve() first.
Expected<reuse::PutResult> store_prefix(LlamaEngine& engine, KvSource& source,
                                        std::span<const TokenId> prefix);
// Captures a chunk behind the tokens in front and stores it as the variant that context names.
Expected<reuse::PutResult> store_chunk(LlamaEngine& engine, KvSource& source,
                                       std::span<const TokenId> front,
                                       std::span<const TokenId> chunk,
                                       const VariantContext& context, CodecId codec);
// fixed_prefix of these tokens; isolated where there are none.
VariantContext behind_prefix(const LlamaEngine& engine, const KvSource& source,
                             std::span<const TokenId> prefix);

}  // namespace quire

#endif  // QUIRE_CLIENT_LLAMA_KV_SOURCE_H_
