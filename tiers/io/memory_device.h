// A device in memory for tests and simulation: completes only when polled, can complete in seeded
// random order, and knows what would be on disk after a power cut.
#ifndef QUIRE_TIERS_IO_MEMORY_DEVICE_H_
#define QUIRE_TIERS_IO_MEMORY_DEVICE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "tiers/io/block_device.h"
#include "tiers/io/seeded_random.h"

namespace quire {

// What a power cut did, for tests that must know that it did something.
struct PowerCut {
  uint64_t unsynced_blocks = 0;  // written since they were last durable
  uint64_t reverted_blocks = 0;  // of those: not the last contents any more
  uint64_t torn_blocks = 0;      // a mix of two contents
  bool reordered = false;        // a write was lost while a later one was kept
};

// The contents, shared between a device and the one that is opened after a "restart". Single
// thread.
class MemoryImage {
 public:
  explicit MemoryImage(uint64_t bytes);

  uint64_t size_bytes() const { return current_.size(); }
  MutableByteSpan bytes() { return current_; }
  void write(uint64_t offset, ByteSpan source);
  // Number of writes so far, to name a point in time.
  uint64_t writes() const { return writes_; }
  // Everything written up to that point is durable.
  void make_durable(uint64_t up_to_writes);
  // A power cut: each block that was written since it was last durable gets the durable contents or
  // any of the later ones, sometimes a mix of two by 512-byte sector.
  PowerCut cut_power(SeededRandom& random);

 private:
  using Block = std::unique_ptr<std::byte[]>;
  // What a block held before, oldest (durable) first, with the write that put it there.
  struct Version {
    uint64_t write = 0;
    Block bytes;
  };
  struct History {
    uint64_t current_write = 0;  // that put the current contents there
    std::vector<Version> older;
  };
  Block take_block();
  void give_blocks(std::vector<Version>& versions, size_t count);

  std::vector<std::byte> current_;
  std::vector<History> histories_;  // by block
  std::vector<uint64_t> dirty_;     // blocks with older versions
  std::vector<Block> free_blocks_;
  uint64_t writes_ = 0;
};

struct MemoryDeviceOptions {
  bool shuffle = false;  // complete operations in flight in random order
  uint64_t seed = 1;
};

class MemoryDevice final : public BlockDevice {
 public:
  // The image is shared because it outlives the device in a simulated restart.
  explicit MemoryDevice(std::shared_ptr<MemoryImage> image, MemoryDeviceOptions options = {});
  explicit MemoryDevice(uint64_t bytes);
  // Writes in flight reach the image block by block or not at all, as in a crash.
  ~MemoryDevice() override;

  void read(uint64_t offset, MutableByteSpan target, DeviceCallback done) override;
  void write(uint64_t offset, ByteSpan source, DeviceCallback done) override;
  void sync(DeviceCallback done) override;
  void defer(std::function<void()> task) override;
  Status read_blocking(uint64_t offset, MutableByteSpan target) override;
  Status write_blocking(uint64_t offset, ByteSpan source) override;
  Status sync_blocking() override;
  // Completes one operation.
  bool poll() override;
  uint64_t size_bytes() const override { return image_->size_bytes(); }
  uint64_t inflight_bytes() const override { return inflight_bytes_; }
  std::string backend() const override { return "memory"; }

 private:
  enum class Kind : uint8_t { kRead, kWrite, kSync, kRefused };
  struct Operation {
    Kind kind = Kind::kRead;
    uint64_t offset = 0;
    std::byte* target = nullptr;
    const std::byte* source = nullptr;
    uint64_t bytes = 0;
    uint64_t durable_writes = 0;
    Status refusal;
    DeviceCallback done;
  };
  void enqueue(Operation operation);

  std::shared_ptr<MemoryImage> image_;
  MemoryDeviceOptions options_;
  SeededRandom random_;
  std::vector<Operation> operations_;
  uint64_t inflight_bytes_ = 0;
};

}  // namespace quire

#endif  // QUIRE_TIERS_IO_MEMORY_DEVICE_H_
