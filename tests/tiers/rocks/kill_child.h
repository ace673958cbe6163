// Runs one test of this program again, in a process of its own that dies at a kill point.
#ifndef QUIRE_TESTS_TIERS_ROCKS_KILL_CHILD_H_
#define QUIRE_TESTS_TIERS_ROCKS_KILL_CHILD_H_

#include <signal.h>

#include <string>

namespace quire::tiers {

// The exit status, or minus the signal. kill_point as in tiers/io/kill_point.h; empty: none.
int run_kill_child(const std::string& test, const std::string& directory,
                   const std::string& kill_point);

// In the child: the directory it was given. Empty in the parent, where the scenario is to skip.
std::string kill_child_directory();

}  // namespace quire::tiers

#endif  // QUIRE_TESTS_TIERS_ROCKS_KILL_CHILD_H_
