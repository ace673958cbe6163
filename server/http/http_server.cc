#include "server/http/http_server.h"

#include <httplib.h>
#include <sys/socket.h>

#include <chrono>
#include <thread>

#include "server/http/bounded_task_queue.h"
#include "server/http/listen_address.h"
#include "server/http/metrics.h"
#include "server/http/status_page.h"

namespace quire::server {
namespace {

constexpr auto kStartWaitMax = std::chrono::seconds(5);
constexpr auto kStartWaitStep = std::chrono::milliseconds(1);
constexpr size_t kBodyBytesMax = 4096;  // of a request; no endpoint reads one
constexpr int kOk = 200;
constexpr int kForbidden = 403;
constexpr int kUnavailable = 503;

class HttpTasks final : public httplib::TaskQueue {
 public:
  HttpTasks() : queue_(kHttpThreads, kHttpQueueMax) {}
  void enqueue(std::function<void()> task) override { queue_.enqueue(std::move(task)); }
  void shutdown() override { queue_.shutdown(); }

 private:
  BoundedTaskQueue queue_;
};

// Refuses names that merely resolve to this machine: a web page elsewhere must not read the
// endpoints through a visitor's browser.
bool host_is_local(const httplib::Request& request) {
  std::string host = request.get_header_value("Host");
  if (host.empty()) return true;
  if (auto with_port = parse_listen_address(host)) return with_port->loopback;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  return is_loopback_host(host);
}

void reply(httplib::Response& response, int status, const std::string& body, const char* type) {
  response.status = status;
  response.set_content(body, type);
}

constexpr char kText[] = "text/plain; charset=utf-8";
constexpr char kMetricsType[] = "text/plain; version=0.0.4; charset=utf-8";
constexpr char kHtml[] = "text/html; charset=utf-8";

}  // namespace

struct HttpServer::State {
  explicit State(AdminApi& admin_api) : admin(admin_api) {}

  void configure();
  // Answers with what render makes of the statistics, or 503 where there are none.
  template <typename Render>
  void with_stats(httplib::Response& response, Render&& render) {
    const auto stats = admin.stats(kHttpAdminDeadlineMs);
    if (stats.is_ok())
      render(*stats);
    else
      reply(response, kUnavailable, "store: " + stats.status().to_string() + "\n", kText);
  }

  AdminApi& admin;
  httplib::Server server;
  std::thread thread;
  int port = 0;
  bool stopped = false;
};

void HttpServer::State::configure() {
  server.new_task_queue = [] { return new HttpTasks; };  // httplib owns and deletes it
  // The library's default sets SO_REUSEPORT: a second server would share the port unnoticed.
  server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
  server.set_keep_alive_max_count(1);  // idle connections must not occupy the few threads
  server.set_read_timeout(kHttpReadTimeoutSeconds);
  server.set_write_timeout(kHttpWriteTimeoutSeconds);
  server.set_payload_max_length(kBodyBytesMax);
  server.set_default_headers(
      {{"Cache-Control", "no-store"},
       {"X-Content-Type-Options", "nosniff"},
       {"Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"}});
  server.set_pre_routing_handler([](const httplib::Request& request, httplib::Response& response) {
    if (host_is_local(request)) return httplib::Server::HandlerResponse::Unhandled;
    reply(response, kForbidden, "reach this server as localhost or 127.0.0.1\n", kText);
    return httplib::Server::HandlerResponse::Handled;
  });
  server.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
    with_stats(response, [&](const ServerStats& stats) {
      const auto tenants = admin.tenants(kHttpAdminDeadlineMs);
      reply(response, kOk, render_metrics(stats, tenants ? *tenants : std::vector<TenantInfo>{}),
            kMetricsType);
    });
  });
  server.Get("/healthz", [this](const httplib::Request&, httplib::Response& response) {
    with_stats(response, [&](const ServerStats& stats) {
      reply(response, stats.draining ? kUnavailable : kOk, stats.draining ? "draining\n" : "ok\n",
            kText);
    });
  });
  server.Get("/", [this](const httplib::Request&, httplib::Response& response) {
    with_stats(response, [&](const ServerStats& stats) {
      reply(response, kOk, render_status_page(stats), kHtml);
    });
  });
}

HttpServer::HttpServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

HttpServer::~HttpServer() {
  stop();
}

Expected<std::unique_ptr<HttpServer>> HttpServer::start(AdminApi& admin,
                                                        const std::string& address_text) {
  QUIRE_ASSIGN_OR_RETURN(const ListenAddress address, parse_listen_address(address_text));
  if (!address.loopback)
    return Status(StatusCode::kPermissionDenied,
                  "http address " + address.to_string() +
                      " is reachable from other machines; only loopback is served: use 127.0.0.1 "
                      "and a proxy of your own in front");
  auto state = std::make_unique<State>(admin);
  state->configure();
  if (address.port == 0)
    state->port = state->server.bind_to_any_port(address.host);
  else
    state->port = state->server.bind_to_port(address.host, address.port) ? address.port : -1;
  if (state->port <= 0)
    return Status(StatusCode::kUnavailable,
                  "cannot listen on " + address.to_string() + ": the port is taken");
  state->thread = std::thread([&server = state->server] { server.listen_after_bind(); });
  // httplib's stop() does nothing before its loop runs, and a later loop would never end.
  const auto give_up = std::chrono::steady_clock::now() + kStartWaitMax;
  while (!state->server.is_running() && std::chrono::steady_clock::now() < give_up)
    std::this_thread::sleep_for(kStartWaitStep);
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(state)));
}

int HttpServer::port() const {
  return state_->port;
}

void HttpServer::stop() {
  if (std::exchange(state_->stopped, true)) return;
  state_->server.stop();
  state_->thread.join();
}

}  // namespace quire::server
