// The offline reader of a damaged segment file (quirectl seg verify, fsck): whatever lies in the
// file, it ends, counts add up, and every object that it calls good has the bytes of its checksum.
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/nvme_image.h"
#include "tools/quirectl/offline/segment_verify.h"

namespace {

using quire::ByteSpan;
using quire::fuzz::expect;
using quire::fuzz::kImageBytes;

// One memory file for all inputs, mapped here and opened by the reader through its path.
struct ImageFile {
  ImageFile() {
    fd = ::memfd_create("quire-fuzz", MFD_CLOEXEC);
    expect(fd >= 0 && ::ftruncate(fd, kImageBytes) == 0, "memory for the image");
    void* memory = ::mmap(nullptr, kImageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    expect(memory != MAP_FAILED, "a mapping of the image");
    bytes = {static_cast<std::byte*>(memory), kImageBytes};
  }
  std::string path() const {
    return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(fd);
  }
  int fd = -1;
  std::span<std::byte> bytes;
};

}  // namespace

QUIRE_FUZZ_SEEDS(segment_verify) {
  return quire::fuzz::image_seeds();
}

QUIRE_FUZZ_TARGET(segment_verify) {
  static const ImageFile image;
  const auto& base = quire::fuzz::base_store().image;
  std::copy(base.begin(), base.end(), image.bytes.begin());
  quire::fuzz::apply_patches(input, image.bytes);
  const auto file = quire::ctl::SegmentFile::open(image.path());
  if (!file) {
    expect(!file.status().message().empty(), "a refusal says why");
    return false;
  }
  quire::ctl::VerifyReport report;
  uint64_t good = 0;
  quire::ctl::verify_segments(
      **file, report, [](uint64_t, uint64_t, uint64_t) { return true; },
      [&good](uint32_t, const quire::nvme::FooterEntry& entry, ByteSpan payload) {
        ++good;
        expect(payload.size() == entry.payload_bytes, "a good object has its size");
        expect(quire::xxh3_128(payload) == entry.checksum, "a good object has its bytes");
      });
  expect(good == report.objects_good, "good objects are counted");
  expect(report.objects_good <= report.objects, "no more are good than there are");
  expect(report.segments_free + report.segments_sealed + report.segments_open <= report.segments,
         "segments are counted once");
  return true;
}
