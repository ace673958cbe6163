// Pieces that the tables share.
#ifndef QUIRE_TOOLS_QUIRECTL_OUTPUT_PARTS_H_
#define QUIRE_TOOLS_QUIRECTL_OUTPUT_PARTS_H_

#include <cstdint>
#include <string>

#include "proto/control.pb.h"

namespace quire::ctl {

namespace pb = quire::control::v1;

const char* tier_text(pb::Tier tier);
// "name            value\n"
std::string line(const char* name, const std::string& value);
// "12.5%", or "-" of nothing.
std::string percent(uint64_t part, uint64_t whole);

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_OUTPUT_PARTS_H_
