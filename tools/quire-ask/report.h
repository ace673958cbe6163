// What quire-ask prints.
#ifndef QUIRE_TOOLS_QUIRE_ASK_REPORT_H_
#define QUIRE_TOOLS_QUIRE_ASK_REPORT_H_

#include <ostream>
#include <string>
#include <vector>

#include "base/status.h"
#include "client/llama/session.h"

namespace quire::ask {

// "resolve 1.2 ms  acquire 0.3 ms  load 61 ms  question 501 ms  recompute 3120 ms  first token 3684
// ms"
std::string timeline_text(const AnswerTimeline& timeline);
void print_run(std::ostream& out, const PolicyRun& run);
std::string run_json(const PolicyRun& run, const StoreSummary& stored, const std::string& question);
void print_comparison(std::ostream& out, const std::vector<Comparison>& comparisons);
std::string comparison_json(const std::vector<Comparison>& comparisons, const StoreSummary& stored,
                            const std::string& question);

// The attention as a .npy file of fp32, [layer][head][token][cell], cells cut to n_cells.
Status write_attention(const std::string& path, const LlamaEngine::Attention& attention,
                       uint32_t n_cells);

}  // namespace quire::ask

#endif  // QUIRE_TOOLS_QUIRE_ASK_REPORT_H_
