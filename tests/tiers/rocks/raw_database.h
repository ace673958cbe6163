// Writes past the store's own code: bytes that it would never write itself.
#ifndef QUIRE_TESTS_TIERS_ROCKS_RAW_DATABASE_H_
#define QUIRE_TESTS_TIERS_ROCKS_RAW_DATABASE_H_

#include <string>

namespace quire::tiers {

// Changes one bit of the value of key in a column family of the closed store in directory. False
// where there is none.
bool flip_stored_bit(const std::string& directory, const std::string& family,
                     const std::string& key, size_t byte);

}  // namespace quire::tiers

#endif  // QUIRE_TESTS_TIERS_ROCKS_RAW_DATABASE_H_
