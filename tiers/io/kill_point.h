// Named places at which a test can kill the process. QUIRE_KILL_POINT=name in the environment (read
// once) makes the first arrival at that name raise SIGKILL; "name:3" the third. Without it an
// arrival costs one load and a branch.
#ifndef QUIRE_TIERS_IO_KILL_POINT_H_
#define QUIRE_TIERS_IO_KILL_POINT_H_

namespace quire {

extern const bool kill_points_armed;
void reach_kill_point(const char* name);

}  // namespace quire

#define QUIRE_KILL_POINT(name)                                       \
  do {                                                               \
    if (::quire::kill_points_armed) ::quire::reach_kill_point(name); \
  } while (false)

#endif  // QUIRE_TIERS_IO_KILL_POINT_H_
