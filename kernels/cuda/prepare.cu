#include "kernels/cuda/prepare.h"
#include "kernels/cuda/section.cuh"
#include "kernels/cuda/store_tile.cuh"
#include "kernels/cuda/units.h"
#include "kernels/params.h"

namespace quire_cuda {
namespace {

using quire_kernels::element_bytes;
using quire_kernels::plane_spec;

bool aligned(const void* pointer, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Kernels read engine elements whole.
bool strides_are_whole(int64_t a, int64_t b, int64_t c, uint32_t element) {
  const int64_t e = element;
  return a % e == 0 && b % e == 0 && c % e == 0;
}

// Formats that have kernels.
int check_format(int32_t codec, int32_t plane, uint32_t head_dim) {
  if (plane != QUIRE_PLANE_KEY && plane != QUIRE_PLANE_VALUE) return QUIRE_KERNEL_UNSUPPORTED;
  const SectionKind kind = plane_spec(codec, plane).kind;
  return kind == SectionKind::kUnknown || head_dim > kHeadDimMax ? QUIRE_KERNEL_UNSUPPORTED
                                                                 : QUIRE_KERNEL_OK;
}

// A store has room for the largest section. Of loads of variable size the kernel knows more: the
// header may be device memory.
template <typename Params>
int check_section_bytes(const Params& p, const void* bytes, uint64_t n_bytes, bool load) {
  const uint64_t most =
      quire_section_bytes_max(p.codec, p.plane, p.n_tokens, p.n_heads, p.head_dim);
  if (most == 0 || bytes == nullptr || !aligned(bytes, 4)) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (!load || !quire_kernels::variable_size(p.codec))
    return n_bytes == most ? QUIRE_KERNEL_OK : QUIRE_KERNEL_INVALID_ARGUMENT;
  const bool possible =
      n_bytes > 0 && n_bytes <= most && n_bytes % quire_kernels::kBlockAlignment == 0;
  return possible ? QUIRE_KERNEL_OK : QUIRE_KERNEL_CORRUPT;
}

template <typename Params>
int check_common(const Params& p, const void* bytes, uint64_t n_bytes, bool load) {
  if (int status = check_format(p.codec, p.plane, p.head_dim)) return status;
  if (int status = check_section_bytes(p, bytes, n_bytes, load)) return status;
  if (p.rotation.table != nullptr && p.rotation.style == QUIRE_ROPE_STYLE_NEOX &&
      p.rotation.rotary_dims > p.head_dim)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if ((p.flags & ~static_cast<uint32_t>(QUIRE_KERNEL_KEEP_NON_FINITE)) != 0)
    return QUIRE_KERNEL_UNSUPPORTED;
  return QUIRE_KERNEL_OK;
}

// Of elements as they are stored; another number than every dtype's where they are coded.
int32_t stored_dtype(int32_t codec) {
  const bool exponent = plane_spec(codec, QUIRE_PLANE_KEY).kind == SectionKind::kExponent;
  return exponent ? static_cast<int32_t>(QUIRE_DTYPE_BF16) : codec;
}

double largest_magnitude(int32_t dtype) {
  if (dtype == QUIRE_DTYPE_F16) return 0x1.ffdffep15;
  return dtype == QUIRE_DTYPE_BF16 ? 0x1.fefffep127 : 0x1.fffffep127;
}

template <typename Params>
void describe_common(const Params& p, Section* s) {
  s->spec = plane_spec(p.codec, p.plane);
  if (s->spec.kind == SectionKind::kRaw) s->spec.bits = static_cast<uint8_t>(p.codec);
  s->n_tokens = p.n_tokens;
  s->n_heads = p.n_heads;
  s->head_dim = static_cast<uint16_t>(p.head_dim);
  s->unit_tokens = kBlockTokens;
  s->hadamard = static_cast<uint8_t>(
      s->spec.hadamard_max == 0 ? 1
                                : quire_kernels::hadamard_order(p.head_dim, s->spec.hadamard_max));
  const bool turns = quire_kernels::rotates(p.rotation);
  s->style = static_cast<uint8_t>(turns ? p.rotation.style : QUIRE_ROPE_STYLE_NONE);
  s->rotary_dims = static_cast<uint16_t>(turns ? p.rotation.rotary_dims : 0);
  s->table = turns ? p.rotation.table : nullptr;
  s->table_token_stride = p.rotation.table_token_stride;
  if (turns && aligned(s->table, 16) && s->table_token_stride % 16 == 0) s->flags |= kVectorTable;
  if (aligned(s->bytes, 16) && p.head_dim % kVectorDims == 0) s->flags |= kVectorBytes;
  const int64_t element = element_bytes(s->engine_dtype);
  if (s->dim_stride == element && p.head_dim % kVectorDims == 0 && aligned(s->engine, 16) &&
      s->token_stride % 16 == 0 && s->head_stride % 16 == 0)
    s->flags |= kVectorEngine;
  if (stored_dtype(p.codec) == s->engine_dtype && !turns) s->flags |= kCopies;
  if (p.flags & QUIRE_KERNEL_KEEP_NON_FINITE) s->flags |= kKeepNonFinite;
}

}  // namespace

bool is_raw(int32_t codec) {
  return plane_spec(codec, QUIRE_PLANE_KEY).kind == SectionKind::kRaw;
}

int format_index(int32_t codec, int32_t plane) {
  const PlaneSpec spec = plane_spec(codec, plane);
  const int by_bits = spec.bits == 8 ? 0 : spec.bits == 4 ? 1 : spec.bits == 3 ? 2 : 3;
  switch (spec.kind) {
    case SectionKind::kRaw:
      return codec == QUIRE_CODEC_RAW_F16    ? kFormatRawF16
             : codec == QUIRE_CODEC_RAW_BF16 ? kFormatRawBf16
                                             : kFormatRawF32;
    case SectionKind::kFp8:
      return kFormatFp8;
    case SectionKind::kChannel:
      return kFormatChannel8 + by_bits;
    case SectionKind::kNormalised:
      return kFormatNormalised;
    case SectionKind::kExponent:
      return spec.bits == 4 ? kFormatExponent4 : kFormatExponent3;
    case SectionKind::kMixed:
      return (codec == QUIRE_CODEC_MIXED_INT8_INT4 ? kFormatMixed4Key : kFormatMixed2Key) +
             (plane == QUIRE_PLANE_KEY ? 0 : 1);
    default:
      return kFormatToken8 + by_bits;
  }
}

int check_launch(const quire_cuda_launch* launch) {
  if (launch == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (launch->struct_bytes != sizeof(*launch)) return QUIRE_KERNEL_BAD_STRUCT;
  if (launch->device_status == nullptr || !aligned(launch->device_status, 4))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (launch->path < QUIRE_CUDA_PATH_AUTO || launch->path > QUIRE_CUDA_PATH_RING_ASYNC)
    return QUIRE_KERNEL_UNSUPPORTED;
  if (launch->store_path < QUIRE_CUDA_STORE_AUTO || launch->store_path > QUIRE_CUDA_STORE_BULK)
    return QUIRE_KERNEL_UNSUPPORTED;
  if (launch->table != nullptr && launch->table->struct_bytes != sizeof(*launch->table))
    return QUIRE_KERNEL_BAD_STRUCT;
  return QUIRE_KERNEL_OK;
}

int check_cuda_load(const quire_load_params& params) {
  if (params.struct_bytes != sizeof(params)) return QUIRE_KERNEL_BAD_STRUCT;
  if (int status = check_common(params, params.src, params.src_bytes, true)) return status;
  // Row numbers may be device memory: the kernel looks at them.
  quire_load_params engine = params;
  engine.flags = 0;
  engine.token_begin = engine.token_end;
  if (params.token_begin > params.token_end) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (int status = quire_kernels::check_load_engine(engine)) return status;
  const uint32_t element = element_bytes(params.dst_dtype);
  if (!aligned(params.dst, element) || !aligned(params.dst_token, 8) ||
      !strides_are_whole(params.dst_token_stride, params.dst_head_stride, params.dst_dim_stride,
                         element))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (params.dst_token == nullptr && params.row_mask == nullptr &&
      params.token_begin < params.token_end && int64_t{params.token_end} > params.dst_tokens)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if ((params.flags & QUIRE_KERNEL_KEEP_NON_FINITE) != 0 &&
      (stored_dtype(params.codec) != params.dst_dtype || quire_kernels::rotates(params.rotation)))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  return QUIRE_KERNEL_OK;
}

// Sizes and counts of a store of variable size fit 32 bits.
static int check_variable_store(const quire_store_params& p) {
  if (!quire_kernels::variable_size(p.codec)) return QUIRE_KERNEL_OK;
  if (p.dst_written == nullptr || !aligned(p.dst_written, 8)) return QUIRE_KERNEL_INVALID_ARGUMENT;
  const uint64_t elements = uint64_t{p.n_tokens} * p.n_heads * p.head_dim;
  return elements <= UINT32_MAX ? QUIRE_KERNEL_OK : QUIRE_KERNEL_UNSUPPORTED;
}

int check_cuda_store(const quire_store_params& params) {
  if (params.struct_bytes != sizeof(params)) return QUIRE_KERNEL_BAD_STRUCT;
  if (int status = check_common(params, params.dst, params.dst_bytes, false)) return status;
  // Seen as a load: the same engine side, and no row numbers that the host would read.
  quire_load_params engine = {};
  engine.struct_bytes = sizeof(engine);
  engine.plane = params.plane;
  engine.n_tokens = params.n_tokens;
  engine.n_heads = params.n_heads;
  engine.head_dim = params.head_dim;
  engine.dst_dtype = params.src_dtype;
  engine.src = params.dst;
  engine.src_bytes = params.dst_bytes;
  engine.dst = const_cast<void*>(params.src);
  engine.dst_tokens = params.src_tokens;
  engine.dst_token_stride = params.src_token_stride;
  engine.dst_head_stride = params.src_head_stride;
  engine.dst_dim_stride = params.src_dim_stride;
  engine.rotation = params.rotation;
  if (int status = quire_kernels::check_load_engine(engine)) return status;
  const uint32_t element = element_bytes(params.src_dtype);
  if (!aligned(params.src, element) || !aligned(params.src_token, 8) ||
      !strides_are_whole(params.src_token_stride, params.src_head_stride, params.src_dim_stride,
                         element))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (params.src_token == nullptr && int64_t{params.n_tokens} > params.src_tokens)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if ((params.flags & QUIRE_KERNEL_KEEP_NON_FINITE) != 0 &&
      (stored_dtype(params.codec) != params.src_dtype || quire_kernels::rotates(params.rotation)))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  return check_variable_store(params);
}

void describe_load(const quire_load_params& p, Section* s) {
  *s = {};
  s->bytes = static_cast<unsigned char*>(const_cast<void*>(p.src));
  s->n_bytes = p.src_bytes;
  s->engine = static_cast<unsigned char*>(p.dst);
  s->engine_tokens = p.dst_tokens;
  s->token_stride = p.dst_token_stride;
  s->head_stride = p.dst_head_stride;
  s->dim_stride = p.dst_dim_stride;
  s->token_row = p.dst_token;
  s->row_mask = p.row_mask;
  s->token_begin = p.token_begin;
  s->token_end = p.token_end;
  s->engine_dtype = static_cast<uint8_t>(p.dst_dtype);
  describe_common(p, s);
  s->limit = largest_magnitude(p.dst_dtype);
  if (s->table != nullptr) s->limit /= 1.4142136;
  if (s->hadamard > 1) s->limit /= sqrt(static_cast<double>(s->hadamard));
  if ((s->flags & kCopies) != 0) s->limit = quire_kernels::kLargestFloat;
}

void describe_store(const quire_store_params& p, Section* s) {
  *s = {};
  s->bytes = static_cast<unsigned char*>(p.dst);
  s->n_bytes = p.dst_bytes;
  s->engine = static_cast<unsigned char*>(const_cast<void*>(p.src));
  s->engine_tokens = p.src_tokens;
  s->token_stride = p.src_token_stride;
  s->head_stride = p.src_head_stride;
  s->dim_stride = p.src_dim_stride;
  s->token_row = p.src_token;
  s->token_end = p.n_tokens;
  s->engine_dtype = static_cast<uint8_t>(p.src_dtype);
  s->salient = p.salient;
  s->written = quire_kernels::variable_size(p.codec) ? p.dst_written : nullptr;
  describe_common(p, s);
  if (stores_runs(*s)) s->unit_tokens = s->spec.run_tokens;
}

// Blocks of the escape index that hold rows of one head: of the head with the most.
static uint32_t exponent_units_of_head(const Section& s) {
  constexpr uint32_t kRows = quire_kernels::kEscapeIndexRows;
  const uint32_t tokens = s.token_end - s.token_begin;
  const uint32_t skipped = s.n_tokens % kRows == 0 ? s.token_begin % kRows : kRows - 1;
  return (skipped + tokens + kRows - 1) / kRows;
}

// Blocks of tokens of the two parts together, however the map splits the range: either part may
// begin inside a block and end inside one.
static uint32_t mixed_units_of_head(const Section& s) {
  const uint32_t tokens = s.token_end - s.token_begin;
  const uint32_t skipped = s.token_begin == 0 ? 0 : 2 * (kBlockTokens - 1);
  return (skipped + tokens + 2 * (kBlockTokens - 1)) / kBlockTokens;
}

uint32_t count_store_units(const Section& s) {
  if (s.spec.kind == SectionKind::kExponent) return 1;
  return s.spec.kind == SectionKind::kMixed ? s.n_heads : count_units(s);
}

uint32_t count_units(const Section& s) {
  if (s.token_begin == s.token_end) return 0;
  if (s.spec.kind == SectionKind::kExponent) return exponent_units_of_head(s) * s.n_heads;
  if (s.spec.kind == SectionKind::kMixed) return mixed_units_of_head(s) * s.n_heads;
  const uint32_t end = (s.token_end + s.unit_tokens - 1u) / s.unit_tokens;
  return (end - s.token_begin / s.unit_tokens) * s.n_heads;
}

uint32_t ring_unit_tokens(const Section& s) {
  if (s.spec.kind == SectionKind::kNormalised || s.spec.kind == SectionKind::kExponent ||
      s.spec.kind == SectionKind::kMixed || !aligned(s.bytes, 16))
    return 0;
  const bool raw = s.spec.kind == SectionKind::kRaw;
  if (raw && (s.flags & kVectorBytes) == 0) return 0;
  const uint64_t row = raw ? s.head_dim * element_bytes(s.spec.bits)
                           : quire_kernels::code_row_bytes(s.head_dim, s.spec.bits);
  for (uint32_t tokens = kRingUnitTokensMax; tokens >= kBlockTokens; tokens /= 2) {
    uint64_t bytes = tokens * row + 15;
    if (s.spec.kind == SectionKind::kChannel) {
      const uint32_t run = s.spec.run_tokens;
      if (tokens % run != 0 && run % tokens != 0) continue;
      const uint32_t runs = (tokens + run - 1) / run;
      bytes += runs * (quire_kernels::channel_side_bytes(s.spec, s.head_dim) +
                       quire_kernels::kBlockAlignment);
    } else if (!raw) {
      bytes += tokens * 4ull * quire_kernels::token_groups(s.spec, s.head_dim) + 15;
    }
    if (bytes <= kRingStageBytes) return tokens;
  }
  return 0;
}

bool stores_runs(const Section& s) {
  return s.spec.kind == SectionKind::kChannel || s.spec.kind == SectionKind::kNormalised;
}

uint32_t store_tile_bytes(const Section& s, size_t shared_bytes_max) {
  if (s.spec.kind == SectionKind::kExponent || s.spec.kind == SectionKind::kMixed) return 0;
  const TileBytes tile = tile_bytes_of(s);
  const uint64_t bytes = tile.side + tile.codes;
  const uint32_t tiles = kStoreTiles * (stores_runs(s) ? 1 : kWarps);
  const bool room =
      tiles * bytes <= kStoreTilesBytesMax && tiles * bytes + kStoreOtherBytes <= shared_bytes_max;
  return room ? static_cast<uint32_t>(bytes) : 0;
}

CopyRuns copy_runs(const quire_load_params& p) {
  CopyRuns none = {};
  const int64_t element = element_bytes(p.dst_dtype);
  const int64_t row = p.head_dim * element;
  if (p.codec != p.dst_dtype || quire_kernels::rotates(p.rotation) || p.row_mask != nullptr ||
      p.dst_token != nullptr || p.token_begin == p.token_end)
    return none;
  if ((p.head_dim > 1 && p.dst_dim_stride != element) ||
      (p.n_tokens > 1 && p.dst_token_stride != row))
    return none;
  CopyRuns runs = {};
  runs.runs = p.n_heads;
  runs.run_bytes = uint64_t{p.token_end - p.token_begin} * static_cast<uint64_t>(row);
  runs.src_begin = p.token_begin * static_cast<uint64_t>(row);
  runs.src_stride = int64_t{p.n_tokens} * row;
  runs.dst_begin = p.token_begin * row;
  runs.dst_stride = p.dst_head_stride;
  const bool whole = p.n_heads == 1 || (p.token_begin == 0 && p.token_end == p.n_tokens &&
                                        runs.dst_stride == runs.src_stride);
  if (whole) {
    runs.run_bytes *= p.n_heads;
    runs.runs = 1;
  }
  return runs;
}

}  // namespace quire_cuda
