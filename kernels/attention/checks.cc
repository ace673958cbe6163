#include "kernels/attention/checks.h"

#include <math.h>

#include <initializer_list>

#include "kernels/math/layout.h"

namespace quire_kernels {
namespace {

constexpr int64_t kPositionLimit = int64_t{1} << 31;

struct Axis {
  uint64_t count;
  int64_t stride;  // bytes
};
struct Extent {
  int64_t low = 0;   // of the first byte, relative to the base
  int64_t high = 0;  // one past the last
};

bool aligned(const void* pointer, uint64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// The bytes that rows of row_bytes reach; false where an offset or an address overflows.
bool extent_of(const void* base, std::initializer_list<Axis> axes, uint64_t row_bytes,
               Extent* extent) {
  Extent at;
  at.high = static_cast<int64_t>(row_bytes);
  for (const Axis& axis : axes) {
    int64_t reach = 0;
    if (axis.count == 0 || axis.count > INT64_MAX) return false;
    if (__builtin_mul_overflow(static_cast<int64_t>(axis.count - 1), axis.stride, &reach))
      return false;
    int64_t* end = reach < 0 ? &at.low : &at.high;
    if (__builtin_add_overflow(*end, reach, end)) return false;
  }
  const uint64_t address = reinterpret_cast<uintptr_t>(base);
  uint64_t last = 0;
  if (address < uint64_t{0} - static_cast<uint64_t>(at.low) && at.low < 0) return false;
  if (__builtin_add_overflow(address, static_cast<uint64_t>(at.high), &last)) return false;
  *extent = at;
  return true;
}

bool fits(const void* base, std::initializer_list<Axis> axes, uint64_t row_bytes) {
  Extent extent;
  return extent_of(base, axes, row_bytes, &extent);
}

bool multiple(int64_t stride, uint32_t size) {
  return stride % static_cast<int64_t>(size) == 0;
}

// Rows that are written must not overlap each other.
bool apart(uint64_t count, int64_t stride, uint64_t row_bytes) {
  const uint64_t distance =
      stride < 0 ? uint64_t{0} - static_cast<uint64_t>(stride) : static_cast<uint64_t>(stride);
  return count <= 1 || distance >= row_bytes;
}

int check_head_rows(const quire_head_rows& rows, uint64_t n_rows, uint32_t n_heads, uint32_t dims,
                    bool written) {
  const uint32_t size = element_bytes(rows.dtype);
  if (size == 0) return QUIRE_KERNEL_UNSUPPORTED;
  if (rows.data == nullptr || !aligned(rows.data, size) || !multiple(rows.row_stride, size) ||
      !multiple(rows.head_stride, size))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  const uint64_t row_bytes = uint64_t{dims} * size;
  if (!fits(rows.data, {{n_rows, rows.row_stride}, {n_heads, rows.head_stride}}, row_bytes))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (written &&
      (!apart(n_rows, rows.row_stride, row_bytes) || !apart(n_heads, rows.head_stride, row_bytes)))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  return QUIRE_KERNEL_OK;
}

int check_heads(uint32_t n_query_heads, uint32_t n_kv_heads, uint32_t dims) {
  if (n_kv_heads == 0 || n_query_heads == 0 || n_query_heads > QUIRE_KERNEL_HEADS_MAX ||
      n_query_heads % n_kv_heads != 0 || dims == 0)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  return dims <= QUIRE_ATTENTION_DIMS_MAX ? QUIRE_KERNEL_OK : QUIRE_KERNEL_UNSUPPORTED;
}

bool good_threshold(float value) {
  return value >= 0 && isfinite(value);
}

int check_pages(const quire_paged_kv& kv, uint32_t n_heads, uint32_t key_dims,
                uint32_t value_dims) {
  const uint32_t size = element_bytes(kv.dtype);
  if (size == 0) return QUIRE_KERNEL_UNSUPPORTED;
  if (kv.page_tokens == 0 || kv.page_tokens > QUIRE_KERNEL_TOKENS_MAX || kv.n_pages <= 0 ||
      kv.key == nullptr || kv.value == nullptr || kv.block_table == nullptr)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (!aligned(kv.key, size) || !aligned(kv.value, size) || !aligned(kv.block_table, 4))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  for (int64_t stride : {kv.key_page_stride, kv.key_token_stride, kv.key_head_stride,
                         kv.value_page_stride, kv.value_token_stride, kv.value_head_stride})
    if (!multiple(stride, size)) return QUIRE_KERNEL_INVALID_ARGUMENT;
  const auto pages = static_cast<uint64_t>(kv.n_pages);
  const bool fit = fits(kv.key,
                        {{pages, kv.key_page_stride},
                         {kv.page_tokens, kv.key_token_stride},
                         {n_heads, kv.key_head_stride}},
                        uint64_t{key_dims} * size) &&
                   fits(kv.value,
                        {{pages, kv.value_page_stride},
                         {kv.page_tokens, kv.value_token_stride},
                         {n_heads, kv.value_head_stride}},
                        uint64_t{value_dims} * size);
  return fit ? QUIRE_KERNEL_OK : QUIRE_KERNEL_INVALID_ARGUMENT;
}

// That the tokens of a sequence whose pages begin at entry `begin` have pages that exist.
int check_table(const quire_paged_kv& kv, uint64_t begin, uint32_t tokens, bool on_host) {
  const uint64_t pages = (uint64_t{tokens} + kv.page_tokens - 1) / kv.page_tokens;
  if (begin > kv.block_table_entries || pages > kv.block_table_entries - begin)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (!on_host) return QUIRE_KERNEL_OK;
  for (uint64_t i = begin; i < begin + pages; ++i)
    if (kv.block_table[i] < 0 || kv.block_table[i] >= kv.n_pages)
      return QUIRE_KERNEL_INVALID_ARGUMENT;
  return QUIRE_KERNEL_OK;
}

int check_side_outputs(const quire_attend_rows_params& p, bool on_host) {
  if (p.lse != nullptr && !aligned(p.lse, 4)) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (!aligned(p.column_sums, 8) || !aligned(p.chunk_mass, 8)) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (p.chunk_mass == nullptr) return QUIRE_KERNEL_OK;
  if (p.token_chunk == nullptr || !aligned(p.token_chunk, 4) || p.n_chunks == 0 ||
      p.n_chunks > QUIRE_ATTENTION_CHUNKS_MAX)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (on_host)
    for (uint32_t token = 0; token < p.kv_tokens; ++token)
      if (p.token_chunk[token] >= static_cast<int64_t>(p.n_chunks))
        return QUIRE_KERNEL_INVALID_ARGUMENT;
  return QUIRE_KERNEL_OK;
}

int check_chunk(const quire_decode_chunks_params& p, const quire_chunk_kv& chunk) {
  if (chunk.frame != QUIRE_FRAME_LOCAL && chunk.frame != QUIRE_FRAME_PRE_ROPE)
    return QUIRE_KERNEL_UNSUPPORTED;
  if (plane_spec(chunk.key_codec, QUIRE_PLANE_KEY).kind == SectionKind::kUnknown ||
      plane_spec(chunk.value_codec, QUIRE_PLANE_VALUE).kind == SectionKind::kUnknown ||
      variable_size(chunk.key_codec) || variable_size(chunk.value_codec))
    return QUIRE_KERNEL_UNSUPPORTED;
  const uint64_t key_bytes =
      quire_section_bytes(chunk.key_codec, QUIRE_PLANE_KEY, chunk.n_tokens, p.n_kv_heads, p.dims);
  const uint64_t value_bytes = quire_section_bytes(chunk.value_codec, QUIRE_PLANE_VALUE,
                                                   chunk.n_tokens, p.n_kv_heads, p.dims);
  const bool good = key_bytes != 0 && key_bytes == chunk.key_bytes &&
                    value_bytes == chunk.value_bytes && chunk.key != nullptr &&
                    chunk.value != nullptr && aligned(chunk.key, 4) && aligned(chunk.value, 4) &&
                    aligned(chunk.key_bounds, 4) && chunk.base_position < kPositionLimit &&
                    chunk.base_position > -kPositionLimit;
  return good ? QUIRE_KERNEL_OK : QUIRE_KERNEL_INVALID_ARGUMENT;
}

int check_rope(const quire_decode_chunks_params& p) {
  if (p.rope_style == QUIRE_ROPE_STYLE_NONE) return QUIRE_KERNEL_OK;
  if (p.rope_style != QUIRE_ROPE_STYLE_NEOX && p.rope_style != QUIRE_ROPE_STYLE_INTERLEAVED)
    return QUIRE_KERNEL_UNSUPPORTED;
  if (p.rotary_dims == 0 || p.rotary_dims % 2 != 0 || p.rotary_dims > p.dims ||
      p.inverse_frequencies == nullptr || !aligned(p.inverse_frequencies, 4))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  for (uint32_t i = 0; i < p.rotary_dims / 2; ++i)
    if (!isfinite(p.inverse_frequencies[i])) return QUIRE_KERNEL_INVALID_ARGUMENT;
  return QUIRE_KERNEL_OK;
}

int check_requests(const quire_decode_chunks_params& p, bool on_host) {
  for (uint32_t i = 0; i < p.n_refs; ++i) {
    const quire_chunk_ref& ref = p.refs[i];
    if (ref.chunk >= p.n_chunks || ref.token_begin >= ref.token_end ||
        ref.token_end > p.chunks[ref.chunk].n_tokens || ref.start_position >= kPositionLimit ||
        ref.start_position <= -kPositionLimit)
      return QUIRE_KERNEL_INVALID_ARGUMENT;
  }
  bool pages_checked = false;
  for (uint32_t i = 0; i < p.n_requests; ++i) {
    const quire_decode_request& request = p.requests[i];
    if (request.ref_begin > request.ref_end || request.ref_end > p.n_refs ||
        (request.ref_begin == request.ref_end && request.tail_tokens == 0) ||
        request.tail_tokens > QUIRE_KERNEL_TOKENS_MAX)
      return QUIRE_KERNEL_INVALID_ARGUMENT;
    if (request.tail_tokens == 0) continue;
    int status =
        pages_checked ? QUIRE_KERNEL_OK : check_pages(p.tail, p.n_kv_heads, p.dims, p.dims);
    pages_checked = true;
    if (status == QUIRE_KERNEL_OK)
      status = check_table(p.tail, request.tail_table_begin, request.tail_tokens, on_host);
    if (status != QUIRE_KERNEL_OK) return status;
  }
  return QUIRE_KERNEL_OK;
}

int check_token_rows(const quire_token_rows& rows, uint32_t n_tokens, uint32_t n_heads,
                     uint32_t dims, bool written, bool on_host) {
  const uint32_t size = element_bytes(rows.dtype);
  if (size == 0) return QUIRE_KERNEL_UNSUPPORTED;
  const uint64_t row_bytes = uint64_t{dims} * size;
  if (rows.data == nullptr || !aligned(rows.data, size) || !multiple(rows.token_stride, size) ||
      !multiple(rows.head_stride, size) || rows.n_rows <= 0 || !aligned(rows.row, 8))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  const auto n_rows = static_cast<uint64_t>(rows.n_rows);
  if (!fits(rows.data, {{n_rows, rows.token_stride}, {n_heads, rows.head_stride}}, row_bytes))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (written && (!apart(n_rows, rows.token_stride, row_bytes) ||
                  !apart(n_heads, rows.head_stride, row_bytes)))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (rows.row == nullptr)
    return n_tokens <= n_rows ? QUIRE_KERNEL_OK : QUIRE_KERNEL_INVALID_ARGUMENT;
  if (on_host)
    for (uint32_t i = 0; i < n_tokens; ++i)
      if (rows.row[i] < 0 || rows.row[i] >= rows.n_rows) return QUIRE_KERNEL_INVALID_ARGUMENT;
  return QUIRE_KERNEL_OK;
}

bool token_shape(uint32_t n_tokens, uint32_t n_heads, uint32_t dims) {
  return n_tokens <= QUIRE_KERNEL_TOKENS_MAX && n_heads > 0 && n_heads <= QUIRE_KERNEL_HEADS_MAX &&
         dims > 0 && dims <= QUIRE_KERNEL_DIMS_MAX;
}

bool same_rows(const quire_token_rows& a, const quire_token_rows& b) {
  return a.data == b.data && a.dtype == b.dtype && a.token_stride == b.token_stride &&
         a.head_stride == b.head_stride && a.row == b.row;
}

bool rows_overlap(const quire_rotate_params& p) {
  Extent extents[2];
  const quire_token_rows* rows[2] = {&p.src, &p.dst};
  for (int i = 0; i < 2; ++i)
    extent_of(rows[i]->data,
              {{static_cast<uint64_t>(rows[i]->n_rows), rows[i]->token_stride},
               {p.n_heads, rows[i]->head_stride}},
              uint64_t{p.head_dim} * element_bytes(rows[i]->dtype), &extents[i]);
  const auto src = reinterpret_cast<uintptr_t>(p.src.data);
  const auto dst = reinterpret_cast<uintptr_t>(p.dst.data);
  return src + static_cast<uint64_t>(extents[0].low) <
             dst + static_cast<uint64_t>(extents[1].high) &&
         dst + static_cast<uint64_t>(extents[1].low) < src + static_cast<uint64_t>(extents[0].high);
}

int check_rotation(const quire_rotate_params& p) {
  const quire_rotation& rotation = p.rotation;
  if (rotation.style == QUIRE_ROPE_STYLE_NONE) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (rotation.style != QUIRE_ROPE_STYLE_NEOX && rotation.style != QUIRE_ROPE_STYLE_INTERLEAVED)
    return QUIRE_KERNEL_UNSUPPORTED;
  const int64_t row_bytes = int64_t{rotation.rotary_dims} * 4;
  const bool good =
      rotation.table != nullptr && aligned(rotation.table, 4) && rotation.rotary_dims > 0 &&
      rotation.rotary_dims % 2 == 0 && rotation.rotary_dims <= p.head_dim &&
      rotation.table_token_stride % 4 == 0 &&
      (rotation.table_token_stride == 0 || rotation.table_token_stride >= row_bytes) &&
      fits(rotation.table, {{p.n_tokens, rotation.table_token_stride}},
           static_cast<uint64_t>(row_bytes));
  return good ? QUIRE_KERNEL_OK : QUIRE_KERNEL_INVALID_ARGUMENT;
}

}  // namespace

int check_attend_rows(const quire_attend_rows_params* params, bool on_host) {
  if (params == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  const quire_attend_rows_params& p = *params;
  if (p.struct_bytes != sizeof(p)) return QUIRE_KERNEL_BAD_STRUCT;
  int status = check_heads(p.n_query_heads, p.n_kv_heads, p.key_dims);
  if (status == QUIRE_KERNEL_OK) status = check_heads(p.n_query_heads, p.n_kv_heads, p.value_dims);
  if (status != QUIRE_KERNEL_OK) return status;
  if (p.n_rows > QUIRE_ATTENTION_ROWS_MAX || p.kv_tokens == 0 ||
      p.kv_tokens > QUIRE_KERNEL_TOKENS_MAX || !isfinite(p.scale) || !good_threshold(p.softcap))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  status = check_pages(p.kv, p.n_kv_heads, p.key_dims, p.value_dims);
  if (status == QUIRE_KERNEL_OK) status = check_table(p.kv, 0, p.kv_tokens, on_host);
  if (status == QUIRE_KERNEL_OK) status = check_side_outputs(p, on_host);
  if (status != QUIRE_KERNEL_OK || p.n_rows == 0) return status;
  status = check_head_rows(p.query, p.n_rows, p.n_query_heads, p.key_dims, false);
  if (status == QUIRE_KERNEL_OK)
    status = check_head_rows(p.out, p.n_rows, p.n_query_heads, p.value_dims, true);
  if (status != QUIRE_KERNEL_OK) return status;
  if (p.q_pos == nullptr || !aligned(p.q_pos, 8)) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (on_host)
    for (uint32_t row = 0; row < p.n_rows; ++row)
      if (p.q_pos[row] < 0 || p.q_pos[row] >= p.kv_tokens) return QUIRE_KERNEL_INVALID_ARGUMENT;
  return QUIRE_KERNEL_OK;
}

int check_decode_chunks(const quire_decode_chunks_params* params, bool on_host) {
  if (params == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  const quire_decode_chunks_params& p = *params;
  if (p.struct_bytes != sizeof(p)) return QUIRE_KERNEL_BAD_STRUCT;
  int status = check_heads(p.n_query_heads, p.n_kv_heads, p.dims);
  if (status != QUIRE_KERNEL_OK || p.n_requests == 0) return status;
  if (p.n_requests > QUIRE_ATTENTION_ROWS_MAX || p.n_chunks > QUIRE_ATTENTION_CHUNKS_MAX ||
      p.n_refs > QUIRE_ATTENTION_CHUNKS_MAX || !isfinite(p.scale) || !good_threshold(p.softcap) ||
      !good_threshold(p.page_threshold) || !good_threshold(p.block_threshold) ||
      (p.page_threshold > 0 && p.page_tokens == 0) || p.requests == nullptr ||
      (p.n_refs > 0 && (p.refs == nullptr || p.chunks == nullptr)) || !aligned(p.lse, 4))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  status = check_head_rows(p.query, p.n_requests, p.n_query_heads, p.dims, false);
  if (status == QUIRE_KERNEL_OK)
    status = check_head_rows(p.out, p.n_requests, p.n_query_heads, p.dims, true);
  if (status == QUIRE_KERNEL_OK) status = check_rope(p);
  if (p.n_refs > 0)
    for (uint32_t i = 0; i < p.n_chunks && status == QUIRE_KERNEL_OK; ++i)
      status = check_chunk(p, p.chunks[i]);
  return status == QUIRE_KERNEL_OK ? check_requests(p, on_host) : status;
}

int check_key_bounds(const quire_key_bounds_params* params) {
  if (params == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  const quire_key_bounds_params& p = *params;
  if (p.struct_bytes != sizeof(p)) return QUIRE_KERNEL_BAD_STRUCT;
  if (plane_spec(p.codec, QUIRE_PLANE_KEY).kind == SectionKind::kUnknown || variable_size(p.codec))
    return QUIRE_KERNEL_UNSUPPORTED;
  const int status = check_heads(p.n_heads, p.n_heads, p.head_dim);
  if (status != QUIRE_KERNEL_OK) return status;
  const uint64_t bytes =
      quire_section_bytes(p.codec, QUIRE_PLANE_KEY, p.n_tokens, p.n_heads, p.head_dim);
  if (bytes == 0 || p.key_bytes != bytes || p.page_tokens == 0 || p.key == nullptr ||
      p.bounds == nullptr || !aligned(p.key, 4) || !aligned(p.bounds, 4))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  const uint64_t pages = (uint64_t{p.n_tokens} + p.page_tokens - 1) / p.page_tokens;
  return p.bounds_bytes >= p.n_heads * pages * 8 * p.head_dim ? QUIRE_KERNEL_OK
                                                              : QUIRE_KERNEL_INVALID_ARGUMENT;
}

int check_deviation(const quire_deviation_params* params, bool on_host) {
  if (params == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  const quire_deviation_params& p = *params;
  if (p.struct_bytes != sizeof(p)) return QUIRE_KERNEL_BAD_STRUCT;
  if (p.norm != QUIRE_DEVIATION_SQUARED && p.norm != QUIRE_DEVIATION_ABSOLUTE)
    return QUIRE_KERNEL_UNSUPPORTED;
  if (!token_shape(p.n_tokens, p.n_heads, p.head_dim)) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (p.n_tokens == 0) return QUIRE_KERNEL_OK;
  if (p.deviation == nullptr || !aligned(p.deviation, 4)) return QUIRE_KERNEL_INVALID_ARGUMENT;
  const int status = check_token_rows(p.a, p.n_tokens, p.n_heads, p.head_dim, false, on_host);
  return status == QUIRE_KERNEL_OK
             ? check_token_rows(p.b, p.n_tokens, p.n_heads, p.head_dim, false, on_host)
             : status;
}

int check_top_tokens(const quire_top_tokens_params* params) {
  if (params == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  const quire_top_tokens_params& p = *params;
  if (p.struct_bytes != sizeof(p)) return QUIRE_KERNEL_BAD_STRUCT;
  if (p.n_tokens > QUIRE_KERNEL_TOKENS_MAX || p.k > p.n_tokens)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (p.k == 0) return QUIRE_KERNEL_OK;
  const bool good = p.score != nullptr && p.chosen != nullptr && aligned(p.score, 4) &&
                    aligned(p.weight, 8) && aligned(p.chosen, 4);
  return good ? QUIRE_KERNEL_OK : QUIRE_KERNEL_INVALID_ARGUMENT;
}

int check_rotate(const quire_rotate_params* params, bool on_host) {
  if (params == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  const quire_rotate_params& p = *params;
  if (p.struct_bytes != sizeof(p)) return QUIRE_KERNEL_BAD_STRUCT;
  if (!token_shape(p.n_tokens, p.n_heads, p.head_dim)) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (p.n_tokens == 0) return QUIRE_KERNEL_OK;
  int status = check_token_rows(p.src, p.n_tokens, p.n_heads, p.head_dim, false, on_host);
  if (status == QUIRE_KERNEL_OK)
    status = check_token_rows(p.dst, p.n_tokens, p.n_heads, p.head_dim, true, on_host);
  if (status == QUIRE_KERNEL_OK) status = check_rotation(p);
  if (status != QUIRE_KERNEL_OK) return status;
  return same_rows(p.src, p.dst) || !rows_overlap(p) ? QUIRE_KERNEL_OK
                                                     : QUIRE_KERNEL_INVALID_ARGUMENT;
}

}  // namespace quire_kernels
