// quire_cuda_load_batch, quire_cuda_store_batch: check everything, then queue waves of sections of
// one format.
#include "kernels/cuda/prepare.h"
#include "kernels/cuda/runtime.cuh"
#include "kernels/cuda/section.cuh"
#include "kernels/cuda/transfer.h"
#include "kernels/cuda/units.h"

namespace quire_cuda {
namespace {

constexpr int kRingComputeCapability = 80;
constexpr int kBulkComputeCapability = 90;
// Shared memory of the ring beside its stages.
constexpr size_t kRingOtherBytes = 6u << 10;
// A grid of more CTAs than this for each multiprocessor only walks shorter.
constexpr uint32_t kCtasPerMultiprocessor = 8;

struct Wave {
  SectionPack pack;
  const quire_cuda_launch* launch;
  DeviceTraits device;
  int format;
  LoadPath path;
  bool store;
  bool bulk;  // stores
  uint32_t tile_bytes = 0;

  void clear() {
    pack.n_sections = 0;
    pack.n_units = 0;
    tile_bytes = 0;
    pack.status = launch->device_status;
  }
  int flush() {
    if (pack.n_sections == 0) return 0;
    const int error = queue();
    clear();
    return error;
  }
  int add(Section section) {
    section.unit_begin = pack.n_units;
    const uint32_t units = store ? count_store_units(section) : count_units(section);
    if (units == 0) return 0;
    const uint32_t tile = bulk ? store_tile_bytes(section, device.shared_bytes_max) : 0;
    tile_bytes = tile > tile_bytes ? tile : tile_bytes;
    pack.sections[pack.n_sections++] = section;
    pack.n_units += units;
    return pack.n_sections == kPackSections ? flush() : 0;
  }

 private:
  int queue() {
    const bool run_units = store && format >= kFormatChannel8 && format <= kFormatNormalised;
    const bool variable = store && format >= kFormatExponent4;
    const uint32_t units_of_cta = path != LoadPath::kDirect || run_units || variable ? 1 : kWarps;
    uint32_t ctas = (pack.n_units + units_of_cta - 1) / units_of_cta;
    const uint32_t most = launch->max_ctas != 0 ? launch->max_ctas
                                                : kCtasPerMultiprocessor *
                                                      static_cast<uint32_t>(device.multiprocessors);
    ctas = ctas < most ? ctas : most;
    void* stream = launch->stream;
    if (store) {
      if (format <= kFormatRawF32) return launch_store_raw(pack, tile_bytes, ctas, stream);
      if (format == kFormatNormalised)
        return launch_store_normalised(pack, tile_bytes, ctas, stream);
      if (format >= kFormatMixed4Key) return launch_store_mixed(pack, format, ctas, stream);
      if (format >= kFormatExponent4) return launch_store_exponent(pack, ctas, stream);
      return run_units ? launch_store_channel(pack, tile_bytes, ctas, stream)
                       : launch_store_token(pack, tile_bytes, ctas, stream);
    }
    if (format <= kFormatRawF32) return launch_load_raw(pack, path, ctas, stream);
    if (format >= kFormatMixed4Key) return launch_load_mixed(pack, format, ctas, stream);
    if (format >= kFormatExponent4) return launch_load_exponent(pack, ctas, stream);
    if (format >= kFormatChannel8 && format <= kFormatNormalised)
      return launch_load_channel(pack, path, ctas, stream);
    return launch_load_token(pack, path, ctas, stream);
  }
};

int refuse(int status, size_t index, size_t* failed_index) {
  if (failed_index != nullptr) *failed_index = index;
  return status;
}

bool has_ring(const DeviceTraits& device) {
  return device.compute_capability >= kRingComputeCapability &&
         device.shared_bytes_max >= kRingStages * kRingStageBytes + kRingOtherBytes;
}

int32_t path_of(const quire_load_params& params, size_t n, const quire_cuda_launch& launch) {
  if (launch.path != QUIRE_CUDA_PATH_AUTO) return launch.path;
  if (launch.table == nullptr) return QUIRE_CUDA_PATH_DIRECT;
  const CopyRuns runs = copy_runs(params);
  const bool copies = runs.runs != 0;
  return path_from_table(*launch.table, {is_host_memory(params.src), copies, is_raw(params.codec),
                                         copies ? runs.run_bytes : params.src_bytes,
                                         uint64_t{n} * (copies ? runs.runs : 1)});
}

// The path that a section can really take.
int32_t possible_path(const quire_load_params& params, size_t n, const quire_cuda_launch& launch,
                      const DeviceTraits& device, Section* section) {
  const int32_t path = path_of(params, n, launch);
  if (path == QUIRE_CUDA_PATH_COPY && copy_runs(params).runs != 0) return path;
  const bool ring = path == QUIRE_CUDA_PATH_RING || path == QUIRE_CUDA_PATH_RING_ASYNC;
  if (!ring || !has_ring(device)) return QUIRE_CUDA_PATH_DIRECT;
  const uint32_t tokens = ring_unit_tokens(*section);
  if (tokens == 0) return QUIRE_CUDA_PATH_DIRECT;
  section->unit_tokens = static_cast<uint16_t>(tokens);
  return device.compute_capability >= kBulkComputeCapability ? path : QUIRE_CUDA_PATH_RING_ASYNC;
}

LoadPath load_path(int32_t path) {
  if (path == QUIRE_CUDA_PATH_RING) return LoadPath::kRingBulk;
  return path == QUIRE_CUDA_PATH_RING_ASYNC ? LoadPath::kRingAsync : LoadPath::kDirect;
}

bool stores_in_bulk(const quire_store_params& params, const quire_cuda_launch& launch,
                    const DeviceTraits& device, const Section& section) {
  int32_t path = launch.store_path;
  if (path == QUIRE_CUDA_STORE_AUTO)
    path = launch.table == nullptr
               ? QUIRE_CUDA_STORE_PLAIN
               : store_path_from_table(*launch.table, is_host_memory(params.dst),
                                       stores_runs(section));
  return path == QUIRE_CUDA_STORE_BULK && device.compute_capability >= kBulkComputeCapability &&
         store_tile_bytes(section, device.shared_bytes_max) != 0;
}

int queue_copies(const quire_load_params* params, size_t n, const quire_cuda_launch& launch,
                 const DeviceTraits& device) {
  CopyBatch batch(launch.stream);
  for (size_t i = 0; i < n; ++i) {
    Section section;
    describe_load(params[i], &section);
    if (possible_path(params[i], n, launch, device, &section) != QUIRE_CUDA_PATH_COPY) continue;
    const CopyRuns runs = copy_runs(params[i]);
    for (uint32_t run = 0; run < runs.runs; ++run)
      if (int error =
              batch.add(section.engine + runs.dst_begin + run * runs.dst_stride,
                        section.bytes + runs.src_begin +
                            static_cast<uint64_t>(run) * static_cast<uint64_t>(runs.src_stride),
                        runs.run_bytes))
        return error;
  }
  return batch.flush();
}

}  // namespace
}  // namespace quire_cuda

using namespace quire_cuda;

extern "C" int quire_cuda_load_batch(const struct quire_load_params* params, size_t n,
                                     const struct quire_cuda_launch* launch, size_t* failed_index) {
  if (int status = check_launch(launch)) return status;
  if (params == nullptr && n != 0) return QUIRE_KERNEL_INVALID_ARGUMENT;
  for (size_t i = 0; i < n; ++i)
    if (int status = check_cuda_load(params[i])) return refuse(status, i, failed_index);
  Wave wave;
  wave.launch = launch;
  wave.store = false;
  wave.bulk = false;
  if (device_traits(&wave.device) != 0) return QUIRE_KERNEL_UNSUPPORTED;
  if (queue_copies(params, n, *launch, wave.device) != 0) return QUIRE_KERNEL_UNSUPPORTED;
  for (int variant = 0; variant < kLoadPaths * kFormats; ++variant) {
    wave.format = variant / kLoadPaths;
    wave.path = static_cast<LoadPath>(variant % kLoadPaths);
    wave.clear();
    for (size_t i = 0; i < n; ++i) {
      if (format_index(params[i].codec, params[i].plane) != wave.format) continue;
      Section section;
      describe_load(params[i], &section);
      const int32_t path = possible_path(params[i], n, *launch, wave.device, &section);
      if (path == QUIRE_CUDA_PATH_COPY || load_path(path) != wave.path) continue;
      if (wave.add(section) != 0) return refuse(QUIRE_KERNEL_UNSUPPORTED, i, failed_index);
    }
    if (wave.flush() != 0) return QUIRE_KERNEL_UNSUPPORTED;
  }
  return QUIRE_KERNEL_OK;
}

extern "C" int quire_cuda_store_batch(const struct quire_store_params* params, size_t n,
                                      const struct quire_cuda_launch* launch,
                                      size_t* failed_index) {
  if (int status = check_launch(launch)) return status;
  if (params == nullptr && n != 0) return QUIRE_KERNEL_INVALID_ARGUMENT;
  for (size_t i = 0; i < n; ++i)
    if (int status = check_cuda_store(params[i])) return refuse(status, i, failed_index);
  Wave wave;
  wave.launch = launch;
  wave.store = true;
  wave.path = LoadPath::kDirect;
  if (device_traits(&wave.device) != 0) return QUIRE_KERNEL_UNSUPPORTED;
  for (int variant = 0; variant < 2 * kFormats; ++variant) {
    wave.format = variant / 2;
    wave.bulk = variant % 2 != 0;
    wave.clear();
    for (size_t i = 0; i < n; ++i) {
      if (format_index(params[i].codec, params[i].plane) != wave.format) continue;
      Section section;
      describe_store(params[i], &section);
      if (stores_in_bulk(params[i], *launch, wave.device, section) != wave.bulk) continue;
      if (wave.add(section) != 0) return refuse(QUIRE_KERNEL_UNSUPPORTED, i, failed_index);
      // Of variable sizes the kernel says it, in device memory.
      if (section.written == nullptr && params[i].dst_written != nullptr)
        *params[i].dst_written = params[i].dst_bytes;
    }
    if (wave.flush() != 0) return QUIRE_KERNEL_UNSUPPORTED;
  }
  return QUIRE_KERNEL_OK;
}
