// Between the messages of proto/control.proto and the structs of server/admin.h. Everything that
// comes from outside is validated here; the errors name the field. Pure functions, any thread.
#ifndef QUIRE_SERVER_CONTROL_MESSAGES_H_
#define QUIRE_SERVER_CONTROL_MESSAGES_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "proto/control.pb.h"
#include "server/admin.h"

namespace quire::server {

namespace pb = quire::control::v1;

inline constexpr uint32_t kListLimitDefault = 100;
inline constexpr size_t kPageTokenBytesMax = 4096;
inline constexpr int kLookupEntriesMax = 16384;  // keeps the reply under the message limit
inline constexpr uint64_t kPinTtlMsMax = 100ull * 365 * 24 * 3600 * 1000;  // 100 years: no overflow
inline constexpr uint64_t kNextUseMsMax = kPinTtlMsMax;
inline constexpr uint32_t kHintIdsMax = 4096;
inline constexpr uint32_t kPriorityMax = 255;
inline constexpr size_t kPathBytesMax = 4096;

// Exactly 32 bytes; field is named in the error.
Expected<Digest> parse_id(const std::string& bytes, std::string_view field);
Expected<ObjectFilter> parse_filter(const pb::ObjectFilter& filter);
// At most 63 bytes, no zero byte.
Expected<std::string> parse_tenant(const std::string& tenant);
// At most 64 bytes.
Expected<std::string> parse_scope(const std::string& label);
// Its limits are the store's business.
Verdict parse_verdict(const pb::Verdict& verdict);
// 1 to kPromptTokensMax tokens.
Expected<std::vector<TokenId>> parse_tokens(const pb::LookupRequest& request);
Expected<std::vector<Digest>> parse_prefetch_ids(const pb::PrefetchRequest& request);
Expected<std::vector<Digest>> parse_hint_ids(const pb::HintRequest& request);
Expected<UseHint> parse_hint(const pb::HintRequest& request);
// Absolute, at most kPathBytesMax bytes, no zero byte, no "." or ".." part; not "/".
Expected<std::string> parse_directory(const std::string& path, std::string_view field);

// The ids that start with some hexadecimal digits are those of [first, last].
struct IdRange {
  Digest first;
  Digest last;
  bool contains(const Digest& id) const { return first <= id && id <= last; }
};
Expected<IdRange> parse_id_prefix(const std::string& hex_digits);

void fill(const ObjectInfo& from, pb::Object& to);
void fill(const ListPage& from, pb::ListResponse& to);
void fill(const TierStats& from, pb::TierStats& to);
void fill(const ServerStats& from, pb::StatsResponse& to);
void fill(const ModelInfo& from, pb::Model& to);
void fill(const Verdict& from, pb::Verdict& to);
void fill(const TenantInfo& from, pb::Tenant& to);
void fill(const CheckpointInfo& from, pb::CheckpointResponse& to);
void fill(const std::vector<wire::ResolveEntry>& from, pb::LookupResponse& to);

// OK, or kInvalidArgument where soft_bytes is above a hard limit.
Status check_quota(uint64_t soft_bytes, uint64_t hard_bytes);

// Control characters and bytes that are not UTF-8 become '?': names come from clients, and protobuf
// strings and terminals accept only text.
std::string printable_text(std::string_view text);

}  // namespace quire::server

#endif  // QUIRE_SERVER_CONTROL_MESSAGES_H_
