// Names that libllama gives the nodes of its graphs and its cache tensors. They are not its API:
// the engine's self test proves them, and every use counts what it met.
#ifndef QUIRE_CLIENT_LLAMA_GRAPH_NODES_H_
#define QUIRE_CLIENT_LLAMA_GRAPH_NODES_H_

struct ggml_tensor;

namespace quire {

inline constexpr const char* kTokenIdsName = "inp_tokens";
inline constexpr const char* kKeyCachePrefix = "cache_k_l";
inline constexpr const char* kValueCachePrefix = "cache_v_l";
inline constexpr const char* kKeyPrefix = "Kcur-";
inline constexpr const char* kProductPrefix = "kq-";  // K q, before the scale
inline constexpr const char* kSoftMaxPrefix = "kq_soft_max-";

// The number behind "prefix" in a node name such as "kq_soft_max-7"; -1 where it is another name.
int layer_of_name(const char* name, const char* prefix);

// Whether node->data can be read and written here: false for null and for a device's memory.
bool in_host_memory(const ggml_tensor* node);

}  // namespace quire

#endif  // QUIRE_CLIENT_LLAMA_GRAPH_NODES_H_
