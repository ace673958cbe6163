// RocksDB's file system with faults: writes or syncs that fail, and a power failure that takes what
// was not synced. Files only; directory entries are taken as synced.
#ifndef QUIRE_TESTS_TIERS_ROCKS_FAULTY_FILE_SYSTEM_H_
#define QUIRE_TESTS_TIERS_ROCKS_FAULTY_FILE_SYSTEM_H_

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace quire::tiers {

enum class Fault : uint8_t { kNone, kWriteIoError, kWriteNoSpace, kSyncIoError };

class FaultyFileSystem : public rocksdb::FileSystemWrapper {
 public:
  FaultyFileSystem() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  const char* Name() const override { return "FaultyFileSystem"; }

  // After `healthy` more calls of its kind, until told otherwise.
  void arm(Fault fault, int64_t healthy = 0);
  // How often a fault was given out.
  uint64_t faults() const { return faults_; }
  // Cuts every file that was written to its synced length; nobody may have them open.
  void lose_unsynced();

  rocksdb::IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* result,
                                    rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus RenameFile(const std::string& from, const std::string& to,
                               const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus DeleteFile(const std::string& name, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;

  // For the files.
  rocksdb::IOStatus before_write();
  rocksdb::IOStatus before_sync();
  void synced(const std::string& name, uint64_t bytes);

 private:
  rocksdb::IOStatus fail(bool applies, const char* what);

  std::atomic<Fault> fault_{Fault::kNone};
  std::atomic<int64_t> healthy_{0};
  std::atomic<uint64_t> faults_{0};
  std::mutex mutex_;
  std::map<std::string, uint64_t> synced_bytes_;
};

}  // namespace quire::tiers

#endif  // QUIRE_TESTS_TIERS_ROCKS_FAULTY_FILE_SYSTEM_H_
