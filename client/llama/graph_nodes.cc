#include "client/llama/graph_nodes.h"

#include <charconv>
#include <cstring>

#include "ggml-backend.h"
#include "ggml.h"

namespace quire {

int layer_of_name(const char* name, const char* prefix) {
  const size_t length = std::strlen(prefix);
  if (std::strncmp(name, prefix, length) != 0) return -1;
  const char* first = name + length;
  const char* last = first + std::strlen(first);
  int layer = -1;
  const auto result = std::from_chars(first, last, layer);
  return result.ec == std::errc() && result.ptr == last ? layer : -1;
}

bool in_host_memory(const ggml_tensor* node) {
  if (node == nullptr || node->data == nullptr) return false;
  const ggml_tensor* owner = node->view_src != nullptr ? node->view_src : node;
  return owner->buffer == nullptr || ggml_backend_buffer_is_host(owner->buffer);
}

}  // namespace quire
