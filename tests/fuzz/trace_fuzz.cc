// Request traces as quire-bench replays them: any text ends in a status, and what is accepted is
// consistent.
#include <sstream>

#include "bench/quire-bench/trace.h"
#include "tests/fuzz/fuzz_target.h"

QUIRE_FUZZ_SEEDS(trace) {
  using quire::fuzz::bytes_of_text;
  return {{"two_requests",
           bytes_of_text("{\"timestamp\": 27482, \"input_length\": 1100, \"output_length\": 52, "
                         "\"hash_ids\": [46, 47, 2353]}\n\n"
                         "{\"timestamp\": 30535, \"input_length\": 1024, \"output_length\": 1, "
                         "\"hash_ids\": [46, 47]}\n")},
          {"no_line_end", bytes_of_text("{\"timestamp\":0,\"input_length\":1,\"hash_ids\":[0]}")}};
}

QUIRE_FUZZ_TARGET(trace) {
  using quire::fuzz::expect;
  std::istringstream in(quire::fuzz::text_of(input));
  const auto trace = quire::bench::read_trace(in);
  if (!trace) {
    expect(trace.status().code() == quire::StatusCode::kInvalidArgument, "a bad trace is an error");
    expect(!trace.status().message().empty(), "a refusal says why");
    return false;
  }
  uint64_t blocks = 0;
  for (const quire::bench::TraceRequest& request : trace->requests) {
    uint64_t tokens = 0;
    for (uint64_t i = 0; i < request.blocks.size(); ++i) {
      expect(request.block_tokens(i) > 0, "no block is empty");
      tokens += request.block_tokens(i);
    }
    expect(tokens == request.input_tokens, "blocks cover the prompt");
    blocks += request.blocks.size();
  }
  expect(blocks == trace->blocks && trace->unique_blocks <= blocks, "blocks are counted");
  return true;
}
