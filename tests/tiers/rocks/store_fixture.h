// A directory per test, whole records that can be checked, child processes that are killed.
#ifndef QUIRE_TESTS_TIERS_ROCKS_STORE_FIXTURE_H_
#define QUIRE_TESTS_TIERS_ROCKS_STORE_FIXTURE_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/tiers/rocks/samples.h"
#include "tiers/rocks/rocks_store.h"

namespace quire::tiers {

class StoreDirectoryTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // Fails the test where it does not open.
  std::unique_ptr<RocksStore> open(const RocksOptions& options = {});
  void put_file(const std::string& name, const std::string& text);

  std::string root_;       // removed at the end
  std::string directory_;  // root_/metadata, not made
};

// Digests in the order of their numbers.
Digest numbered(uint32_t number);
// Record, tokens and blob of one number, in one batch.
Status write_numbered(MetadataStore& store, uint32_t number, bool sync);
// How many of the first numbers are there, each whole; a hole fails the test.
uint32_t count_whole(const MetadataStore& store);

// Everything a store holds but its identity, to compare two.
std::vector<std::string> dump(const MetadataStore& store);

// Runs work in a child process: its exit status, or minus the signal that ended it.
int run_in_child(const std::function<int()>& work);

}  // namespace quire::tiers

#endif  // QUIRE_TESTS_TIERS_ROCKS_STORE_FIXTURE_H_
