// A fuzz target is one function over untrusted bytes that must end, whatever the bytes, and that
// aborts where a promise of the code under test does not hold. It is written once and used twice:
// with libFuzzer (tools/fuzz.sh, clang) and by fuzz_corpus_test, which replays tests/data/fuzz and
// seeded mutations of it with any compiler.
//
//   QUIRE_FUZZ_SEEDS(frame) { return {{"ping", bytes}, ...}; }  // inputs the target must accept
//   QUIRE_FUZZ_TARGET(frame) { ... return true where input was well-formed; }
#ifndef QUIRE_TESTS_FUZZ_FUZZ_TARGET_H_
#define QUIRE_TESTS_FUZZ_FUZZ_TARGET_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"

namespace quire::fuzz {

using Seeds = std::vector<std::pair<std::string, std::vector<std::byte>>>;

struct Target {
  std::string name;  // also its folder in tests/data/fuzz
  bool (*run)(ByteSpan input) = nullptr;
  Seeds (*seeds)() = nullptr;
};

inline std::vector<Target>& targets() {
  static std::vector<Target> all;
  return all;
}

inline bool register_target(const char* name, bool (*run)(ByteSpan), Seeds (*seeds)()) {
  targets().push_back({name, run, seeds});
  return true;
}

// A broken promise: the fuzzer keeps the input.
inline void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

inline std::vector<std::byte> bytes_of_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::vector<char> chars{std::istreambuf_iterator<char>(in), {}};
  const auto* first = reinterpret_cast<const std::byte*>(chars.data());
  return {first, first + chars.size()};
}

inline std::vector<std::byte> golden_bytes(const std::string& name) {
  return bytes_of_file(std::string(QUIRE_SOURCE_DIR) + "/tests/data/" + name);
}

inline std::vector<std::byte> bytes_of_text(const std::string& text) {
  const auto* first = reinterpret_cast<const std::byte*>(text.data());
  return {first, first + text.size()};
}

inline std::string text_of(ByteSpan bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace quire::fuzz

#ifdef QUIRE_FUZZ_CORPUS_TEST
#define QUIRE_FUZZ_ENTRY(name)                           \
  [[maybe_unused]] static const bool registered_##name = \
      quire::fuzz::register_target(#name, fuzz_##name, seeds_##name)
#else
#define QUIRE_FUZZ_ENTRY(name)                                              \
  extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);  \
  extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) { \
    fuzz_##name(std::as_bytes(std::span(data, size)));                      \
    return 0;                                                               \
  }                                                                         \
  [[maybe_unused]] static const auto kept_##name = &seeds_##name
#endif

#define QUIRE_FUZZ_SEEDS(name) static quire::fuzz::Seeds seeds_##name()
#define QUIRE_FUZZ_TARGET(name)                   \
  static bool fuzz_##name(quire::ByteSpan input); \
  QUIRE_FUZZ_ENTRY(name);                         \
  static bool fuzz_##name(quire::ByteSpan input)

#endif  // QUIRE_TESTS_FUZZ_FUZZ_TARGET_H_
