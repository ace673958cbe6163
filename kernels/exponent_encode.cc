// Rows -> a section of the lossless bf16 codecs: a first look at the rows makes exp4's table or a
// run's tops, the second writes codes straight into the section.
#include <string.h>

#include "kernels/exponent_ops.h"
#include "kernels/exponent_section.h"

namespace quire_kernels {
namespace {

constexpr uint32_t kKeptBytes = 128 << 10;
constexpr Byte kNotFinite = 255;
constexpr uint32_t kTokensTogether = 16;
constexpr uint32_t kRotatedDimsMax = 256;  // RotatingOps
constexpr uint32_t kRefusalsMax = 4;       // then a section's rows are all rotated by the source
constexpr uint32_t kSampledRows = 4;       // exp4's table is made from every fourth row

// Exponents by descending frequency, smaller first among equals.
void rank_exponents(const uint64_t* counters, Byte* exponents) {
  uint64_t ranked[kTableExponents];
  uint32_t n = 0;
  for (uint32_t e = 0; e < 256; ++e) {
    if (n == kTableExponents && counters[e] <= ranked[n - 1]) continue;
    uint32_t i = n < kTableExponents ? n++ : n - 1;
    for (; i > 0 && ranked[i - 1] < counters[e]; --i) {
      ranked[i] = ranked[i - 1];
      exponents[i] = exponents[i - 1];
    }
    ranked[i] = counters[e];
    exponents[i] = static_cast<Byte>(e);
  }
}

// ExponentRows::window_begin
uint32_t code_window(const Byte* exponents) {
  uint32_t least = 255;
  uint32_t most = 0;
  for (uint32_t i = 0; i < kTableExponents; ++i) {
    if (exponents[i] < least) least = exponents[i];
    if (exponents[i] > most) most = exponents[i];
  }
  if (least > 255 - kCodeWindow) least = 255 - kCodeWindow;
  return most - least < kCodeWindow ? least : kNoCodeWindow;
}

// Heads are written in groups, a block of tokens of all of them at a time. Escapes of each head of
// a group grow in an area of their own behind those that are written, and move together at its end.
class Encoder {
 public:
  Encoder(const ExponentShape& shape, ExponentSource& source, Byte* section)
      : shape_(shape),
        source_(source),
        ops_(*active_exponent_ops()),
        out_(section),
        plain_bytes_(exponent_plain_bytes(shape.n_tokens, shape.n_heads, shape.head_dim)),
        s_(exponent_section(shape, 0)),
        rotates_(ops_.rotating != nullptr && rotating_ops_take(shape.head_dim) &&
                 source.leaves_rotation()) {}

  EncodedSection run() {
    if (s_.at.escapes >= plain_bytes_) return write_plain();
    // With one more the coded section would be as long as the plain one.
    const uint64_t room = plain_bytes_ - s_.at.escapes - kBlockAlignment;
    escapes_max_ = room < UINT32_MAX ? room : UINT32_MAX;
    if (s_.runs == 0) choose_exponents();
    const uint32_t together = heads_together();
    for (uint32_t head = 0, n; head < shape_.n_heads; head += n) {
      n = lesser(shape_.n_heads - head, together);
      if (write_heads(head, n)) continue;
      // One head may have too many for its area where there is room in the section.
      for (uint32_t h = head; h < head + n; ++h)
        if (n == 1 || !write_heads(h, 1)) return write_plain();
    }
    header_.escape_count = static_cast<uint32_t>(s_.n_escapes);
    memcpy(out_, &header_, sizeof(header_));
    return {zero_padding(), finite_};
  }

 private:
  static uint32_t lesser(uint64_t a, uint64_t b) { return static_cast<uint32_t>(a < b ? a : b); }

  // As many as leave room in the L1 cache for what their rows are made from; at least one. Rows
  // that are rotated in registers want none of it.
  uint32_t tokens_together(uint32_t n_heads) const {
    const uint32_t bytes = rotates_ ? kEncodeBytesMax : 8 << 10;
    static_assert(kEncodeBytesMax >= kEncodeHeadsMax * QUIRE_KERNEL_DIMS_MAX * 2);
    const uint32_t fit = lesser(bytes / (shape_.head_dim * 2), kEncodeRowsMax) / n_heads;
    return fit == 0 ? 1 : lesser(fit, kTokensTogether);
  }

  // window3 keeps the exponents of a run of all heads of a group, where they fit.
  uint32_t heads_together() const {
    const uint32_t together = source_.heads_together();
    if (s_.runs == 0) return together;
    const uint64_t of_run =
        uint64_t{lesser(shape_.spec.run_tokens, shape_.n_tokens)} * shape_.head_dim;
    const uint32_t fit = lesser(kKeptBytes / of_run, together);
    return fit == 0 ? together : fit;
  }

  void choose_exponents() {
    uint64_t counters[256] = {};
    // Heads begin at the same row of four only where their tokens come in fours.
    const uint32_t together = shape_.n_tokens % kSampledRows == 0 ? source_.heads_together() : 1;
    for (uint32_t head = 0, n_heads; head < shape_.n_heads; head += n_heads) {
      n_heads = lesser(shape_.n_heads - head, together);
      const auto skipped =
          static_cast<uint32_t>(-(uint64_t{head} * shape_.n_tokens) % kSampledRows);
      for (uint32_t token = skipped, n; token < shape_.n_tokens; token += n * kSampledRows) {
        n = lesser((shape_.n_tokens - token + kSampledRows - 1) / kSampledRows,
                   tokens_together(n_heads));
        count(head, n_heads, token, n, counters);
      }
    }
    rank_exponents(counters, header_.exponents);
    memset(code_of_, kTableExponents, sizeof(code_of_));
    for (uint32_t i = 0; i < kTableExponents; ++i)
      code_of_[header_.exponents[i]] = static_cast<Byte>(i);
    window_begin_ = code_window(header_.exponents);
  }

  void count(uint32_t head, uint32_t n_heads, uint32_t token, uint32_t n, uint64_t* counters) {
    if (ask_unrotated(head, n_heads, token, n, kSampledRows)) {
      bool zero = false;
      for (uint32_t h = 0; h < n_heads && !zero; ++h) {
        Byte* exponents = exponents_ + h * n * shape_.head_dim;
        zero = ops_.rotating->exponents(unrotated_part(h, 0), n, shape_.head_dim, exponents).zero;
      }
      if (!zero) return ops_.count(exponents_, n_heads * n * shape_.head_dim, counters);
      if (++refusals_ == kRefusalsMax) rotates_ = false;
    }
    source_.rows(head, n_heads, token, n, kSampledRows, &rows_);
    ops_.count_exponents(part(0), n_heads * n, shape_.head_dim, counters);
  }

  bool ask_unrotated(uint32_t head, uint32_t n_heads, uint32_t token, uint32_t n, uint32_t step) {
    unrotated_ = rotates_;
    if (!rotates_) return false;
    source_.unrotated_rows(head, n_heads, token, n, step, &rows_);
    const uint32_t dims = shape_.head_dim;
    for (uint32_t i = 0; i < n; ++i) {
      if (i > 0 && rows_.table[i] == rows_.table[i - 1]) {
        angles_[i] = angles_[i - 1];
        continue;
      }
      float* to = ordered_angles_ + i * dims;
      ops_.rotating->order_angles(rows_.table[i], dims, to);
      angles_[i] = to;
    }
    return true;
  }

  Byte* tops_at(uint32_t head, uint32_t token) const {
    return out_ + s_.at.tops + tops_offset(shape_, s_, head, token);
  }

  // False where the escapes of a head exceed its area.
  bool write_heads(uint32_t head, uint32_t n_heads) {
    constexpr uint64_t kSlack = 64;  // EscapeWriter's
    const uint64_t area = (escapes_max_ - s_.n_escapes + kSlack) / n_heads;
    if (area < kSlack) return false;
    for (uint32_t h = 0; h < n_heads; ++h)
      escapes_[h] = {out_ + s_.at.escapes + s_.n_escapes + h * area, 0, area - kSlack};
    for (uint32_t token = 0, n; token < shape_.n_tokens; token += n) {
      n = tokens_left_of_run(shape_, token);
      const bool fits = s_.runs == 0 ? write_by_table(head, n_heads, token, n)
                                     : write_below_tops(head, n_heads, token, n);
      if (!fits) return false;
    }
    for (uint32_t h = 0; h < n_heads; ++h) join_escapes(head + h, escapes_[h]);
    return true;
  }

  // Rows from the first-th on of those that were asked for last.
  EncodeRows part(uint32_t first) const {
    return {rows_.elements + first, rows_.ahead + first, rows_.ahead_bytes};
  }
  // The same of unrotated rows: of the h-th head, from the token-th token on.
  EncodeRows unrotated_part(uint32_t h, uint32_t token) const {
    return {rows_.elements + token, rows_.ahead + token, rows_.ahead_bytes, angles_ + token,
            h * rows_.head_stride};
  }

  // body(head, first token, n) of blocks of rows that have been asked for.
  template <typename Body>
  bool for_blocks(uint32_t head, uint32_t n_heads, uint32_t token, uint32_t n_tokens, Body body) {
    for (uint32_t end = token + n_tokens, n; token < end; token += n) {
      n = lesser(end - token, tokens_together(n_heads));
      if (!ask_unrotated(head, n_heads, token, n, 1))
        source_.rows(head, n_heads, token, n, 1, &rows_);
      // What RotatingOps refuse is done again, and the rest of the block, by rows().
      const auto rotate_now = [&] {
        unrotated_ = false;
        if (++refusals_ == kRefusalsMax) rotates_ = false;
        source_.rows(head, n_heads, token, n, 1, &rows_);
      };
      for (uint32_t h = 0; h < n_heads; ++h)
        if (!body(h, token, n, rotate_now)) return false;
    }
    return true;
  }

  // body(row, its place among n_rows, n) of pieces of a head's rows that end where an entry of the
  // escape index is due. False where there are too many escapes.
  template <typename Body>
  bool for_pieces(uint32_t head, uint32_t token, uint32_t n_rows, const EscapeWriter& escapes,
                  Body body) {
    const uint64_t begin = uint64_t{head} * shape_.n_tokens + token;
    for (uint32_t at = 0, n; at < n_rows; at += n) {
      const uint64_t row = begin + at;
      if (row % kEscapeIndexRows == 0) set_index(row, static_cast<uint32_t>(escapes.n));
      n = lesser(n_rows - at, kEscapeIndexRows - row % kEscapeIndexRows);
      body(row, at, n);
      if (escapes.n > escapes.max) return false;
    }
    return true;
  }

  Byte* sign_mantissa_at(uint64_t row) const {
    return out_ + s_.at.sign_mantissa + row * shape_.head_dim;
  }
  Byte* codes_at(uint64_t row) const { return out_ + s_.at.codes + row * s_.code_bytes; }

  // exp4
  bool write_by_table(uint32_t head, uint32_t n_heads, uint32_t token, uint32_t n_tokens) {
    const auto write_head = [&](uint32_t h, uint32_t first, uint32_t n, auto rotate_now) {
      return for_pieces(
          head + h, first, n, escapes_[h], [&](uint64_t row, uint32_t at, uint32_t m) {
            const ExponentRows format{shape_.spec.bits,  shape_.head_dim, m,
                                      header_.exponents, code_of_,        nullptr,
                                      window_begin_};
            if (unrotated_ && !encode_rotated(format, unrotated_part(h, at), row, &escapes_[h]))
              rotate_now();
            if (unrotated_) return;
            if (ops_.encode(format, part(h * n + at), sign_mantissa_at(row), codes_at(row),
                            &escapes_[h]))
              finite_ = false;
          });
    };
    return for_blocks(head, n_heads, token, n_tokens, write_head);
  }

  // False, and no escapes, where it may be wrong.
  bool encode_rotated(const ExponentRows& format, const EncodeRows& rows, uint64_t row,
                      EscapeWriter* escapes) {
    const uint64_t escapes_before = escapes->n;
    const ExponentsFound found =
        ops_.rotating->encode(format, rows, sign_mantissa_at(row), codes_at(row), escapes);
    if (found.zero) {
      escapes->n = escapes_before;
      return false;
    }
    if (found.most) finite_ = false;
    return true;
  }

  // window3, one run: each channel's largest exponent, then the codes below it. Where exponents do
  // not fit in between, rows are looked at twice.
  bool write_below_tops(uint32_t head, uint32_t n_heads, uint32_t token, uint32_t n_tokens) {
    const bool keeps = uint64_t{n_heads} * n_tokens * shape_.head_dim <= kKeptBytes;
    for (uint32_t h = 0; h < n_heads; ++h)
      memset(tops_at(head + h, token), kWindow - 1, shape_.head_dim);
    for_blocks(head, n_heads, token, n_tokens,
               [&](uint32_t h, uint32_t first, uint32_t n, auto rotate_now) {
                 const uint64_t kept = keeps ? uint64_t{h} * n_tokens + first - token : 0;
                 split(head, h, first, n, exponents_ + kept * shape_.head_dim, rotate_now);
                 return true;
               });
    for (uint32_t h = 0; h < n_heads; ++h)
      if (memchr(tops_at(head + h, token), kNotFinite, shape_.head_dim) != nullptr) finite_ = false;
    if (!keeps)
      return for_blocks(head, n_heads, token, n_tokens,
                        [&](uint32_t h, uint32_t first, uint32_t n, auto rotate_now) {
                          split(head, h, first, n, exponents_, rotate_now);
                          return encode_kept(head + h, first, n, exponents_, &escapes_[h]);
                        });
    for (uint32_t h = 0; h < n_heads; ++h) {
      const Byte* kept = exponents_ + uint64_t{h} * n_tokens * shape_.head_dim;
      if (!encode_kept(head + h, token, n_tokens, kept, &escapes_[h])) return false;
    }
    return true;
  }

  // Rows of the h-th head of those that were asked for.
  template <typename RotateNow>
  void split(uint32_t head, uint32_t h, uint32_t token, uint32_t n_rows, Byte* exponents,
             RotateNow rotate_now) {
    Byte* sign_mantissa = sign_mantissa_at(uint64_t{head + h} * shape_.n_tokens + token);
    Byte* tops = tops_at(head + h, token);
    const uint32_t dims = shape_.head_dim;
    if (unrotated_ &&
        ops_.rotating->split(unrotated_part(h, 0), n_rows, dims, sign_mantissa, exponents, tops)
            .zero)
      rotate_now();
    if (!unrotated_) ops_.split(part(h * n_rows), n_rows, dims, sign_mantissa, exponents, tops);
  }

  bool encode_kept(uint32_t head, uint32_t token, uint32_t n_rows, const Byte* exponents,
                   EscapeWriter* escapes) {
    const Byte* tops = tops_at(head, token);
    return for_pieces(head, token, n_rows, *escapes, [&](uint64_t row, uint32_t at, uint32_t n) {
      const ExponentRows format{shape_.spec.bits, shape_.head_dim, n, nullptr, nullptr, tops};
      ops_.encode_below_tops(format, exponents + uint64_t{at} * shape_.head_dim, codes_at(row),
                             escapes);
    });
  }

  void set_index(uint64_t row, uint32_t escapes_before) {
    memcpy(out_ + s_.at.escape_index + row / kEscapeIndexRows * 4, &escapes_before, 4);
  }

  // A head's escapes move behind all before; its entries of the index counted its own only.
  void join_escapes(uint32_t head, const EscapeWriter& escapes) {
    const uint64_t begin = uint64_t{head} * shape_.n_tokens;
    const uint64_t first = (begin + kEscapeIndexRows - 1) / kEscapeIndexRows;
    for (uint64_t k = first; k * kEscapeIndexRows < begin + shape_.n_tokens; ++k) {
      uint32_t before;
      memcpy(&before, out_ + s_.at.escape_index + k * 4, 4);
      set_index(k * kEscapeIndexRows, before + static_cast<uint32_t>(s_.n_escapes));
    }
    memmove(out_ + s_.at.escapes + s_.n_escapes, escapes.escapes, escapes.n);
    s_.n_escapes += escapes.n;
  }

  EncodedSection write_plain() {
    header_ = {};
    header_.mode = kExponentPlain;
    memcpy(out_, &header_, sizeof(header_));
    const uint64_t row_bytes = uint64_t{shape_.head_dim} * 2;
    Byte* to = out_ + sizeof(header_);
    for (uint32_t head = 0; head < shape_.n_heads; ++head)
      for (uint32_t token = 0, n; token < shape_.n_tokens; token += n) {
        n = lesser(shape_.n_tokens - token, tokens_together(1));
        source_.rows(head, 1, token, n, 1, &rows_);
        for (uint32_t i = 0; i < n; ++i, to += row_bytes) memcpy(to, rows_.elements[i], row_bytes);
      }
    memset(to, 0, static_cast<uint64_t>(out_ + plain_bytes_ - to));
    const uint32_t bits = active_rows()->max_abs_bits(QUIRE_DTYPE_BF16, out_ + sizeof(header_),
                                                      s_.rows * shape_.head_dim);
    return {plain_bytes_, bits < infinity_bits(QUIRE_DTYPE_BF16)};
  }

  // Returns the section's size.
  uint64_t zero_padding() {
    const auto zero = [this](uint64_t begin, uint64_t end) {
      memset(out_ + begin, 0, end - begin);
    };
    const uint64_t total = s_.at.escapes + align_block(s_.n_escapes);
    zero(s_.at.tops + uint64_t{shape_.n_heads} * s_.runs * shape_.head_dim, s_.at.sign_mantissa);
    zero(s_.at.sign_mantissa + s_.rows * shape_.head_dim, s_.at.codes);
    zero(s_.at.codes + s_.rows * s_.code_bytes, s_.at.escape_index);
    zero(s_.at.escape_index + s_.index_entries * 4, s_.at.escapes);
    zero(s_.at.escapes + s_.n_escapes, total);
    return total;
  }

  const ExponentShape& shape_;
  ExponentSource& source_;
  const ExponentOps& ops_;
  Byte* out_;
  uint64_t plain_bytes_;
  ExponentSection s_;
  ExponentHeader header_ = {};
  Byte code_of_[256];
  uint32_t window_begin_ = kNoCodeWindow;
  uint64_t escapes_max_ = 0;
  bool finite_ = true;
  EscapeWriter escapes_[kEncodeHeadsMax];
  alignas(64) Byte exponents_[kKeptBytes];
  EncodeBatch rows_;
  bool rotates_;  // here, not in the source
  uint32_t refusals_ = 0;
  bool unrotated_ = false;  // rows_
  const float* angles_[kEncodeRowsMax];
  alignas(64) float ordered_angles_[kTokensTogether * kRotatedDimsMax];
};

}  // namespace

EncodedSection exponent_encode(const ExponentShape& shape, ExponentSource& source, Byte* section) {
  return Encoder(shape, source, section).run();
}

}  // namespace quire_kernels
