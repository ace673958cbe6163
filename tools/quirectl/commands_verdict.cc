// Verdicts of models.
#include <iostream>

#include "tools/quirectl/command_support.h"
#include "tools/quirectl/format.h"
#include "tools/quirectl/output.h"
#include "tools/quirectl/resolve.h"
#include "tools/quirectl/verdict_file.h"

namespace quire::ctl {

Status run_verdict_set(const GlobalOptions& global, const std::string& model_text,
                       const std::string& path) {
  QUIRE_ASSIGN_OR_RETURN(const pb::SetVerdictRequest request, read_verdict(path));
  ControlClient client = connect(global);
  QUIRE_ASSIGN_OR_RETURN(const std::string model, resolve_model(client, model_text));
  if (model != request.model())
    return {
        StatusCode::kInvalidArgument,
        path + " is a verdict of model " + to_hex(request.model()) + ", not of " + to_hex(model)};
  QUIRE_RETURN_IF_ERROR(client.call(request).status());
  if (global.json) {
    print(Json::object({{"model", to_hex(model)}, {"verdict", to_json(request.verdict())}}));
    return Status::ok();
  }
  std::cout << "model " << to_hex(model) << ": "
            << (request.verdict().chunks() ? "chunks are reused\n"
                                           : "exact prefixes only from now on\n");
  return Status::ok();
}

Status run_verdict_clear(const GlobalOptions& global, const std::string& model_text) {
  ControlClient client = connect(global);
  QUIRE_ASSIGN_OR_RETURN(const std::string model, resolve_model(client, model_text));
  pb::SetVerdictRequest request;
  request.set_model(model);
  QUIRE_RETURN_IF_ERROR(client.call(request).status());
  if (global.json)
    print(Json::object({{"model", to_hex(model)}, {"verdict", nullptr}}));
  else
    std::cout << "model " << to_hex(model) << ": no verdict\n";
  return Status::ok();
}

}  // namespace quire::ctl
