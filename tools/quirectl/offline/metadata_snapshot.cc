#include "tools/quirectl/offline/metadata_snapshot.h"

#include <stdlib.h>

#include <filesystem>
#include <system_error>
#include <utility>

#include "tiers/rocks/rocks_store.h"

namespace quire::ctl {
namespace {

namespace fs = std::filesystem;

Status copy_error(const fs::path& what, const std::error_code& error) {
  const bool full = error == std::errc::no_space_on_device;
  return {full ? StatusCode::kNoSpace : StatusCode::kIoError,
          "cannot copy " + what.string() + " to look at it: " + error.message() +
              (full ? " (set TMPDIR to a place with room)" : "")};
}

bool is_immutable(const fs::path& path) {
  return path.extension() == ".sst" || path.extension() == ".blob";
}

Status copy_database(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::create_directory(to, error);
  if (error) return copy_error(from, error);
  fs::directory_iterator entries(from, error);
  if (error) return copy_error(from, error);
  for (const fs::directory_entry& entry : entries) {
    const fs::path& path = entry.path();
    if (path.filename() == "LOCK" || entry.is_directory(error)) continue;
    if (is_immutable(path))
      fs::create_symlink(fs::absolute(path), to / path.filename(), error);
    else
      fs::copy_file(path, to / path.filename(), error);
    if (error) return copy_error(path, error);
  }
  return Status::ok();
}

}  // namespace

Expected<MetadataSnapshot> MetadataSnapshot::open(const std::string& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error))
    return Status(StatusCode::kNotFound, "there is no metadata in " + directory);
  std::string pattern = (fs::temp_directory_path(error) / "quirectl_XXXXXX").string();
  if (error || mkdtemp(pattern.data()) == nullptr)
    return Status(StatusCode::kIoError, "cannot make a temporary directory: set TMPDIR");
  MetadataSnapshot snapshot(pattern);
  if (fs::exists(fs::path(directory) / "FORMAT", error)) {
    fs::copy_file(fs::path(directory) / "FORMAT", fs::path(pattern) / "FORMAT", error);
    if (error) return copy_error(directory + "/FORMAT", error);
  }
  if (fs::is_directory(fs::path(directory) / "db", error))
    QUIRE_RETURN_IF_ERROR(copy_database(fs::path(directory) / "db", fs::path(pattern) / "db"));
  tiers::RocksOptions options;
  options.create_if_missing = false;
  auto store = tiers::RocksStore::open(pattern, options);
  if (!store) {
    // The message is to name the real directory.
    std::string message = store.status().message();
    for (size_t at = message.find(pattern); at != std::string::npos; at = message.find(pattern))
      message.replace(at, pattern.size(), directory);
    return Status(store.status().code(), message);
  }
  snapshot.store_ = std::move(*store);
  return snapshot;
}

MetadataSnapshot::~MetadataSnapshot() {
  store_.reset();
  std::error_code error;
  if (path_ != nullptr) fs::remove_all(*path_, error);
}

}  // namespace quire::ctl
