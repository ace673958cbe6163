// The caller's KV memory of the C ABI as the C++ API sees it.
#ifndef QUIRE_CLIENT_CAPI_KV_MEMORY_H_
#define QUIRE_CLIENT_CAPI_KV_MEMORY_H_

#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "client/capi/quire_kv.h"
#include "client/reuse/engine_memory.h"

namespace quire::capi {

class KvMemory {
 public:
  // Copies the structs, borrows what they point to. kInvalidArgument where they do not fit the
  // model's layers [layer_begin, layer_end).
  static Expected<KvMemory> read(const quire_kv_memory& source, const ModelDescriptor& model,
                                 const Coverage& coverage);

  // The callbacks refer to this object.
  reuse::EnginePlaneOf planes() const;
  reuse::RowMap rows() const;
  reuse::Angles angles() const;

 private:
  Status read_ropes(size_t n_layers);

  quire_kv_memory memory_{};
  uint32_t layer_begin_ = 0;
  std::vector<quire_kv_plane> planes_;
  std::vector<quire_engine_rope> ropes_;
};

}  // namespace quire::capi

#endif  // QUIRE_CLIENT_CAPI_KV_MEMORY_H_
