// Reads one object and proves that it is the one asked for.
#ifndef QUIRE_TIERS_NVME_OBJECT_READER_H_
#define QUIRE_TIERS_NVME_OBJECT_READER_H_

#include <functional>
#include <memory>
#include <vector>

#include "tiers/io/aligned_buffer.h"
#include "tiers/nvme/store_context.h"

namespace quire::nvme {

class ObjectReader {
 public:
  explicit ObjectReader(StoreContext& context);
  ~ObjectReader();

  void read(const Digest& key, const NvmeLocation& location, Hash128 expected,
            MutableByteSpan target, std::function<void(Status)> done);

 private:
  struct Operation;
  using Shared = std::shared_ptr<Operation>;  // shared by its two reads

  Status check_request(const NvmeLocation& location, MutableByteSpan target) const;
  void finish_part(const Shared& operation, const Status& status);
  void verify_header(const Shared& operation);
  void verify_payload(const Shared& operation);
  void finish(const Shared& operation, const Status& status);
  AlignedBuffer take_block();

  StoreContext& context_;
  std::vector<AlignedBuffer> free_blocks_;
  // Outlived by offloaded tasks, which look at it before they touch the reader: hence shared.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_OBJECT_READER_H_
