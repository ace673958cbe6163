// Whole cases of each attention kernel against the reference, shared by the tests of the CPU and of
// CUDA: what differs is the function called, the bound and the shapes that are affordable.
#ifndef QUIRE_TESTS_KERNELS_ATTENTION_CASES_H_
#define QUIRE_TESTS_KERNELS_ATTENTION_CASES_H_

#include <functional>

#include "tests/kernels/attention/fixture.h"

namespace quire_kernels_test {

struct RowsCase {
  PageShape pages;
  uint32_t kv_heads = 2;
  uint32_t group = 2;
  uint32_t key_dims = 64;
  uint32_t value_dims = 64;
  uint32_t tokens = 100;
  std::vector<int64_t> q_pos;
  uint32_t window = 0;
  float softcap = 0;
  bool side_outputs = false;
  int32_t query_dtype = QUIRE_DTYPE_BF16;
  int32_t out_dtype = QUIRE_DTYPE_F32;
  uint64_t seed = kSeed;
};

// A sequence, query rows and outputs; what the parameters point to.
struct RowsRun {
  explicit RowsRun(const RowsCase& c)
      : spec(c),
        random(c.seed),
        pages(c.pages, {c.tokens}, c.kv_heads, c.key_dims, c.value_dims, random),
        query(c.query_dtype, rows(), c.kv_heads * c.group, c.key_dims),
        out(c.out_dtype, rows(), c.kv_heads * c.group, c.value_dims),
        lse(uint64_t{rows()} * c.kv_heads * c.group, 1e30f) {
    query.fill(random, 1.0);
    for (uint32_t token = 0; token < c.tokens; ++token)
      token_chunk.push_back(token % 11 == 3 ? -1 : static_cast<int32_t>(token / 9 % kChunks));
    chunk_mass.assign(uint64_t{rows()} * kChunks, 1e30);
    column_sums.assign(c.tokens, 1e30);
  }
  uint32_t rows() const { return static_cast<uint32_t>(spec.q_pos.size()); }
  float scale() const { return 1.3f / std::sqrt(static_cast<float>(spec.key_dims)); }

  quire_attend_rows_params params() {
    quire_attend_rows_params p{};
    p.struct_bytes = sizeof(p);
    p.n_rows = rows();
    p.n_query_heads = spec.kv_heads * spec.group;
    p.n_kv_heads = spec.kv_heads;
    p.key_dims = spec.key_dims;
    p.value_dims = spec.value_dims;
    p.window = spec.window;
    p.query = query.view();
    p.out = out.view();
    p.q_pos = spec.q_pos.data();
    p.kv = pages.view();
    p.kv_tokens = spec.tokens;
    p.scale = scale();
    p.softcap = spec.softcap;
    p.lse = lse.data();
    if (spec.side_outputs) {
      p.token_chunk = token_chunk.data();
      p.n_chunks = kChunks;
      p.chunk_mass = chunk_mass.data();
      p.column_sums = column_sums.data();
    }
    return p;
  }

  // What row `row` must give in head `head`; `extra` tokens more than it may see, for mutants.
  Attention exact(uint32_t row, uint32_t head, int64_t extra = 0) {
    const int64_t last = std::min<int64_t>(spec.q_pos[row] + extra, spec.tokens - 1);
    const int64_t first = spec.window == 0 ? 0 : std::max<int64_t>(0, last + 1 - spec.window);
    std::vector<const Row*> keys;
    std::vector<const Row*> values;
    for (int64_t token = first; token <= last; ++token) {
      keys.push_back(&pages.key(0, head / spec.group, static_cast<uint32_t>(token)));
      values.push_back(&pages.value(0, head / spec.group, static_cast<uint32_t>(token)));
    }
    return attend(query.values(row, head), keys, values, static_cast<double>(scale()),
                  static_cast<double>(spec.softcap));
  }
  double lse_of(uint32_t row, uint32_t head) const {
    return static_cast<double>(lse[row * spec.kv_heads * spec.group + head]);
  }

  static constexpr uint32_t kChunks = 4;
  RowsCase spec;
  std::mt19937_64 random;
  Pages pages;
  HeadRows query;
  HeadRows out;
  std::vector<float> lse;
  std::vector<int32_t> token_chunk;
  std::vector<double> chunk_mass;
  std::vector<double> column_sums;
};

using AttendRows = std::function<int(const quire_attend_rows_params&)>;

// True where every row is within the bound of the reference that sees `extra` tokens more.
inline bool rows_match(Engines engine, RowsRun& run, int64_t extra, Errors* errors) {
  bool good = true;
  for (uint32_t row = 0; row < run.rows(); ++row)
    for (uint32_t head = 0; head < run.spec.kv_heads * run.spec.group; ++head)
      good &= within(engine, run.exact(row, head, extra), run.out.values(row, head),
                     run.lse_of(row, head), run.spec.tokens, run.spec.pages.dtype,
                     run.spec.out_dtype, errors);
  return good;
}

inline void expect_side_outputs(Engines engine, RowsRun& run) {
  const uint32_t heads = run.spec.kv_heads * run.spec.group;
  std::vector<double> columns(run.spec.tokens);
  const double close = engine == Engines::kScalar   ? 1e-12
                       : engine == Engines::kAvx512 ? 2e-4
                                                    : 4e-2;
  for (uint32_t row = 0; row < run.rows(); ++row) {
    std::vector<double> mass(RowsRun::kChunks);
    double of_no_chunk = 0;
    for (uint32_t head = 0; head < heads; ++head) {
      const Attention exact = run.exact(row, head);
      const auto last = static_cast<uint32_t>(run.spec.q_pos[row]);
      const auto first = last + 1 - static_cast<uint32_t>(exact.probability.size());
      for (uint32_t token = first; token <= last; ++token) {
        const double p = exact.probability[token - first];
        columns[token] += p;
        if (run.token_chunk[token] < 0)
          of_no_chunk += p;
        else
          mass[static_cast<size_t>(run.token_chunk[token])] += p;
      }
    }
    double total = of_no_chunk;
    for (uint32_t c = 0; c < RowsRun::kChunks; ++c) {
      const double got = run.chunk_mass[row * RowsRun::kChunks + c];
      EXPECT_NEAR(got, mass[c], close * heads) << "row " << row << " chunk " << c;
      total += got;
    }
    EXPECT_NEAR(total, heads, close * heads);
  }
  for (uint32_t token = 0; token < run.spec.tokens; ++token)
    EXPECT_NEAR(run.column_sums[token], columns[token], close * (1 + columns[token])) << token;
}

inline void expect_rows(Engines engine, const RowsCase& c, const AttendRows& attend_rows,
                        Errors* errors) {
  RowsRun run(c);
  const quire_attend_rows_params p = run.params();
  ASSERT_EQ(attend_rows(p), QUIRE_KERNEL_OK);
  EXPECT_TRUE(rows_match(engine, run, 0, errors))
      << "dims " << c.key_dims << "/" << c.value_dims << " group " << c.group << " page "
      << c.pages.page_tokens << " tokens " << c.tokens << " rows " << c.q_pos.size() << " window "
      << c.window << " seed " << c.seed;
  EXPECT_TRUE(run.out.canaries_stand());
  if (c.side_outputs) expect_side_outputs(engine, run);
}

// Rows scattered over the sequence, ascending.
inline std::vector<int64_t> scattered(uint32_t tokens, double share, std::mt19937_64& random) {
  std::vector<int64_t> rows;
  for (uint32_t token = 0; token < tokens; ++token)
    if (std::uniform_real_distribution<>(0, 1)(random) < share) rows.push_back(token);
  if (rows.empty()) rows.push_back(tokens - 1);
  return rows;
}

struct DecodeCase {
  struct Chunk {
    int32_t key_codec = QUIRE_CODEC_INT4_CHANNEL64;
    int32_t value_codec = QUIRE_CODEC_INT4_CHANNEL64;
    uint32_t tokens = 70;
    int32_t frame = QUIRE_FRAME_LOCAL;
    int64_t base = 0;
  };
  struct Request {
    std::vector<quire_chunk_ref> refs;
    uint32_t tail_tokens = 0;
    int64_t position = 0;
  };
  std::vector<Chunk> chunks;
  std::vector<Request> requests;
  PageShape pages;
  uint32_t kv_heads = 2;
  uint32_t group = 4;
  uint32_t dims = 64;
  uint32_t rotary_dims = 64;
  int32_t rope_style = QUIRE_ROPE_STYLE_NEOX;
  float softcap = 0;
  uint32_t page_tokens = 0;  // of key bounds
  float page_threshold = 0;
  float block_threshold = 0;
  double query_spread = 1;
  int32_t query_dtype = QUIRE_DTYPE_F32;
  int32_t out_dtype = QUIRE_DTYPE_F32;
  uint64_t seed = kSeed;
};

struct DecodeRun {
  explicit DecodeRun(const DecodeCase& c)
      : spec(c),
        random(c.seed),
        inverse(c.rope_style == QUIRE_ROPE_STYLE_NONE ? std::vector<float>()
                                                      : frequencies(c.rotary_dims)),
        tails(c.pages, tail_tokens(c), c.kv_heads, c.dims, c.dims, random),
        query(c.query_dtype, n_requests(), c.kv_heads * c.group, c.dims),
        out(c.out_dtype, n_requests(), c.kv_heads * c.group, c.dims),
        lse(uint64_t{n_requests()} * c.kv_heads * c.group, 1e30f) {
    query.fill(random, c.query_spread);
    for (const DecodeCase::Chunk& chunk : c.chunks) {
      keys.emplace_back(chunk.key_codec, true, chunk.tokens, c.kv_heads, c.dims, random);
      values.emplace_back(chunk.value_codec, false, chunk.tokens, c.kv_heads, c.dims, random);
    }
    for (size_t i = 0; i < c.chunks.size(); ++i) add_chunk(i);
    for (size_t i = 0; i < c.requests.size(); ++i) {
      const DecodeCase::Request& request = c.requests[i];
      const auto begin = static_cast<uint32_t>(refs.size());
      refs.insert(refs.end(), request.refs.begin(), request.refs.end());
      requests.push_back({begin, static_cast<uint32_t>(refs.size()),
                          tails.first_entry(static_cast<uint32_t>(i)), request.tail_tokens});
    }
  }
  static std::vector<uint32_t> tail_tokens(const DecodeCase& c) {
    std::vector<uint32_t> tokens;
    for (const DecodeCase::Request& request : c.requests) tokens.push_back(request.tail_tokens);
    return tokens;
  }
  uint32_t n_requests() const { return static_cast<uint32_t>(spec.requests.size()); }
  float scale() const { return 0.7f / std::sqrt(static_cast<float>(spec.dims)); }

  void add_chunk(size_t i) {
    const DecodeCase::Chunk& chunk = spec.chunks[i];
    quire_chunk_kv kv{};
    kv.key_codec = chunk.key_codec;
    kv.value_codec = chunk.value_codec;
    kv.frame = chunk.frame;
    kv.n_tokens = chunk.tokens;
    kv.base_position = chunk.base;
    kv.key = keys[i].data();
    kv.key_bytes = keys[i].size();
    kv.value = values[i].data();
    kv.value_bytes = values[i].size();
    if (spec.page_tokens > 0) {
      const uint32_t pages = (chunk.tokens + spec.page_tokens - 1) / spec.page_tokens;
      bounds.emplace_back(uint64_t{spec.kv_heads} * pages * 2 * spec.dims);
      quire_key_bounds_params p{};
      p.struct_bytes = sizeof(p);
      p.codec = chunk.key_codec;
      p.n_tokens = chunk.tokens;
      p.n_heads = spec.kv_heads;
      p.head_dim = spec.dims;
      p.page_tokens = spec.page_tokens;
      p.key = kv.key;
      p.key_bytes = kv.key_bytes;
      p.bounds = bounds.back().data();
      p.bounds_bytes = bounds.back().size() * 4;
      EXPECT_EQ(quire_key_bounds(&p), QUIRE_KERNEL_OK);
      kv.key_bounds = bounds.back().data();
    }
    chunks.push_back(kv);
  }

  quire_decode_chunks_params params() {
    quire_decode_chunks_params p{};
    p.struct_bytes = sizeof(p);
    p.n_requests = n_requests();
    p.n_query_heads = spec.kv_heads * spec.group;
    p.n_kv_heads = spec.kv_heads;
    p.dims = spec.dims;
    p.query = query.view();
    p.out = out.view();
    p.lse = lse.data();
    p.scale = scale();
    p.softcap = spec.softcap;
    p.rope_style = spec.rope_style;
    p.rotary_dims = spec.rotary_dims;
    p.inverse_frequencies = inverse.empty() ? nullptr : inverse.data();
    p.chunks = chunks.data();
    p.n_chunks = static_cast<uint32_t>(chunks.size());
    p.refs = refs.data();
    p.n_refs = static_cast<uint32_t>(refs.size());
    p.requests = requests.data();
    p.tail = tails.view();
    p.page_tokens = spec.page_tokens;
    p.page_threshold = spec.page_threshold;
    p.block_threshold = spec.block_threshold;
    return p;
  }

  // Decode, rotate every key to where it stands, attend.
  Attention exact(uint32_t row, uint32_t head) const {
    const DecodeCase::Request& request = spec.requests[row];
    const uint32_t kv_head = head / spec.group;
    std::vector<Row> rows;
    for (const quire_chunk_ref& ref : request.refs)
      for (uint32_t token = ref.token_begin; token < ref.token_end; ++token) {
        const DecodeCase::Chunk& chunk = spec.chunks[ref.chunk];
        const int64_t stored = chunk.frame == QUIRE_FRAME_LOCAL ? chunk.base + token : 0;
        const Row key = keys[ref.chunk].decode(kv_head, token);
        rows.push_back(turn(key, spec.rope_style, inverse, ref.start_position + token - stored));
        rows.push_back(values[ref.chunk].decode(kv_head, token));
      }
    std::vector<const Row*> key_rows;
    std::vector<const Row*> value_rows;
    for (size_t i = 0; i < rows.size(); i += 2) {
      key_rows.push_back(&rows[i]);
      value_rows.push_back(&rows[i + 1]);
    }
    for (uint32_t token = 0; token < request.tail_tokens; ++token) {
      key_rows.push_back(&tails.key(row, kv_head, token));
      value_rows.push_back(&tails.value(row, kv_head, token));
    }
    return attend(const_cast<HeadRows&>(query).values(row, head), key_rows, value_rows,
                  static_cast<double>(scale()), static_cast<double>(spec.softcap));
  }

  DecodeCase spec;
  std::mt19937_64 random;
  std::vector<float> inverse;
  Pages tails;
  HeadRows query;
  HeadRows out;
  std::vector<float> lse;
  std::vector<RandomSection> keys;
  std::vector<RandomSection> values;
  std::vector<std::vector<float>> bounds;
  std::vector<quire_chunk_kv> chunks;
  std::vector<quire_chunk_ref> refs;
  std::vector<quire_decode_request> requests;
};

using DecodeChunks = std::function<int(const quire_decode_chunks_params&)>;

inline double decode_tokens(const DecodeCase::Request& request) {
  double tokens = request.tail_tokens;
  for (const quire_chunk_ref& ref : request.refs) tokens += ref.token_end - ref.token_begin;
  return tokens;
}

inline void expect_decode(Engines engine, const DecodeCase& c, const DecodeChunks& decode_chunks,
                          Errors* errors) {
  DecodeRun run(c);
  const quire_decode_chunks_params p = run.params();
  ASSERT_EQ(decode_chunks(p), QUIRE_KERNEL_OK);
  for (uint32_t row = 0; row < run.n_requests(); ++row)
    for (uint32_t head = 0; head < c.kv_heads * c.group; ++head) {
      const Attention exact = run.exact(row, head);
      EXPECT_TRUE(within(engine, exact, run.out.values(row, head),
                         static_cast<double>(run.lse[row * c.kv_heads * c.group + head]),
                         decode_tokens(c.requests[row]), c.pages.dtype, c.out_dtype, errors))
          << "request " << row << " head " << head << " dims " << c.dims << " codec "
          << (c.chunks.empty() ? 0 : c.chunks[0].key_codec) << " seed " << c.seed;
    }
  EXPECT_TRUE(run.out.canaries_stand());
}

}  // namespace quire_kernels_test

#endif  // QUIRE_TESTS_KERNELS_ATTENTION_CASES_H_
