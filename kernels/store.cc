// Engine memory -> stored bytes. Rows are gathered by RowSource and encoded by the section's kind
// (section_*.cc).
#include "kernels/denormals.h"
#include "kernels/params.h"
#include "kernels/quire_kernels.h"
#include "kernels/section.h"

extern "C" int quire_store(const struct quire_store_params* params) {
  using namespace quire_kernels;
  const KeepDenormals keep_denormals;
  if (int status = check_store(params)) return status;
  const quire_store_params& p = *params;
  const SectionShape shape = section_shape(p.codec, p.plane, p.n_tokens, p.n_heads, p.head_dim);
  RowSource source(p, *active_rows());
  uint64_t written = 0;
  if (int status = write_section(shape, source, TokenWalk(), static_cast<Byte*>(p.dst), &written))
    return status;
  if (p.dst_written != nullptr) *p.dst_written = written;
  return QUIRE_KERNEL_OK;
}
