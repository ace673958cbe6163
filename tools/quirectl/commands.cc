#include "tools/quirectl/commands.h"

#include <unistd.h>

#include <algorithm>
#include <iostream>

#include "base/clock.h"
#include "tools/quirectl/command_support.h"
#include "tools/quirectl/format.h"
#include "tools/quirectl/output.h"
#include "tools/quirectl/resolve.h"

namespace quire::ctl {

ControlClient connect(const GlobalOptions& global, uint64_t default_timeout_ms) {
  return {global.server, global.timeout_ms.value_or(default_timeout_ms)};
}

void print(const Json& json) {
  constexpr int kJsonIndent = 2;
  std::cout << json.dump(kJsonIndent, ' ', false, Json::error_handler_t::replace) << "\n";
}

Expected<std::vector<std::string>> resolve_objects(ControlClient& client,
                                                   const std::vector<std::string>& texts) {
  std::vector<std::string> ids;
  for (const std::string& text : texts) {
    QUIRE_ASSIGN_OR_RETURN(std::string id, resolve_object(client, text));
    ids.push_back(std::move(id));
  }
  return ids;
}

namespace {

constexpr uint32_t kPageObjects = 500;

Status with_id(const Status& status, const std::string& id) {
  return {status.code(), to_hex(id) + ": " + status.message(), status.retry_after_ms()};
}

// Sends one request for each id and reports them; stops at the first error.
template <typename Request>
Status for_each_id(const GlobalOptions& global, const std::vector<std::string>& texts,
                   const char* done, Request request) {
  ControlClient client = connect(global);
  QUIRE_ASSIGN_OR_RETURN(const std::vector<std::string> ids, resolve_objects(client, texts));
  Json done_ids = Json::array();
  Status failure;
  for (const std::string& id : ids) {
    request.set_representation(id);
    if (const auto response = client.call(request); !response) {
      failure = with_id(response.status(), id);
      break;
    }
    done_ids.push_back(to_hex(id));
    if (!global.json) std::cout << done << " " << to_hex(id) << "\n";
  }
  if (global.json) {
    Json json;
    json[done] = std::move(done_ids);
    print(json);
  }
  return failure;
}

std::string describe(const FilterOptions& filter, bool all) {
  if (all) return "every stored object";
  std::string text = "every object";
  if (!filter.model.empty()) text += " of model " + filter.model;
  if (filter.tenant) text += " of tenant \"" + *filter.tenant + "\"";
  if (filter.scope)
    text += filter.scope->empty() ? " in no scope" : " in scope \"" + *filter.scope + "\"";
  if (!filter.tier.empty()) text += " that tier " + filter.tier + " holds";
  return text;
}

Status confirm(const std::string& what) {
  if (isatty(STDIN_FILENO) == 0)
    return {StatusCode::kInvalidArgument,
            "this removes " + what + ": give --yes where nobody can be asked"};
  std::cerr << "This removes " << what << " (not what is pinned or in use). Go on? [y/N] "
            << std::flush;
  std::string answer;
  std::getline(std::cin, answer);
  if (answer == "y" || answer == "Y" || answer == "yes") return Status::ok();
  return {StatusCode::kCancelled, "nothing was removed"};
}

std::string prefetch_late(uint64_t ready, uint64_t open) {
  return "the --deadline passed: " + std::to_string(ready) + " are ready, " + std::to_string(open) +
         " may still arrive";
}

}  // namespace

int exit_code_of(const Status& status) {
  switch (status.code()) {
    case StatusCode::kOk:
      return kExitOk;
    case StatusCode::kInvalidArgument:
      return kExitUsage;
    case StatusCode::kNotFound:
      return kExitNotFound;
    case StatusCode::kUnavailable:
    case StatusCode::kDeadlineExceeded:
      return kExitUnavailable;
    default:
      return kExitError;
  }
}

Expected<int> run_status(const GlobalOptions& global, bool check) {
  ControlClient client = connect(global);
  QUIRE_ASSIGN_OR_RETURN(const pb::StatsResponse stats, client.call(pb::StatsRequest()));
  if (global.json)
    print(to_json(stats));
  else
    std::cout << stats_text(stats, colour_wanted());
  return check && !degraded_reasons(stats).empty() ? kExitDegraded : kExitOk;
}

Status run_ls(const GlobalOptions& global, const FilterOptions& options, uint64_t limit) {
  ControlClient client = connect(global);
  QUIRE_ASSIGN_OR_RETURN(pb::ObjectFilter filter, resolve_filter(client, options));
  pb::ListRequest request;
  *request.mutable_filter() = std::move(filter);
  std::vector<pb::Object> objects;
  bool more = false;
  do {
    const uint64_t wanted = limit == 0 ? kPageObjects : limit - objects.size();
    request.set_limit(static_cast<uint32_t>(std::min<uint64_t>(wanted, kPageObjects)));
    QUIRE_ASSIGN_OR_RETURN(const pb::ListResponse page, client.call(request));
    objects.insert(objects.end(), page.objects().begin(), page.objects().end());
    more = !page.next_page_token().empty();
    if (more) QUIRE_RETURN_IF_ERROR(go_on(request, page));
  } while (more && (limit == 0 || objects.size() < limit));
  if (global.json) {
    Json list = Json::array();
    for (const pb::Object& object : objects) list.push_back(to_json(object));
    print(Json::object({{"objects", std::move(list)}, {"more", more}}));
    return Status::ok();
  }
  std::cout << objects_table(objects, system_clock().wall_ms());
  if (more) std::cerr << "quirectl: there are more; give --limit (0 lists all)\n";
  return Status::ok();
}

Status run_stat(const GlobalOptions& global, const std::string& text) {
  ControlClient client = connect(global);
  QUIRE_ASSIGN_OR_RETURN(const std::string id, resolve_object(client, text));
  pb::StatRequest request;
  request.set_representation(id);
  const auto response = client.call(request);
  if (!response) return with_id(response.status(), id);
  if (global.json)
    print(to_json(response->object()));
  else
    std::cout << object_details(response->object(), system_clock().wall_ms());
  return Status::ok();
}

Status run_pin(const GlobalOptions& global, const std::vector<std::string>& ids, uint64_t ttl_ms) {
  pb::PinRequest request;
  request.set_ttl_ms(ttl_ms);
  return for_each_id(global, ids, "pinned", request);
}

Status run_unpin(const GlobalOptions& global, const std::vector<std::string>& ids) {
  return for_each_id(global, ids, "unpinned", pb::UnpinRequest());
}

Status run_rm(const GlobalOptions& global, const std::vector<std::string>& ids, bool force) {
  pb::DeleteRequest request;
  request.set_force(force);
  return for_each_id(global, ids, "removed", request);
}

Status run_clear(const GlobalOptions& global, const FilterOptions& options, bool all, bool yes) {
  const bool empty =
      options.model.empty() && options.tier.empty() && !options.tenant && !options.scope;
  if (all != empty)
    return {StatusCode::kInvalidArgument,
            all ? "give --all or a filter, not both"
                : "say what to remove: --model, --tier, --tenant, --scope, or --all"};
  ControlClient client = connect(global, kLongTimeoutMs);
  QUIRE_ASSIGN_OR_RETURN(pb::ObjectFilter filter, resolve_filter(client, options));
  if (!yes) QUIRE_RETURN_IF_ERROR(confirm(describe(options, all)));
  pb::ClearRequest request;
  *request.mutable_filter() = std::move(filter);
  request.set_all(all);
  QUIRE_ASSIGN_OR_RETURN(const pb::ClearResponse response, client.call(request));
  if (global.json)
    print(Json::object({{"removed", response.removed()}}));
  else
    std::cout << "removed " << response.removed() << " objects\n";
  return Status::ok();
}

Status run_prefetch(const GlobalOptions& global, const std::vector<std::string>& texts,
                    uint64_t deadline_ms) {
  ControlClient client = connect(global, kLongTimeoutMs);
  QUIRE_ASSIGN_OR_RETURN(const std::vector<std::string> ids, resolve_objects(client, texts));
  uint64_t ready = 0;
  uint64_t missing = 0;
  uint64_t failed = 0;
  const uint64_t begin_ns = system_clock().now_ns();
  for (size_t begin = 0; begin < ids.size(); begin += kBatchIds) {
    pb::PrefetchRequest request;
    for (size_t i = begin; i < std::min(ids.size(), begin + kBatchIds); ++i)
      request.add_representations(ids[i]);
    if (deadline_ms != 0) {
      const uint64_t spent_ms = (system_clock().now_ns() - begin_ns) / 1'000'000;
      if (spent_ms >= deadline_ms)
        return {StatusCode::kDeadlineExceeded, prefetch_late(ready, ids.size() - begin)};
      request.set_deadline_ms(static_cast<uint32_t>(deadline_ms - spent_ms));
    }
    const auto response = client.call(request);
    if (!response && response.status().code() == StatusCode::kDeadlineExceeded && deadline_ms != 0)
      return {StatusCode::kDeadlineExceeded, prefetch_late(ready, ids.size() - begin)};
    if (!response) return response.status();
    ready += response->ready();
    missing += response->missing();
    failed += response->failed();
  }
  if (global.json)
    print(Json::object({{"ready", ready}, {"missing", missing}, {"failed", failed}}));
  else
    std::cout << ready << " ready, " << missing << " missing, " << failed << " failed\n";
  if (failed != 0) return {StatusCode::kIoError, std::to_string(failed) + " could not be brought"};
  if (missing != 0) return {StatusCode::kNotFound, std::to_string(missing) + " are not stored"};
  return Status::ok();
}

Status run_drain(const GlobalOptions& global, bool exit_after) {
  ControlClient client = connect(global, kLongTimeoutMs);
  pb::DrainRequest request;
  request.set_exit_after(exit_after);
  QUIRE_ASSIGN_OR_RETURN(const pb::DrainResponse response, client.call(request));
  (void)response;
  if (global.json)
    print(Json::object({{"drained", true}, {"exiting", exit_after}}));
  else
    std::cout << "drained: everything is durable"
              << (exit_after ? ", the server is ending\n" : ", new puts are refused\n");
  return Status::ok();
}

Status run_models(const GlobalOptions& global) {
  ControlClient client = connect(global);
  QUIRE_ASSIGN_OR_RETURN(const pb::ListModelsResponse models, client.call(pb::ListModelsRequest()));
  if (!global.json) {
    std::cout << models_table(models, system_clock().wall_ms());
    return Status::ok();
  }
  Json list = Json::array();
  for (const pb::Model& model : models.models()) list.push_back(to_json(model));
  print(Json::object({{"models", std::move(list)}}));
  return Status::ok();
}

Status run_lookup(const GlobalOptions& global, const std::string& model_text,
                  const std::string& tokens_path, const std::string& tenant,
                  const std::string& scope) {
  QUIRE_ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens, read_tokens(tokens_path));
  ControlClient client = connect(global);
  QUIRE_ASSIGN_OR_RETURN(const std::string model, resolve_model(client, model_text));
  pb::LookupRequest request;
  request.set_model(model);
  request.set_tenant(tenant);
  request.set_scope(scope);
  request.mutable_tokens()->Add(tokens.begin(), tokens.end());
  QUIRE_ASSIGN_OR_RETURN(const pb::LookupResponse response, client.call(request));
  if (!global.json) {
    std::cout << lookup_table(response, tokens.size());
    return Status::ok();
  }
  Json json = to_json(response);
  json["tokens"] = tokens.size();
  print(json);
  return Status::ok();
}

}  // namespace quire::ctl
