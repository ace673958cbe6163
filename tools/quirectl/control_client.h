// The control API as plain calls: hides gRPC from the rest of quirectl.
#ifndef QUIRE_TOOLS_QUIRECTL_CONTROL_CLIENT_H_
#define QUIRE_TOOLS_QUIRECTL_CONTROL_CLIENT_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "proto/control.pb.h"

namespace quire::ctl {

namespace pb = quire::control::v1;

// Each call blocks until the answer, or until timeout_ms has passed (kDeadlineExceeded). Errors
// carry the server's own code and message; kUnavailable where no server answers. Not thread safe.
class ControlClient {
 public:
  // server is "host:port"; connecting happens at the first call.
  ControlClient(std::string server, uint64_t timeout_ms);
  ~ControlClient();
  ControlClient(const ControlClient&) = delete;
  ControlClient& operator=(const ControlClient&) = delete;

  Expected<pb::LookupResponse> call(const pb::LookupRequest& request);
  Expected<pb::ListResponse> call(const pb::ListRequest& request);
  Expected<pb::StatResponse> call(const pb::StatRequest& request);
  Expected<pb::PinResponse> call(const pb::PinRequest& request);
  Expected<pb::UnpinResponse> call(const pb::UnpinRequest& request);
  Expected<pb::DeleteResponse> call(const pb::DeleteRequest& request);
  Expected<pb::ClearResponse> call(const pb::ClearRequest& request);
  Expected<pb::PrefetchResponse> call(const pb::PrefetchRequest& request);
  Expected<pb::StatsResponse> call(const pb::StatsRequest& request);
  Expected<pb::DrainResponse> call(const pb::DrainRequest& request);
  Expected<pb::ListModelsResponse> call(const pb::ListModelsRequest& request);
  Expected<pb::SetVerdictResponse> call(const pb::SetVerdictRequest& request);
  Expected<pb::HintResponse> call(const pb::HintRequest& request);
  Expected<pb::ListTenantsResponse> call(const pb::ListTenantsRequest& request);
  Expected<pb::SetQuotaResponse> call(const pb::SetQuotaRequest& request);
  Expected<pb::CheckpointResponse> call(const pb::CheckpointRequest& request);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_CONTROL_CLIENT_H_
