// Session, finding, leases and storing in C.
#include "client/capi/arguments.h"
#include "client/capi/errors.h"
#include "client/capi/handles.h"
#include "client/capi/matches.h"

namespace quire::capi {

Expected<wire::AckLevel> to_ack(uint32_t ack) {
  if (ack > QUIRE_ACK_DURABLE)
    return Status(StatusCode::kInvalidArgument, "unknown acknowledgement level");
  return static_cast<wire::AckLevel>(ack);
}

namespace {

Expected<ClientOptions> to_options(const quire_connect_options* source) {
  ClientOptions options;
  if (source == nullptr) return options;
  quire_connect_options known{};
  QUIRE_RETURN_IF_ERROR(read_struct(source, known));
  if (known.timeout_ms != 0) options.timeout_ms = known.timeout_ms;
  if (known.socket_path != nullptr) options.socket_path = known.socket_path;
  if (known.client_name != nullptr) options.client_name = known.client_name;
  if (known.tenant != nullptr) options.tenant = known.tenant;
  options.staging_bytes = known.staging_bytes;
  if (known.scope != nullptr) options.scope = known.scope;
  return options;
}

std::unique_ptr<quire_lease> new_lease(const quire_client* client, Lease lease) {
  auto handle = std::make_unique<quire_lease>();
  handle->session = client->session;
  handle->bytes = lease.bytes();
  handle->lease = std::move(lease);
  return handle;
}

}  // namespace
}  // namespace quire::capi

using quire::Status;
using quire::StatusCode;
using quire::capi::guarded;
using quire::capi::null_argument;
using quire::capi::to_digest;
using quire::capi::to_id;

quire_status quire_connect(const quire_connect_options* options, quire_client** client) {
  return guarded([&]() -> Status {
    if (client == nullptr) return null_argument("client");
    *client = nullptr;
    QUIRE_ASSIGN_OR_RETURN(const auto known, quire::capi::to_options(options));
    QUIRE_ASSIGN_OR_RETURN(auto session, quire::Client::connect(known));
    *client = new quire_client{std::move(session)};
    return Status::ok();
  });
}

void quire_close(quire_client* client) {
  delete client;
}

quire_status quire_ping(quire_client* client) {
  return guarded([&]() -> Status {
    if (client == nullptr) return null_argument("client");
    return client->session->ping();
  });
}

quire_status quire_client_get_info(quire_client* client, quire_client_info* info) {
  return guarded([&]() -> Status {
    if (client == nullptr) return null_argument("client");
    if (info == nullptr) return null_argument("info");
    quire_client_info known{};
    known.server_epoch = client->session->server_epoch();
    known.object_bytes_max = client->session->object_bytes_max();
    const quire::TenantSalt& salt = client->session->tenant_salt();
    known.salt_bytes = static_cast<uint32_t>(salt.size());
    static_assert(sizeof(known.salt) == quire::wire::kSaltBytesMax);
    if (!salt.empty()) std::memcpy(known.salt, salt.data(), salt.size());
    return quire::capi::write_struct(known, info);
  });
}

quire_status quire_register_model(quire_client* client, const char* name, const void* descriptor,
                                  size_t descriptor_bytes, quire_id* model) {
  return guarded([&]() -> Status {
    if (model == nullptr) return null_argument("model");
    *model = {};
    if (client == nullptr) return null_argument("client");
    if (name == nullptr) return null_argument("name");
    QUIRE_ASSIGN_OR_RETURN(const auto parsed, quire::capi::to_model(descriptor, descriptor_bytes));
    QUIRE_ASSIGN_OR_RETURN(const auto id, client->session->register_model(name, parsed));
    *model = to_id(id);
    return Status::ok();
  });
}

quire_status quire_resolve(quire_client* client, const quire_id* model, const uint32_t* tokens,
                           size_t n_tokens, uint32_t flags, float recompute_us_per_token,
                           quire_match** matches, size_t* n_matches) {
  return guarded([&]() -> Status {
    if (matches == nullptr) return null_argument("matches");
    if (n_matches == nullptr) return null_argument("n_matches");
    *matches = nullptr;
    *n_matches = 0;
    if (client == nullptr) return null_argument("client");
    if (model == nullptr) return null_argument("model");
    if (tokens == nullptr) return null_argument("tokens");
    constexpr uint32_t kBoth = QUIRE_RESOLVE_PREFIX | QUIRE_RESOLVE_CHUNKS;
    if ((flags & ~(kBoth | QUIRE_RESOLVE_STATISTICS)) != 0)
      return {StatusCode::kInvalidArgument, "unknown resolve flags"};
    quire::ResolveOptions options;
    options.statistics = (flags & QUIRE_RESOLVE_STATISTICS) != 0;
    if ((flags & kBoth) == 0) flags = 0;
    options.prefix = flags == 0 || (flags & QUIRE_RESOLVE_PREFIX) != 0;
    options.chunks = flags == 0 || (flags & QUIRE_RESOLVE_CHUNKS) != 0;
    options.recompute_us_per_token = recompute_us_per_token;
    QUIRE_ASSIGN_OR_RETURN(
        const auto found,
        client->session->resolve(to_digest(*model), std::span(tokens, n_tokens), options));
    *matches = quire::capi::new_array<quire_match>(found.size());
    *n_matches = found.size();
    for (size_t i = 0; i < found.size(); ++i) (*matches)[i] = quire::capi::to_c_match(found[i]);
    return Status::ok();
  });
}

quire_status quire_acquire(quire_client* client, const quire_id* representation,
                           quire_lease** lease, const void** data, uint64_t* bytes) {
  return guarded([&]() -> Status {
    if (lease == nullptr) return null_argument("lease");
    *lease = nullptr;
    if (data != nullptr) *data = nullptr;
    if (bytes != nullptr) *bytes = 0;
    if (client == nullptr) return null_argument("client");
    if (representation == nullptr) return null_argument("representation");
    QUIRE_ASSIGN_OR_RETURN(auto taken, client->session->acquire(to_digest(*representation)));
    *lease = quire::capi::new_lease(client, std::move(taken)).release();
    if (data != nullptr) *data = (*lease)->bytes.data();
    if (bytes != nullptr) *bytes = (*lease)->bytes.size();
    return Status::ok();
  });
}

quire_status quire_acquire_many(quire_client* client, const quire_id* representations,
                                size_t n_representations, quire_lease** leases,
                                quire_status* statuses) {
  return guarded([&]() -> Status {
    if (n_representations == 0) return Status::ok();
    if (n_representations > quire::capi::kAcquireManyMax)
      return {StatusCode::kResourceExhausted, "at most 1,000,000 ids"};
    if (leases == nullptr) return null_argument("leases");
    if (statuses == nullptr) return null_argument("statuses");
    std::fill_n(leases, n_representations, nullptr);
    std::fill_n(statuses, n_representations, quire_status{QUIRE_UNAVAILABLE});
    if (client == nullptr) return null_argument("client");
    if (representations == nullptr) return null_argument("representations");
    std::vector<quire::Digest> ids(n_representations);
    std::transform(representations, representations + n_representations, ids.begin(), to_digest);
    QUIRE_ASSIGN_OR_RETURN(auto taken, client->session->acquire(ids));
    std::vector<std::unique_ptr<quire_lease>> handles(n_representations);
    for (size_t i = 0; i < taken.size(); ++i)
      if (taken[i].is_ok()) handles[i] = quire::capi::new_lease(client, std::move(*taken[i]));
    for (size_t i = 0; i < taken.size(); ++i) {
      statuses[i] = static_cast<quire_status>(taken[i].status().code());
      leases[i] = handles[i].release();
    }
    return Status::ok();
  });
}

const void* quire_lease_data(const quire_lease* lease) {
  return lease == nullptr ? nullptr : lease->bytes.data();
}

uint64_t quire_lease_bytes(const quire_lease* lease) {
  return lease == nullptr ? 0 : lease->bytes.size();
}

quire_status quire_lease_check(const quire_lease* lease) {
  return guarded([&]() -> Status {
    if (lease == nullptr) return null_argument("lease");
    return lease->lease.check();
  });
}

quire_status quire_lease_renew(quire_lease* lease, uint32_t lease_ms) {
  return guarded([&]() -> Status {
    if (lease == nullptr) return null_argument("lease");
    return lease->lease.renew(lease_ms);
  });
}

void quire_lease_release(quire_lease* lease) {
  if (lease == nullptr) return;
  (void)guarded([&] {
    lease->lease.release();
    return Status::ok();
  });
}

void quire_lease_free(quire_lease* lease) {
  quire_lease_release(lease);
  delete lease;
}

quire_status quire_reserve(quire_client* client, const quire_id* representation, uint64_t bytes,
                           quire_window** window, void** data) {
  return guarded([&]() -> Status {
    if (window == nullptr) return null_argument("window");
    if (data == nullptr) return null_argument("data");
    *window = nullptr;
    *data = nullptr;
    if (client == nullptr) return null_argument("client");
    if (representation == nullptr) return null_argument("representation");
    QUIRE_ASSIGN_OR_RETURN(auto reserved,
                           client->session->reserve(to_digest(*representation), bytes));
    auto handle = std::make_unique<quire_window>();
    handle->session = client->session;
    *data = reserved.bytes().data();
    handle->window = std::move(reserved);
    *window = handle.release();
    return Status::ok();
  });
}

quire_status quire_window_commit(quire_window* window, uint32_t ack, uint32_t pin_ms) {
  return guarded([&]() -> Status {
    if (window == nullptr) return null_argument("window");
    QUIRE_ASSIGN_OR_RETURN(const auto level, quire::capi::to_ack(ack));
    return window->window.commit(level, pin_ms);
  });
}

void quire_window_abort(quire_window* window) {
  if (window == nullptr) return;
  (void)guarded([&] {
    window->window.abort();
    return Status::ok();
  });
}

void quire_window_free(quire_window* window) {
  quire_window_abort(window);
  delete window;
}

quire_status quire_put(quire_client* client, const quire_id* representation, const void* data,
                       uint64_t bytes, uint32_t ack) {
  return guarded([&]() -> Status {
    if (client == nullptr) return null_argument("client");
    if (representation == nullptr) return null_argument("representation");
    if (data == nullptr) return null_argument("data");
    QUIRE_ASSIGN_OR_RETURN(const auto level, quire::capi::to_ack(ack));
    return client->session->put(to_digest(*representation),
                                {static_cast<const std::byte*>(data), bytes}, level);
  });
}
