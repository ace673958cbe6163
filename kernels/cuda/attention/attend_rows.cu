// quire_cuda_attend_rows: checks, a kernel that checks what only the device sees, then the rows
// and, where they are wanted, the sums.
#include "kernels/attention/checks.h"
#include "kernels/cuda/attention/attend_rows.cuh"

namespace quire_cuda {
namespace {

constexpr uint32_t kCheckThreads = 256;
constexpr uint32_t kCheckBlocks = 64;
constexpr uint32_t kRowDims = 8;  // dims of one 16-byte piece

__global__ void __launch_bounds__(kCheckThreads)
    check_rows(const __grid_constant__ quire_attend_rows_params p, int32_t* status) {
  const uint32_t pages = (p.kv_tokens + p.kv.page_tokens - 1) / p.kv.page_tokens;
  bool good = true;
  const uint32_t step = gridDim.x * kCheckThreads;
  const uint32_t first = blockIdx.x * kCheckThreads + threadIdx.x;
  for (uint32_t i = first; i < p.n_rows; i += step)
    good &= p.q_pos[i] >= 0 && p.q_pos[i] < static_cast<int64_t>(p.kv_tokens);
  for (uint32_t i = first; i < pages; i += step)
    good &= p.kv.block_table[i] >= 0 && p.kv.block_table[i] < p.kv.n_pages;
  if (p.chunk_mass != nullptr)
    for (uint32_t i = first; i < p.kv_tokens; i += step)
      good &= p.token_chunk[i] < static_cast<int64_t>(p.n_chunks);
  if (!good) set_status(status, QUIRE_KERNEL_INVALID_ARGUMENT);
}

__global__ void __launch_bounds__(kCheckThreads)
    clear_sums(const __grid_constant__ quire_attend_rows_params p, const int32_t* status) {
  if (*status != 0) return;
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * kCheckThreads;
  const uint64_t first = static_cast<uint64_t>(blockIdx.x) * kCheckThreads + threadIdx.x;
  if (p.column_sums != nullptr)
    for (uint64_t i = first; i < p.kv_tokens; i += step) p.column_sums[i] = 0;
  if (p.chunk_mass != nullptr)
    for (uint64_t i = first; i < static_cast<uint64_t>(p.n_rows) * p.n_chunks; i += step)
      p.chunk_mass[i] = 0;
}

bool wants_sums(const quire_attend_rows_params& p) {
  return p.column_sums != nullptr || p.chunk_mass != nullptr;
}

int check(const quire_attend_rows_params* params) {
  const int status = quire_kernels::check_attend_rows(params, false);
  if (status != QUIRE_KERNEL_OK) return status;
  if (params->key_dims != params->value_dims || params->key_dims % kRowDims != 0 ||
      params->kv.dtype == QUIRE_DTYPE_F32)
    return QUIRE_KERNEL_UNSUPPORTED;
  return vector_pages(params->kv) ? QUIRE_KERNEL_OK : QUIRE_KERNEL_INVALID_ARGUMENT;
}

int queue(const RowsArguments& arguments, int32_t* status, void* stream) {
  const quire_attend_rows_params& p = arguments.p;
  const bool bf16 = p.kv.dtype == QUIRE_DTYPE_BF16;
  int error = QUIRE_LAUNCH(check_rows, kCheckBlocks, kCheckThreads, 0, stream, p, status);
  if (error == 0 && wants_sums(p))
    error = QUIRE_LAUNCH(clear_sums, kCheckBlocks, kCheckThreads, 0, stream, p, status);
  if (error != 0 || p.n_rows == 0) return error;
  error = bf16 ? launch_rows_bf16(arguments, stream) : launch_rows_f16(arguments, stream);
  if (error != 0 || !wants_sums(p)) return error;
  return bf16 ? launch_row_sums_bf16(arguments, stream) : launch_row_sums_f16(arguments, stream);
}

}  // namespace
}  // namespace quire_cuda

extern "C" {

uint64_t quire_cuda_attend_rows_workspace_bytes(const struct quire_attend_rows_params* params) {
  using namespace quire_cuda;
  if (check(params) != QUIRE_KERNEL_OK) return 0;
  const uint64_t lse =
      wants_sums(*params) ? uint64_t{params->n_rows} * params->n_query_heads * 4 : 0;
  return align_workspace(lse) + kWorkspaceAlignment;
}

int quire_cuda_attend_rows(const struct quire_attend_rows_params* params,
                           const struct quire_cuda_attention_launch* launch) {
  using namespace quire_cuda;
  int status = check(params);
  if (status == QUIRE_KERNEL_OK)
    status = check_launch(launch, quire_cuda_attend_rows_workspace_bytes(params));
  if (status != QUIRE_KERNEL_OK) return status;
  RowsArguments arguments;
  arguments.p = *params;
  arguments.lse2 = wants_sums(*params) ? static_cast<float*>(launch->workspace) : nullptr;
  arguments.status = launch->device_status;
  return queue(arguments, launch->device_status, launch->stream) == 0 ? QUIRE_KERNEL_OK
                                                                      : QUIRE_KERNEL_UNSUPPORTED;
}

}  // extern "C"
