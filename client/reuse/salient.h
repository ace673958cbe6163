// Which tokens a mixed-precision codec keeps at 8 bits.
#ifndef QUIRE_CLIENT_REUSE_SALIENT_H_
#define QUIRE_CLIENT_REUSE_SALIENT_H_

#include <cstdint>
#include <span>
#include <vector>

namespace quire::reuse {

inline constexpr double kSalientShareDefault = 0.2;
// First tokens of a chunk: where it begins a prompt they are the attention sink, whose V a coarse
// code would not survive.
inline constexpr uint32_t kSalientFirstTokens = 4;

// One byte per token, 1 = salient: the first tokens, and those with most mass (attention received)
// until share of all tokens, rounded up, is marked. Equal mass: the lower index first. share is
// clamped to [0, 1]; 0 marks none.
std::vector<uint8_t> salient_tokens(std::span<const float> mass, double share);

}  // namespace quire::reuse

#endif  // QUIRE_CLIENT_REUSE_SALIENT_H_
