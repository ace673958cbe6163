#include "kernels/cuda/attention/attend_rows.cuh"

namespace quire_cuda {

int launch_rows_bf16(const RowsArguments& arguments, void* stream) {
  return launch_rows_of_dims<true, false>(arguments, stream);
}

}  // namespace quire_cuda
