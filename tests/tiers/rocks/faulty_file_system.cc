#include "tests/tiers/rocks/faulty_file_system.h"

#include <filesystem>
#include <utility>

namespace quire::tiers {
namespace {

using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;

// The sizes follow from the appends: RocksDB writes each file from its start, in order.
class FaultyFile final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  FaultyFile(FaultyFileSystem& owner, std::string name,
             std::unique_ptr<rocksdb::FSWritableFile>&& target)
      : FSWritableFileOwnerWrapper(std::move(target)), owner_(owner), name_(std::move(name)) {}

  using FSWritableFileOwnerWrapper::Append;
  IOStatus Append(const rocksdb::Slice& data, const IOOptions& options,
                  IODebugContext* debug) override {
    if (IOStatus status = owner_.before_write(); !status.ok()) return status;
    IOStatus status = FSWritableFileOwnerWrapper::Append(data, options, debug);
    if (status.ok()) bytes_ += data.size();
    return status;
  }
  IOStatus Append(const rocksdb::Slice& data, const IOOptions& options,
                  const rocksdb::DataVerificationInfo& info, IODebugContext* debug) override {
    if (IOStatus status = owner_.before_write(); !status.ok()) return status;
    IOStatus status = FSWritableFileOwnerWrapper::Append(data, options, info, debug);
    if (status.ok()) bytes_ += data.size();
    return status;
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* debug) override {
    if (IOStatus status = owner_.before_sync(); !status.ok()) return status;
    IOStatus status = FSWritableFileOwnerWrapper::Sync(options, debug);
    if (status.ok()) owner_.synced(name_, bytes_);
    return status;
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    if (IOStatus status = owner_.before_sync(); !status.ok()) return status;
    IOStatus status = FSWritableFileOwnerWrapper::Fsync(options, debug);
    if (status.ok()) owner_.synced(name_, bytes_);
    return status;
  }

 private:
  FaultyFileSystem& owner_;
  std::string name_;
  uint64_t bytes_ = 0;
};

// The LOG of RocksDB is for people: its lines fail silently and say nothing of the data.
bool is_information_log(const std::string& name) {
  return std::filesystem::path(name).filename().string().starts_with("LOG");
}

}  // namespace

void FaultyFileSystem::arm(Fault fault, int64_t healthy) {
  healthy_ = healthy;
  fault_ = fault;
}

void FaultyFileSystem::lose_unsynced() {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, bytes] : synced_bytes_) {
    std::error_code error;
    if (std::filesystem::exists(name, error)) std::filesystem::resize_file(name, bytes, error);
  }
  synced_bytes_.clear();
}

IOStatus FaultyFileSystem::NewWritableFile(const std::string& name,
                                           const rocksdb::FileOptions& options,
                                           std::unique_ptr<rocksdb::FSWritableFile>* result,
                                           IODebugContext* debug) {
  std::unique_ptr<rocksdb::FSWritableFile> file;
  IOStatus status = FileSystemWrapper::NewWritableFile(name, options, &file, debug);
  if (!status.ok()) return status;
  if (is_information_log(name)) {
    *result = std::move(file);
    return status;
  }
  synced(name, 0);
  *result = std::make_unique<FaultyFile>(*this, name, std::move(file));
  return status;
}

IOStatus FaultyFileSystem::RenameFile(const std::string& from, const std::string& to,
                                      const IOOptions& options, IODebugContext* debug) {
  IOStatus status = FileSystemWrapper::RenameFile(from, to, options, debug);
  const std::lock_guard lock(mutex_);
  if (auto moved = synced_bytes_.extract(from); status.ok() && !moved.empty())
    synced_bytes_[to] = moved.mapped();
  return status;
}

IOStatus FaultyFileSystem::DeleteFile(const std::string& name, const IOOptions& options,
                                      IODebugContext* debug) {
  IOStatus status = FileSystemWrapper::DeleteFile(name, options, debug);
  const std::lock_guard lock(mutex_);
  if (status.ok()) synced_bytes_.erase(name);
  return status;
}

IOStatus FaultyFileSystem::fail(bool applies, const char* what) {
  if (!applies || healthy_.fetch_sub(1) > 0) return IOStatus::OK();
  ++faults_;
  return fault_ == Fault::kWriteNoSpace ? IOStatus::NoSpace(what) : IOStatus::IOError(what);
}

IOStatus FaultyFileSystem::before_write() {
  const Fault fault = fault_;
  return fail(fault == Fault::kWriteIoError || fault == Fault::kWriteNoSpace, "injected");
}

IOStatus FaultyFileSystem::before_sync() {
  return fail(fault_ == Fault::kSyncIoError, "injected sync");
}

void FaultyFileSystem::synced(const std::string& name, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  synced_bytes_[name] = bytes;
}

}  // namespace quire::tiers
