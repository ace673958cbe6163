// The fp64 references of the attention tests, written from the definitions and from
// docs/formats/codecs.md, with nothing of kernels/: attention over explicit lists of keys and
// values, and a decoder of sections.
#ifndef QUIRE_TESTS_KERNELS_ATTENTION_REFERENCE_H_
#define QUIRE_TESTS_KERNELS_ATTENTION_REFERENCE_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/quire_attention.h"
#include "tests/kernels/section_fixture.h"

namespace quire_kernels_test {

using Row = std::vector<double>;

struct Attention {
  Row out;
  double lse = 0;
  Row probability;
  double reach = 0;    // largest sum over dims of |q k| * scale (A of the header)
  double largest = 0;  // largest |value|
};

inline Attention attend(const Row& query, const std::vector<const Row*>& keys,
                        const std::vector<const Row*>& values, double scale, double softcap) {
  Attention result;
  std::vector<double> logits;
  double most = -INFINITY;
  result.reach = softcap;
  for (const Row* key : keys) {
    double logit = 0;
    double reach = 0;
    for (size_t d = 0; d < query.size(); ++d) {
      logit += query[d] * (*key)[d];
      reach += std::fabs(query[d] * (*key)[d]);
    }
    logit *= scale;
    if (softcap > 0) logit = softcap * std::tanh(logit / softcap);
    logits.push_back(logit);
    most = std::max(most, logit);
    result.reach = std::max(result.reach, reach * std::fabs(scale));
  }
  double total = 0;
  for (double logit : logits) total += std::exp(logit - most);
  result.lse = most + std::log(total);
  result.out.assign(values[0]->size(), 0);
  for (size_t t = 0; t < logits.size(); ++t) {
    result.probability.push_back(std::exp(logits[t] - result.lse));
    for (size_t d = 0; d < result.out.size(); ++d) {
      result.out[d] += result.probability[t] * (*values[t])[d];
      result.largest = std::max(result.largest, std::fabs((*values[t])[d]));
    }
  }
  return result;
}

// x turned by position * inverse frequencies, in fp64.
inline Row turn(const Row& x, int32_t style, const std::vector<float>& inverse, int64_t position) {
  Row y = x;
  if (style == QUIRE_ROPE_STYLE_NONE) return y;
  const size_t pairs = inverse.size();
  for (size_t j = 0; j < pairs; ++j) {
    const size_t a = style == QUIRE_ROPE_STYLE_NEOX ? j : 2 * j;
    const size_t b = style == QUIRE_ROPE_STYLE_NEOX ? j + pairs : 2 * j + 1;
    const double angle = static_cast<double>(position) * static_cast<double>(inverse[j]);
    y[a] = x[a] * std::cos(angle) - x[b] * std::sin(angle);
    y[b] = x[a] * std::sin(angle) + x[b] * std::cos(angle);
  }
  return y;
}

// What docs/formats/codecs.md says of a plane.
struct CodecForm {
  enum Kind { kRaw, kFp8, kChannel, kToken, kCentred } kind;
  uint32_t bits;
  uint32_t run;
  uint32_t group;     // dims; 0 = all
  uint32_t hadamard;  // the largest order; 0 = none
  bool wide;
};

inline CodecForm codec_form(int32_t codec, bool key) {
  switch (codec) {
    case 1:
    case 2:
    case 3:
      return {CodecForm::kRaw, 0, 0, 0, 0, false};
    case 16:
      return key ? CodecForm{CodecForm::kChannel, 8, 256, 0, 0, true}
                 : CodecForm{CodecForm::kToken, 8, 0, 0, 0, false};
    case 17:
      return {CodecForm::kFp8, 8, 0, 0, 0, false};
    case 32:
    case 33:
      return key ? CodecForm{CodecForm::kChannel, 4, codec == 32 ? 64u : 128u, 0, 0, false}
                 : CodecForm{CodecForm::kToken, 4, 0, 0, 64, false};
    case 34:
    case 57: {
      const uint32_t bits = codec == 34 ? 4 : 2;
      return key ? CodecForm{CodecForm::kChannel, bits, 32, 0, 0, false}
                 : CodecForm{CodecForm::kToken, bits, 0, 32, 0, false};
    }
    case 35:
      return {CodecForm::kToken, 4, 0, 0, 64, false};
    case 36:
      return key ? CodecForm{CodecForm::kCentred, 4, 256, 0, 32, false}
                 : CodecForm{CodecForm::kToken, 4, 0, 0, 64, false};
    case 48:
      return key ? CodecForm{CodecForm::kChannel, 3, 64, 0, 0, false}
                 : CodecForm{CodecForm::kToken, 3, 0, 0, 64, false};
    default:  // 56
      return key ? CodecForm{CodecForm::kChannel, 2, 32, 0, 0, false}
                 : CodecForm{CodecForm::kToken, 2, 0, 0, 64, false};
  }
}
inline const std::vector<int32_t>& decodable_codecs() {
  static const std::vector<int32_t> codecs = {1, 2, 3, 16, 17, 32, 33, 34, 35, 36, 48, 56, 57};
  return codecs;
}

inline uint64_t pad64(uint64_t bytes) {
  return (bytes + 63) / 64 * 64;
}
inline uint64_t packed_row(uint32_t dims, uint32_t bits) {
  return bits == 8 ? dims : uint64_t{bits} * ((dims + 7) / 8);
}

// A section with contents drawn at random: side data of believable size, any codes.
class RandomSection {
 public:
  RandomSection(int32_t codec, bool key, uint32_t tokens, uint32_t heads, uint32_t dims,
                std::mt19937_64& random)
      : codec_(codec), form_(codec_form(codec, key)), tokens_(tokens), dims_(dims) {
    bytes_ =
        quire_section_bytes(codec, key ? QUIRE_PLANE_KEY : QUIRE_PLANE_VALUE, tokens, heads, dims);
    // 64-byte aligned within; a page of canary behind.
    storage_.assign(bytes_ + 128, 0xA5);
    offset_ = (64 - reinterpret_cast<uintptr_t>(storage_.data()) % 64) % 64;
    for (uint64_t i = 0; i < bytes_; ++i) data()[i] = static_cast<uint8_t>(random());
    for (uint32_t head = 0; head < heads; ++head) fill_head(head, random);
  }
  RandomSection(RandomSection&&) = default;

  uint8_t* data() { return storage_.data() + offset_; }
  const uint8_t* data() const { return storage_.data() + offset_; }
  uint64_t size() const { return bytes_; }

  Row decode(uint32_t head, uint32_t token) const {
    Row row(dims_);
    if (form_.kind == CodecForm::kRaw) {
      const uint32_t size = element_size(codec_);
      for (uint32_t d = 0; d < dims_; ++d)
        row[d] = static_cast<double>(
            widen(codec_, data() + ((uint64_t{head} * tokens_ + token) * dims_ + d) * size));
      return row;
    }
    if (form_.kind == CodecForm::kFp8) {
      const uint64_t at = head * (pad64(2ull * tokens_) + pad64(uint64_t{tokens_} * dims_));
      for (uint32_t d = 0; d < dims_; ++d)
        row[d] = e4m3(data()[at + pad64(2ull * tokens_) + uint64_t{token} * dims_ + d]) *
                 half(at + 2ull * token);
      return row;
    }
    if (form_.kind == CodecForm::kToken) return decode_token(head, token);
    return decode_run(head, token);
  }

 private:
  double half(uint64_t at) const {
    return static_cast<double>(widen(QUIRE_DTYPE_F16, data() + at));
  }
  static double e4m3(uint8_t bits) {
    const int exponent = bits >> 3 & 15;
    const double magnitude =
        exponent == 0 ? std::ldexp(bits & 7, -9) : std::ldexp(8 + (bits & 7), exponent - 10);
    return (bits & 0x80) != 0 ? -magnitude : magnitude;
  }
  double code(uint64_t row, uint32_t d) const {
    if (form_.bits == 8) return data()[row + d];
    uint64_t integer = 0;
    for (uint32_t i = 0; i < form_.bits; ++i)
      integer |= uint64_t{data()[row + d / 8 * form_.bits + i]} << (8 * i);
    const uint32_t e = d % 8;
    const uint32_t bit = form_.bits == 4 ? 4 * (e / 2 + 4 * (e % 2)) : form_.bits * e;
    return static_cast<double>(integer >> bit & ((1u << form_.bits) - 1));
  }
  void hadamard(Row& row) const {
    uint32_t order = form_.hadamard;
    while (order > 1 && dims_ % order != 0) order /= 2;
    if (order <= 1) return;
    Row out(dims_);
    for (uint32_t d = 0; d < dims_; ++d)
      for (uint32_t e = d / order * order; e < (d / order + 1) * order; ++e)
        out[d] += (__builtin_popcount((d % order) & (e % order)) % 2 != 0 ? -1 : 1) * row[e] /
                  std::sqrt(static_cast<double>(order));
    row = out;
  }
  uint64_t run_bytes(uint32_t n) const {
    return (form_.wide ? 2 : 1) * pad64(4ull * dims_) +
           (form_.kind == CodecForm::kCentred ? pad64(4ull * n) : 0) +
           pad64(n * packed_row(dims_, form_.bits));
  }
  uint64_t run_at(uint32_t head, uint32_t run) const {
    const uint32_t tail = tokens_ % form_.run;
    const uint64_t head_bytes =
        tokens_ / form_.run * run_bytes(form_.run) + (tail != 0 ? run_bytes(tail) : 0);
    return head * head_bytes + run * run_bytes(form_.run);
  }
  Row decode_run(uint32_t head, uint32_t token) const {
    const uint32_t run = token / form_.run;
    const uint32_t n = std::min(form_.run, tokens_ - run * form_.run);
    const uint32_t in_run = token % form_.run;
    const uint64_t side = run_at(head, run);
    const bool centred = form_.kind == CodecForm::kCentred;
    const uint64_t token_side = side + (form_.wide ? 2 : 1) * pad64(4ull * dims_);
    const uint64_t codes = token_side + (centred ? pad64(4ull * n) : 0);
    Row row(dims_);
    for (uint32_t d = 0; d < dims_; ++d) {
      row[d] = code(codes + in_run * packed_row(dims_, form_.bits), d);
      if (centred)
        row[d] = row[d] * half(token_side + 4ull * in_run + 2) + half(token_side + 4ull * in_run);
    }
    if (centred) hadamard(row);
    for (uint32_t d = 0; d < dims_; ++d) {
      if (form_.wide) {
        float zero;
        float scale;
        std::memcpy(&zero, data() + side + 4ull * d, 4);
        std::memcpy(&scale, data() + side + pad64(4ull * dims_) + 4ull * d, 4);
        row[d] = row[d] * static_cast<double>(scale) + static_cast<double>(zero);
      } else {
        row[d] = row[d] * half(side + 4ull * d + 2) + half(side + 4ull * d);
      }
    }
    return row;
  }
  uint32_t groups() const { return form_.group == 0 ? 1 : (dims_ + form_.group - 1) / form_.group; }
  Row decode_token(uint32_t head, uint32_t token) const {
    const uint64_t side_bytes = pad64(4ull * tokens_ * groups());
    const uint64_t at = head * (side_bytes + pad64(tokens_ * packed_row(dims_, form_.bits)));
    Row row(dims_);
    for (uint32_t d = 0; d < dims_; ++d) {
      const uint32_t group = form_.group == 0 ? 0 : d / form_.group;
      const uint64_t pair = at + 4 * (uint64_t{token} * groups() + group);
      row[d] = code(at + side_bytes + token * packed_row(dims_, form_.bits), d) * half(pair + 2) +
               half(pair);
    }
    hadamard(row);
    return row;
  }

  void put_half(uint64_t at, double value) {
    narrow(QUIRE_DTYPE_F16, static_cast<float>(value), data() + at);
  }
  void fill_head(uint32_t head, std::mt19937_64& random) {
    std::normal_distribution<double> normal;
    const double steps = form_.bits == 0 ? 1 : (1u << form_.bits) - 1;
    if (form_.kind == CodecForm::kRaw) {
      const uint32_t size = element_size(codec_);
      for (uint64_t i = 0; i < uint64_t{tokens_} * dims_; ++i)
        narrow(codec_, static_cast<float>(normal(random)),
               data() + (uint64_t{head} * tokens_ * dims_ + i) * size);
    } else if (form_.kind == CodecForm::kFp8) {
      const uint64_t at = head * (pad64(2ull * tokens_) + pad64(uint64_t{tokens_} * dims_));
      for (uint32_t t = 0; t < tokens_; ++t)
        put_half(at + 2ull * t, (1 + std::fabs(normal(random))) / 448);
      uint8_t* codes = data() + at + pad64(2ull * tokens_);
      for (uint64_t i = 0; i < uint64_t{tokens_} * dims_; ++i)
        if ((codes[i] & 0x7f) == 0x7f) codes[i] ^= 1;
    } else if (form_.kind == CodecForm::kToken) {
      const uint64_t side_bytes = pad64(4ull * tokens_ * groups());
      const uint64_t at = head * (side_bytes + pad64(tokens_ * packed_row(dims_, form_.bits)));
      for (uint64_t i = 0; i < uint64_t{tokens_} * groups(); ++i) {
        put_half(at + 4 * i, -1.5 + 0.3 * normal(random));
        put_half(at + 4 * i + 2, (2 + std::fabs(normal(random))) / steps);
      }
    } else {
      fill_runs(head, random, steps);
    }
  }
  void fill_runs(uint32_t head, std::mt19937_64& random, double steps) {
    std::normal_distribution<double> normal;
    for (uint32_t run = 0; run * form_.run < tokens_; ++run) {
      const uint64_t side = run_at(head, run);
      const uint32_t n = std::min(form_.run, tokens_ - run * form_.run);
      for (uint32_t d = 0; d < dims_; ++d) {
        const double zero = d == 1 ? 12 : 2 * normal(random);  // a channel with a large constant
        const double scale = (d == 2 ? 0 : 1 + std::fabs(normal(random))) / steps;
        if (form_.wide) {
          const auto zero_f = static_cast<float>(zero);
          const auto scale_f = static_cast<float>(scale);
          std::memcpy(data() + side + 4ull * d, &zero_f, 4);
          std::memcpy(data() + side + pad64(4ull * dims_) + 4ull * d, &scale_f, 4);
        } else {
          put_half(side + 4ull * d, zero);
          put_half(side + 4ull * d + 2, form_.kind == CodecForm::kCentred ? 1 + scale : scale);
        }
      }
      for (uint32_t t = 0; form_.kind == CodecForm::kCentred && t < n; ++t) {
        put_half(side + pad64(4ull * dims_) + 4ull * t, -1 + 0.2 * normal(random));
        put_half(side + pad64(4ull * dims_) + 4ull * t + 2, 2 / steps);
      }
    }
  }

  int32_t codec_;
  CodecForm form_;
  uint32_t tokens_;
  uint32_t dims_;
  uint64_t bytes_ = 0;
  uint64_t offset_ = 0;
  std::vector<uint8_t> storage_;
};

}  // namespace quire_kernels_test

#endif  // QUIRE_TESTS_KERNELS_ATTENTION_REFERENCE_H_
