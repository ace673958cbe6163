// The policy "query-value:B"; for parse_policy().
#ifndef QUIRE_CLIENT_REUSE_QUERY_VALUE_H_
#define QUIRE_CLIENT_REUSE_QUERY_VALUE_H_

#include <string>

#include "client/reuse/policy.h"

namespace quire::reuse {

// What the question would carry away, within one charge. The rule, and what it was chosen from:
// docs/decisions/013-query-value.md; its twin, with equal rows:
// client/python/quire/transformers/policies/query_value.py.
class QueryValue final : public RowPolicy {
 public:
  // charge: of rows and the question's pass together, in [0, 1].
  QueryValue(double charge, std::string name);
  PolicyNeeds needs() const override;
  std::string name() const override { return name_; }
  // Ends at the last full-attention layer that takes no more than a third of the charge.
  uint32_t question_layers(const Plan& plan, const AttentionLayers& layers) const override;

 private:
  Expected<std::vector<uint32_t>> choose(const Plan& plan, std::span<const float> column_mass,
                                         const QuestionPass& pass) const override;
  size_t rows_wanted(const Plan& plan, const QuestionPass& pass) const;

  double charge_;
  std::string name_;
};

}  // namespace quire::reuse

#endif  // QUIRE_CLIENT_REUSE_QUERY_VALUE_H_
