// quire_sim: seeded simulations of the storage engine. Without options: the amount of one push.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/sim/tier_simulation.h"

namespace quire::sim {
namespace {

constexpr uint64_t kPushSeeds = 200;
constexpr uint64_t kNightlySeeds = 100'000;
constexpr uint64_t kOperations = 5000;
// A run of at least so many seeds must have met every fault.
constexpr uint64_t kCoverageSeeds = 50;
constexpr uint64_t kProgressSeeds = 1000;

struct Arguments {
  uint64_t first_seed = 1;
  uint64_t seeds = kPushSeeds;
  SimulationOptions simulation{.seed = 1, .operations = kOperations, .trace = false};
};

void usage() {
  std::fprintf(stderr,
               "usage: quire_sim [--seed N] [--seeds COUNT] [--operations M] [--nightly] "
               "[--trace]\n"
               "  --seed N      start here; alone: run this seed only\n"
               "  --nightly     %llu seeds\n"
               "  --trace       print every operation, completion and fault\n",
               static_cast<unsigned long long>(kNightlySeeds));
}

bool parse(int argc, char** argv, Arguments* arguments) {
  bool one = false;
  bool many = false;
  const auto number = [&](int* i, uint64_t* value) {
    char* end = nullptr;
    if (*i + 1 >= argc) return false;
    *value = std::strtoull(argv[++*i], &end, 10);
    return end != argv[*i] && *end == '\0';
  };
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    bool good = true;
    if (option == "--seed") {
      good = number(&i, &arguments->first_seed);
      one = true;
    } else if (option == "--seeds") {
      good = number(&i, &arguments->seeds);
      many = true;
    } else if (option == "--operations") {
      good = number(&i, &arguments->simulation.operations);
    } else if (option == "--nightly") {
      arguments->seeds = kNightlySeeds;
      many = true;
    } else if (option == "--trace") {
      arguments->simulation.trace = true;
    } else {
      good = false;
    }
    if (!good) return false;
  }
  if (one && !many) arguments->seeds = 1;
  return true;
}

// Two runs of one seed that differ cannot be replayed.
bool is_deterministic(const SimulationOptions& options) {
  Totals ignored;
  SimulationOptions quiet = options;
  quiet.trace = false;
  TierSimulation first(quiet, ignored);
  first.run();
  TierSimulation second(quiet, ignored);
  second.run();
  return first.digest() == second.digest();
}

int run(const Arguments& arguments) {
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  SimulationOptions options = arguments.simulation;
  options.seed = arguments.first_seed;
  const auto operations = static_cast<unsigned long long>(options.operations);
  std::printf("quire_sim: seeds %llu to %llu, %llu operations each\n",
              static_cast<unsigned long long>(arguments.first_seed),
              static_cast<unsigned long long>(arguments.first_seed + arguments.seeds - 1),
              operations);
  Totals totals;
  for (uint64_t i = 0; i < arguments.seeds; ++i) {
    options.seed = arguments.first_seed + i;
    TierSimulation simulation(options, totals);
    if (!simulation.run()) {
      std::printf(
          "FAILED: seed %llu: %s\nreplay: quire_sim --seed %llu --operations %llu --trace\n",
          static_cast<unsigned long long>(options.seed), simulation.failure().c_str(),
          static_cast<unsigned long long>(options.seed), operations);
      return 1;
    }
    if ((i + 1) % kProgressSeeds == 0) {
      std::printf("%llu seeds, %.0f s\n", static_cast<unsigned long long>(i + 1), seconds());
      std::fflush(stdout);
    }
  }
  options.seed = arguments.first_seed;
  std::printf("%s%.1f s\n", totals.to_text().c_str(), seconds());
  if (!is_deterministic(options)) {
    std::printf("FAILED: two runs of seed %llu differ\n",
                static_cast<unsigned long long>(options.seed));
    return 1;
  }
  const auto missing = totals.missing();
  if (arguments.seeds < kCoverageSeeds || missing.empty()) return 0;
  for (const std::string& name : missing) std::printf("FAILED: never seen: %s\n", name.c_str());
  return 1;
}

}  // namespace
}  // namespace quire::sim

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // a run that is cut off has said where it was
  quire::sim::Arguments arguments;
  if (!quire::sim::parse(argc, argv, &arguments)) {
    quire::sim::usage();
    return 2;
  }
  return quire::sim::run(arguments);
}
