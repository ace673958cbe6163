#include "tools/quire-warm/manifest.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/ids.h"

namespace quire::warm {
namespace {

// Keys keep their order, so that lines read well.
using Json = nlohmann::ordered_json;

constexpr std::array<std::string_view, 4> kStatusNames = {"stored", "already_stored", "too_short",
                                                          "failed"};

std::string dump(const Json& json) {
  // Paths may hold any bytes: what is not UTF-8 is replaced, never a reason to fail.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Status corrupt(std::string why) {
  return {StatusCode::kCorrupt, std::move(why)};
}

std::string text_field(const Json& json, const char* name) {
  const auto field = json.find(name);
  return field != json.end() && field->is_string() ? field->get<std::string>() : std::string();
}

std::optional<uint64_t> number_field(const Json& json, const char* name) {
  const auto field = json.find(name);
  if (field == json.end() || !field->is_number_unsigned()) return std::nullopt;
  return field->get<uint64_t>();
}

std::optional<Digest> digest_field(const Json& json, const char* name) {
  const auto digest = Digest::from_hex(text_field(json, name));
  if (!digest) return std::nullopt;
  return *digest;
}

Expected<ManifestHeader> parse_header(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  const auto version = json.is_object() ? number_field(json, "quire_manifest") : std::nullopt;
  if (!version) return corrupt("its first line is not the header of a quire-warm manifest");
  if (*version != kManifestVersion)
    return Status(StatusCode::kVersionMismatch,
                  "it has format version " + std::to_string(*version) + ", this program writes " +
                      std::to_string(kManifestVersion));
  const auto model = digest_field(json, "model");
  const auto reference = digest_field(json, "context_reference");
  const auto chunk_tokens = number_field(json, "chunk_tokens");
  const auto overlap_tokens = number_field(json, "overlap_tokens");
  const auto prefix_tokens = number_field(json, "prefix_tokens");
  if (!model || !reference || !chunk_tokens || !overlap_tokens || !prefix_tokens)
    return corrupt("its header line lacks a field");
  ManifestHeader header;
  header.model = *model;
  header.model_name = text_field(json, "model_name");
  header.tenant = text_field(json, "tenant");
  header.variant = text_field(json, "variant");
  header.codec = text_field(json, "codec");
  header.context_reference = *reference;
  header.prefix_tokens = static_cast<uint32_t>(*prefix_tokens);
  header.chunk_tokens = static_cast<uint32_t>(*chunk_tokens);
  header.overlap_tokens = static_cast<uint32_t>(*overlap_tokens);
  header.neighbours = static_cast<uint32_t>(number_field(json, "neighbours").value_or(0));
  header.scope = text_field(json, "scope");
  return header;
}

// Nothing where it is not there; nullopt where it is not a list of digests.
std::optional<std::vector<Digest>> digests_field(const Json& json, const char* name) {
  std::vector<Digest> digests;
  const auto field = json.find(name);
  if (field == json.end()) return digests;
  if (!field->is_array() || field->size() > kContextIdsMax) return std::nullopt;
  for (const Json& entry : *field) {
    if (!entry.is_string()) return std::nullopt;
    const auto digest = Digest::from_hex(entry.get_ref<const std::string&>());
    if (!digest) return std::nullopt;
    digests.push_back(*digest);
  }
  return digests;
}

std::optional<ChunkLine> parse_chunk(const Json& json) {
  ChunkLine chunk;
  chunk.document = text_field(json, "document");
  chunk.chunk_id = text_field(json, "chunk_id");
  const auto index = number_field(json, "chunk");
  const auto n_tokens = number_field(json, "n_tokens");
  const auto bytes = number_field(json, "bytes");
  const auto object = digest_field(json, "object");
  const auto variant = digest_field(json, "variant");
  const auto representation = digest_field(json, "representation");
  const std::string status = text_field(json, "status");
  const auto name = std::find(kStatusNames.begin(), kStatusNames.end(), status);
  auto neighbours = digests_field(json, "neighbours");
  if (!neighbours || chunk.document.empty() || chunk.chunk_id.empty() || !index || !n_tokens ||
      !bytes || !object || !variant || !representation || name == kStatusNames.end())
    return std::nullopt;
  chunk.chunk = *index;
  chunk.text_begin = number_field(json, "text_begin").value_or(0);
  chunk.text_end = number_field(json, "text_end").value_or(0);
  chunk.n_tokens = static_cast<uint32_t>(*n_tokens);
  chunk.bytes = *bytes;
  chunk.object = *object;
  chunk.variant = *variant;
  chunk.representation = *representation;
  chunk.status = static_cast<ChunkStatus>(name - kStatusNames.begin());
  chunk.error = text_field(json, "error");
  chunk.neighbours = std::move(*neighbours);
  return chunk;
}

void take_line(std::string_view line, ManifestContents& contents) {
  const Json json = line.size() > kManifestLineBytesMax ? Json(Json::value_t::discarded)
                                                        : Json::parse(line, nullptr, false);
  const std::string type = json.is_object() ? text_field(json, "type") : std::string();
  if (type == "document") {
    const auto complete = json.find("complete");
    if (complete != json.end() && complete->is_boolean() && complete->get<bool>())
      ++contents.documents_complete;
    return;
  }
  std::optional<ChunkLine> chunk;
  if (type == "chunk") chunk = parse_chunk(json);
  if (!chunk) {
    ++contents.lines_bad;
    return;
  }
  std::string key = chunk_key(chunk->document, chunk->chunk);
  contents.chunks.insert_or_assign(std::move(key), std::move(*chunk));
}

Status io_error(const std::string& path, const char* what) {
  return {errno == ENOSPC ? StatusCode::kNoSpace : StatusCode::kIoError,
          path + ": " + what + ": " + std::strerror(errno)};
}

}  // namespace

std::string_view chunk_status_name(ChunkStatus status) {
  return kStatusNames[static_cast<size_t>(status)];
}

std::string chunk_key(std::string_view document, uint64_t chunk) {
  std::string key(document);
  key += '\n';
  key += std::to_string(chunk);
  return key;
}

std::string encode_line(const ManifestHeader& header) {
  Json json{{"quire_manifest", kManifestVersion},
            {"model", header.model.to_hex()},
            {"model_name", header.model_name},
            {"tenant", header.tenant},
            {"variant", header.variant},
            {"codec", header.codec},
            {"context_reference", header.context_reference.to_hex()},
            {"prefix_tokens", header.prefix_tokens},
            {"chunk_tokens", header.chunk_tokens},
            {"overlap_tokens", header.overlap_tokens}};
  if (header.neighbours > 0) json["neighbours"] = header.neighbours;
  if (!header.scope.empty()) json["scope"] = header.scope;
  return dump(json);
}

std::string encode_line(const ChunkLine& chunk) {
  Json json{{"type", "chunk"},
            {"document", chunk.document},
            {"chunk", chunk.chunk},
            {"chunk_id", chunk.chunk_id},
            {"text_begin", chunk.text_begin},
            {"text_end", chunk.text_end},
            {"n_tokens", chunk.n_tokens},
            {"object", chunk.object.to_hex()},
            {"variant", chunk.variant.to_hex()},
            {"representation", chunk.representation.to_hex()},
            {"bytes", chunk.bytes},
            {"status", chunk_status_name(chunk.status)}};
  if (!chunk.error.empty()) json["error"] = chunk.error;
  if (!chunk.neighbours.empty()) {
    Json names = Json::array();
    for (const Digest& neighbour : chunk.neighbours) names.push_back(neighbour.to_hex());
    json["neighbours"] = std::move(names);
  }
  return dump(json);
}

std::string encode_line(const DocumentLine& document) {
  return dump(Json{{"type", "document"},
                   {"document", document.document},
                   {"path", document.path},
                   {"title", document.title},
                   {"chunks", document.chunks},
                   {"n_tokens", document.n_tokens},
                   {"complete", document.complete}});
}

Expected<ManifestContents> parse_manifest(std::string_view text) {
  const size_t header_end = text.find('\n');
  if (header_end == std::string_view::npos)
    return Status(StatusCode::kNotFound, "it has no complete line");
  ManifestContents contents;
  QUIRE_ASSIGN_OR_RETURN(contents.header, parse_header(text.substr(0, header_end)));
  size_t at = header_end + 1;
  for (size_t end = text.find('\n', at); end != std::string_view::npos; end = text.find('\n', at)) {
    take_line(text.substr(at, end - at), contents);
    at = end + 1;
  }
  contents.bytes_complete = at;
  return contents;
}

Status check_same_run(const ManifestHeader& existing, const ManifestHeader& wanted) {
  if (existing.model != wanted.model)
    return Status(StatusCode::kModelMismatch, "it was made with model '" + existing.model_name +
                                                  "' (" + existing.model.to_hex().substr(0, 16) +
                                                  "), this run uses '" + wanted.model_name + "' (" +
                                                  wanted.model.to_hex().substr(0, 16) +
                                                  "); name another manifest or use that model");
  std::string differs;
  const auto compare = [&](bool same, const std::string& what) {
    if (!same && differs.empty()) differs = what;
  };
  compare(existing.tenant == wanted.tenant, "--tenant '" + existing.tenant + "'");
  compare(existing.variant == wanted.variant, "--variant " + existing.variant);
  compare(existing.codec == wanted.codec, "--codec " + existing.codec);
  compare(existing.context_reference == wanted.context_reference, "another --system text");
  compare(existing.chunk_tokens == wanted.chunk_tokens,
          "--chunk-tokens " + std::to_string(existing.chunk_tokens));
  compare(existing.overlap_tokens == wanted.overlap_tokens,
          "--overlap " + std::to_string(existing.overlap_tokens));
  compare(existing.neighbours == wanted.neighbours,
          "--neighbours " + std::to_string(existing.neighbours));
  compare(existing.scope == wanted.scope, "--scope '" + existing.scope + "'");
  if (differs.empty()) return Status::ok();
  return Status(StatusCode::kFailedPrecondition,
                "it was made with " + differs + "; use the same, or name another manifest");
}

Expected<std::unique_ptr<Manifest>> Manifest::open(const std::string& path,
                                                   const ManifestHeader& header) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return io_error(path, "cannot open");
  std::unique_ptr<Manifest> manifest(new Manifest(path, fd));
  if (flock(fd, LOCK_EX | LOCK_NB) != 0)
    return Status(StatusCode::kBusy, path + ": another quire-warm is writing it");
  QUIRE_RETURN_IF_ERROR(manifest->load(header));
  return manifest;
}

Manifest::~Manifest() {
  ::close(fd_);
}

Status Manifest::load(const ManifestHeader& wanted) {
  struct stat info {};
  if (fstat(fd_, &info) != 0) return io_error(path_, "cannot be read");
  if (!S_ISREG(info.st_mode))
    return {StatusCode::kInvalidArgument, path_ + ": is not a regular file"};
  const auto bytes = static_cast<uint64_t>(info.st_size);
  if (bytes > kManifestFileBytesMax)
    return {StatusCode::kResourceExhausted, path_ + ": is larger than the limit of a manifest"};
  std::string text(bytes, '\0');
  for (uint64_t at = 0; at < bytes;) {
    const ssize_t n = pread(fd_, text.data() + at, bytes - at, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return io_error(path_, "cannot be read");
    at += static_cast<uint64_t>(n);
  }
  auto contents = parse_manifest(text);
  const bool is_new = !contents && contents.status().code() == StatusCode::kNotFound;
  // Only what we ourselves left behind may be thrown away.
  if (is_new && !text.empty() && !text.starts_with("{\"quire_manifest\"") &&
      !std::string_view("{\"quire_manifest\"").starts_with(text))
    return corrupt(path_ + ": is not a quire-warm manifest; name another file");
  if (!contents && !is_new)
    return {contents.status().code(), path_ + ": " + contents.status().message()};
  if (is_new) {
    if (ftruncate(fd_, 0) != 0) return io_error(path_, "cannot be written");
    contents_.header = wanted;
    QUIRE_RETURN_IF_ERROR(append_line(encode_line(wanted)));
    return sync();
  }
  contents_ = std::move(*contents);
  if (const Status same = check_same_run(contents_.header, wanted); !same)
    return {same.code(), path_ + ": " + same.message()};
  if (contents_.bytes_complete < bytes &&
      ftruncate(fd_, static_cast<off_t>(contents_.bytes_complete)) != 0)
    return io_error(path_, "cannot be written");
  return Status::ok();
}

const ChunkLine* Manifest::find(std::string_view document, uint64_t chunk) const {
  const auto found = contents_.chunks.find(chunk_key(document, chunk));
  return found == contents_.chunks.end() ? nullptr : &found->second;
}

Status Manifest::append(const ChunkLine& chunk) {
  return append_line(encode_line(chunk));
}
Status Manifest::append(const DocumentLine& document) {
  return append_line(encode_line(document));
}

Status Manifest::append_line(const std::string& line) {
  for (size_t at = 0; at < line.size();) {
    const ssize_t n = ::write(fd_, line.data() + at, line.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return io_error(path_, "cannot be written");
    at += static_cast<size_t>(n);
  }
  return Status::ok();
}

Status Manifest::sync() {
  if (fdatasync(fd_) != 0) return io_error(path_, "cannot be made durable");
  return Status::ok();
}

}  // namespace quire::warm
