// quire_cuda_decode_chunks: checks, the plan (which piece is whose, the turn of each ref), the
// pieces, and the merge of their partial results by log-sum-exp.
#include "kernels/attention/checks.h"
#include "kernels/cuda/attention/common.cuh"
#include "kernels/cuda/attention/decode_chunks.h"

namespace quire_cuda {
namespace {

constexpr uint32_t kPlanThreads = 256;
constexpr uint32_t kMergeThreads = 128;

// Numbers items and pieces: a thread counts a stretch of requests, the first adds the stretches up.
QUIRE_DEVICE void number_pieces(const DecodeArguments& a) {
  QUIRE_SHARED(uint32_t, items, kPlanThreads + 1);
  QUIRE_SHARED(uint32_t, pieces, kPlanThreads + 1);
  const uint32_t stretch = (a.n_requests + kPlanThreads - 1) / kPlanThreads;
  const uint32_t begin = threadIdx.x * stretch;
  const uint32_t end = begin + stretch < a.n_requests ? begin + stretch : a.n_requests;
  for (uint32_t pass = 0; pass < 2; ++pass) {
    uint32_t item = pass == 0 ? 0 : items[threadIdx.x];
    uint32_t piece = pass == 0 ? 0 : pieces[threadIdx.x];
    for (uint32_t r = begin; r < end; ++r) {
      const quire_decode_request& request = a.requests[r];
      const uint32_t refs = request.ref_end - request.ref_begin;
      if (pass == 1) a.item_begin[r] = item;
      for (uint32_t i = 0; i < refs + (request.tail_tokens > 0 ? 1 : 0); ++i) {
        if (pass == 1) a.piece_begin[item] = piece;
        const uint32_t tokens = i == refs ? request.tail_tokens
                                          : a.refs[request.ref_begin + i].token_end -
                                                a.refs[request.ref_begin + i].token_begin;
        piece += pieces_of(tokens);
        ++item;
      }
    }
    if (pass == 1) break;
    items[threadIdx.x + 1] = item;
    pieces[threadIdx.x + 1] = piece;
    sync_block();
    if (threadIdx.x == 0) {
      items[0] = 0;
      pieces[0] = 0;
      for (uint32_t i = 0; i < kPlanThreads; ++i) {
        items[i + 1] += items[i];
        pieces[i + 1] += pieces[i];
      }
      a.item_begin[a.n_requests] = items[kPlanThreads];
      a.piece_begin[a.n_items] = pieces[kPlanThreads];
    }
    sync_block();
  }
}

// Block 0 numbers the pieces; one block for each request checks its pages; one for each ref makes
// the turn from the query's frame to the chunk's, with fp64 angles.
__global__ void __launch_bounds__(kPlanThreads)
    plan_decode(const __grid_constant__ DecodeArguments a) {
  if (blockIdx.x == 0) {
    number_pieces(a);
  } else if (blockIdx.x <= a.n_requests) {
    const quire_decode_request& request = a.requests[blockIdx.x - 1];
    if (request.tail_tokens == 0) return;
    const uint32_t pages = (request.tail_tokens + a.tail.page_tokens - 1) / a.tail.page_tokens;
    for (uint32_t i = threadIdx.x; i < pages; i += kPlanThreads) {
      const int32_t page = a.tail.block_table[request.tail_table_begin + i];
      if (page < 0 || page >= a.tail.n_pages) set_status(a.status, QUIRE_KERNEL_INVALID_ARGUMENT);
    }
  } else {
    const uint32_t index = blockIdx.x - 1 - a.n_requests;
    const quire_chunk_ref& ref = a.refs[index];
    const auto delta = static_cast<double>(a.chunks[ref.chunk].base_position - ref.start_position);
    float* turns = a.turns + static_cast<uint64_t>(index) * a.rotary_dims;
    for (uint32_t j = threadIdx.x; j < a.rotary_dims / 2; j += kPlanThreads) {
      const double angle = delta * static_cast<double>(a.inverse_frequencies[j]);
      turns[2 * j] = static_cast<float>(cos(angle));
      turns[2 * j + 1] = static_cast<float>(sin(angle));
    }
  }
}

__global__ void __launch_bounds__(kMergeThreads)
    merge_pieces(const __grid_constant__ DecodeArguments a) {
  if (*a.status != 0) return;
  const uint32_t row = blockIdx.x;
  const uint32_t head = blockIdx.y;
  const uint32_t begin = a.piece_begin[a.item_begin[row]];
  const uint32_t end = a.piece_begin[a.item_begin[row + 1]];
  auto index_of = [&](uint32_t piece) {
    return static_cast<uint64_t>(piece) * a.n_query_heads + head;
  };
  float most = -static_cast<float>(INFINITY);
  for (uint32_t piece = begin; piece < end; ++piece)
    most = fmaxf(most, a.state[2 * index_of(piece)]);
  float total = 0;
  for (uint32_t piece = begin; piece < end; ++piece)
    total = fmaf(a.state[2 * index_of(piece) + 1], exp2_fast(a.state[2 * index_of(piece)] - most),
                 total);
  unsigned char* out =
      static_cast<unsigned char*>(a.out.data) + row * a.out.row_stride + head * a.out.head_stride;
  const uint32_t size = quire_kernels::element_bytes(a.out.dtype);
  for (uint32_t d = threadIdx.x; d < a.dims; d += kMergeThreads) {
    float sum = 0;
    for (uint32_t piece = begin; piece < end; ++piece)
      sum = fmaf(a.partial[index_of(piece) * a.dims + d],
                 exp2_fast(a.state[2 * index_of(piece)] - most), sum);
    store_element(a.out.dtype, sum / total, out + static_cast<int64_t>(d) * size);
  }
  if (a.lse != nullptr && threadIdx.x == 0)
    a.lse[static_cast<uint64_t>(row) * a.n_query_heads + head] = (most + log2_fast(total)) * kLn2;
}

bool supported_codec(int32_t codec) {
  return codec != QUIRE_CODEC_RAW_F32;
}

int check(const quire_decode_chunks_params* params) {
  const int status = quire_kernels::check_decode_chunks(params, false);
  if (status != QUIRE_KERNEL_OK || params->n_requests == 0) return status;
  const quire_decode_chunks_params& p = *params;
  if (p.dims % kMmaDepth != 0) return QUIRE_KERNEL_UNSUPPORTED;
  for (uint32_t i = 0; p.n_refs > 0 && i < p.n_chunks; ++i) {
    const quire_chunk_kv& chunk = p.chunks[i];
    if (!supported_codec(chunk.key_codec) || !supported_codec(chunk.value_codec) ||
        (chunk.frame == QUIRE_FRAME_PRE_ROPE && p.rope_style != QUIRE_ROPE_STYLE_NONE))
      return QUIRE_KERNEL_UNSUPPORTED;
    if (!vector_aligned(reinterpret_cast<uintptr_t>(chunk.key)) ||
        !vector_aligned(reinterpret_cast<uintptr_t>(chunk.value)))
      return QUIRE_KERNEL_INVALID_ARGUMENT;
  }
  for (uint32_t i = 0; i < p.n_requests; ++i) {
    if (p.requests[i].tail_tokens == 0) continue;
    if (p.tail.dtype == QUIRE_DTYPE_F32) return QUIRE_KERNEL_UNSUPPORTED;
    if (!vector_pages(p.tail)) return QUIRE_KERNEL_INVALID_ARGUMENT;
  }
  return QUIRE_KERNEL_OK;
}

uint32_t stage_bytes_of(int32_t codec, int32_t plane, uint32_t dims) {
  const auto row = quire_kernels::row_stride(
      quire_kernels::plane_view(codec, plane, nullptr, kTileTokens, dims, 0));
  return static_cast<uint32_t>((kTileTokens * row + 15) / 16 * 16 + 16);
}

// Everything but pointers; false where there are more pieces than a launch takes.
bool count(const quire_decode_chunks_params& p, DecodeArguments* a) {
  uint64_t items = 0;
  uint64_t pieces = 0;
  a->stage_bytes = 0;
  for (uint32_t i = 0; i < p.n_requests; ++i) {
    const quire_decode_request& request = p.requests[i];
    items += request.ref_end - request.ref_begin + (request.tail_tokens > 0 ? 1 : 0);
    if (items > kPiecesMax) return false;
    for (uint32_t r = request.ref_begin; r < request.ref_end; ++r)
      pieces += pieces_of(p.refs[r].token_end - p.refs[r].token_begin);
    pieces += pieces_of(request.tail_tokens);
    if (request.tail_tokens == 0) continue;
    const uint32_t bytes = stage_bytes_of(p.tail.dtype, QUIRE_PLANE_KEY, p.dims);
    a->stage_bytes = bytes > a->stage_bytes ? bytes : a->stage_bytes;
  }
  if (pieces > kPiecesMax) return false;
  for (uint32_t i = 0; p.n_refs > 0 && i < p.n_chunks; ++i) {
    const uint32_t keys = stage_bytes_of(p.chunks[i].key_codec, QUIRE_PLANE_KEY, p.dims);
    const uint32_t values = stage_bytes_of(p.chunks[i].value_codec, QUIRE_PLANE_VALUE, p.dims);
    const uint32_t most = keys > values ? keys : values;
    a->stage_bytes = most > a->stage_bytes ? most : a->stage_bytes;
  }
  a->n_items = static_cast<uint32_t>(items);
  a->n_pieces = static_cast<uint32_t>(pieces);
  return true;
}

// Lays the workspace out from `base` (which may be null) and returns its size.
uint64_t lay_out(const quire_decode_chunks_params& p, unsigned char* base, DecodeArguments* a) {
  uint64_t used = 0;
  auto take = [&](uint64_t bytes) {
    unsigned char* at = base + used;
    used += align_workspace(bytes);
    return at;
  };
  const uint64_t rows = uint64_t{a->n_pieces} * p.n_query_heads;
  a->chunks =
      reinterpret_cast<quire_chunk_kv*>(take(uint64_t{p.n_chunks} * sizeof(quire_chunk_kv)));
  a->refs = reinterpret_cast<quire_chunk_ref*>(take(uint64_t{p.n_refs} * sizeof(quire_chunk_ref)));
  a->requests = reinterpret_cast<quire_decode_request*>(
      take(uint64_t{p.n_requests} * sizeof(quire_decode_request)));
  a->inverse_frequencies = reinterpret_cast<float*>(take(uint64_t{p.dims} * 4));
  a->item_begin = reinterpret_cast<uint32_t*>(take(uint64_t{p.n_requests + 1} * 4));
  a->piece_begin = reinterpret_cast<uint32_t*>(take(uint64_t{a->n_items + 1} * 4));
  a->turns = reinterpret_cast<float*>(take(uint64_t{p.n_refs} * p.rotary_dims * 4));
  a->partial = reinterpret_cast<float*>(take(rows * p.dims * 4));
  a->state = reinterpret_cast<float*>(take(rows * 8));
  return used;
}

int upload(const quire_decode_chunks_params& p, const DecodeArguments& a, void* stream) {
  auto copy = [stream](const void* to, const void* from, uint64_t bytes) {
    return bytes == 0 ? 0 : copy_async(const_cast<void*>(to), from, bytes, stream);
  };
  const bool turns = p.rope_style != QUIRE_ROPE_STYLE_NONE;
  int error = copy(a.requests, p.requests, uint64_t{p.n_requests} * sizeof(*p.requests));
  if (error == 0 && p.n_refs > 0)
    error = copy(a.chunks, p.chunks, uint64_t{p.n_chunks} * sizeof(*p.chunks));
  if (error == 0) error = copy(a.refs, p.refs, uint64_t{p.n_refs} * sizeof(*p.refs));
  if (error == 0 && turns)
    error = copy(a.inverse_frequencies, p.inverse_frequencies, uint64_t{p.rotary_dims} * 2);
  return error;
}

DecodeArguments arguments_of(const quire_decode_chunks_params& p) {
  DecodeArguments a{};
  a.query = p.query;
  a.out = p.out;
  a.tail = p.tail;
  a.lse = p.lse;
  a.n_requests = p.n_requests;
  a.n_refs = p.n_refs;
  a.n_query_heads = p.n_query_heads;
  a.n_kv_heads = p.n_kv_heads;
  a.dims = p.dims;
  a.rotary_dims = p.rope_style == QUIRE_ROPE_STYLE_NONE ? 0 : p.rotary_dims;
  a.rope_style = p.rope_style;
  a.scale = p.scale;
  a.softcap = p.softcap;
  a.block_threshold = p.block_threshold;
  bool bounds = false;
  for (uint32_t i = 0; p.n_refs > 0 && i < p.n_chunks; ++i)
    bounds |= p.chunks[i].key_bounds != nullptr;
  a.page_threshold = bounds ? p.page_threshold : 0;
  a.page_tokens = p.page_tokens;
  a.wave = DecodeWave::kAll;
  return a;
}

}  // namespace
}  // namespace quire_cuda

extern "C" {

uint64_t quire_cuda_decode_chunks_workspace_bytes(const struct quire_decode_chunks_params* params) {
  using namespace quire_cuda;
  if (check(params) != QUIRE_KERNEL_OK || params->n_requests == 0) return 0;
  DecodeArguments a = arguments_of(*params);
  return count(*params, &a) ? lay_out(*params, nullptr, &a) : 0;
}

int quire_cuda_decode_chunks(const struct quire_decode_chunks_params* params,
                             const struct quire_cuda_attention_launch* launch) {
  using namespace quire_cuda;
  int status = check(params);
  if (status != QUIRE_KERNEL_OK) return status;
  const uint64_t bytes = quire_cuda_decode_chunks_workspace_bytes(params);
  if (params->n_requests > 0 && bytes == 0) return QUIRE_KERNEL_UNSUPPORTED;
  status = check_launch(launch, bytes);
  if (status != QUIRE_KERNEL_OK || params->n_requests == 0) return status;
  DecodeArguments a = arguments_of(*params);
  count(*params, &a);
  lay_out(*params, static_cast<unsigned char*>(launch->workspace), &a);
  a.status = launch->device_status;
  DeviceTraits device;
  const size_t shared_bytes = decode_shared_bytes(a.dims, a.stage_bytes);
  if (device_traits(&device) != 0 || shared_bytes > device.shared_bytes_max)
    return QUIRE_KERNEL_UNSUPPORTED;
  int error = upload(*params, a, launch->stream);
  if (error == 0)
    error =
        QUIRE_LAUNCH(plan_decode, 1 + a.n_requests + a.n_refs, kPlanThreads, 0, launch->stream, a);
  if (a.page_threshold > 0) {
    a.wave = DecodeWave::kFirst;
    if (error == 0) error = launch_decode_pieces(a, shared_bytes, launch->stream);
    a.wave = DecodeWave::kRest;
  }
  if (error == 0) error = launch_decode_pieces(a, shared_bytes, launch->stream);
  if (error == 0)
    error = QUIRE_LAUNCH(merge_pieces, Dim3(a.n_requests, a.n_query_heads), kMergeThreads, 0,
                         launch->stream, a);
  return error == 0 ? QUIRE_KERNEL_OK : QUIRE_KERNEL_UNSUPPORTED;
}

}  // extern "C"
