// The HTTP endpoints fetched over loopback, with a fake store behind them.
#include "server/http/http_server.h"

#include <gtest/gtest.h>
#include <httplib.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

#include "server/http/bounded_task_queue.h"
#include "server/http/listen_address.h"
#include "server/http/metrics.h"
#include "server/http/status_page.h"
#include "tests/server/control/fake_admin.h"

namespace quire::server {
namespace {

ServerStats sample_stats() {
  ServerStats stats;
  stats.version = "1.2.3";
  stats.data_directory = "/data/<b>&\"quire\"";
  stats.uptime_ms = 1500;
  stats.objects = 7;
  stats.leases = 3;
  stats.resolves = 20;
  stats.acquires = 21;
  stats.misses = 22;
  stats.puts = 23;
  stats.refused_puts = 24;
  TierStats host;
  host.tier = wire::TierId::kHost;
  host.state = "ok";
  host.backend = "memfd 4 KiB pages";
  host.capacity_bytes = 1ull << 33;
  host.used_bytes = 123456789;
  host.evictions = 5;
  TierStats nvme;
  nvme.tier = wire::TierId::kNvme;
  nvme.state = "quarantined: 12 read errors";
  nvme.backend = "io_uring";
  nvme.corruptions = 12;
  nvme.read_bytes_per_us = 2500;
  nvme.latency_us = 80;
  nvme.written_bytes = 1000;
  nvme.device_written_bytes = 1250;
  nvme.reinserted_bytes = 40;
  nvme.over_write_budget = true;
  nvme.scrubbed_bytes = 5000;
  nvme.scrub_rounds = 2;
  nvme.scrub_corruptions = 1;
  stats.tiers = {host, nvme};
  stats.degraded = {"nvme: quarantined after 12 read errors <in a minute>"};
  stats.index_bytes = 160;
  stats.details_cache_bytes = 161;
  stats.quota_evictions = 162;
  stats.corruptions = 163;
  return stats;
}

std::vector<TenantInfo> sample_tenants() {
  return {{"", 0, 0, 5, 4, 3, 0}, {"acme \"inc\"", 10, 20, 15, 14, 13, 12}};
}

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    admin_.server_stats = sample_stats();
    admin_.tenant_infos = sample_tenants();
    auto started = HttpServer::start(admin_, "127.0.0.1:0");
    ASSERT_TRUE(started.is_ok()) << started.status().to_string();
    server_ = std::move(started).value();
  }

  httplib::Result get(const std::string& path, httplib::Headers headers = {}) {
    httplib::Client client("127.0.0.1", server_->port());
    return client.Get(path, headers);
  }

  FakeAdmin admin_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, MetricsAreInPrometheusText) {
  const auto result = get("/metrics");
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 200);
  EXPECT_TRUE(result->get_header_value("Content-Type").starts_with("text/plain; version=0.0.4"));
  for (const char* line : {"# TYPE quire_build_info gauge",
                           "quire_build_info{version=\"1.2.3\"} 1",
                           "quire_uptime_seconds 1.5",
                           "quire_objects 7",
                           "quire_leases_active 3",
                           "# TYPE quire_requests_total counter",
                           "quire_requests_total{op=\"resolve\"} 20",
                           "quire_requests_total{op=\"acquire\"} 21",
                           "quire_requests_total{op=\"put\"} 47",
                           "quire_failed_requests_total{op=\"acquire\",reason=\"miss\"} 22",
                           "quire_failed_requests_total{op=\"put\",reason=\"refused\"} 24",
                           "quire_tier_used_bytes{tier=\"host\"} 123456789",
                           "quire_tier_capacity_bytes{tier=\"host\"} 8589934592",
                           "quire_evictions_total{tier=\"host\"} 5",
                           "quire_corruptions_total{tier=\"nvme\"} 12",
                           "quire_tier_up{tier=\"host\"} 1",
                           "quire_tier_up{tier=\"nvme\"} 0",
                           "quire_tier_backend_info{tier=\"nvme\",backend=\"io_uring\"} 1",
                           "quire_tier_read_bytes_per_second{tier=\"nvme\"} 2500000000",
                           "quire_degraded 1",
                           "quire_index_bytes 160",
                           "quire_details_cache_bytes 161",
                           "quire_quota_evictions_total 162",
                           "quire_detected_corruptions_total 163",
                           "quire_tier_device_written_bytes_total{tier=\"nvme\"} 1250",
                           "quire_tier_reinserted_bytes_total{tier=\"nvme\"} 40",
                           "quire_tier_over_write_budget{tier=\"nvme\"} 1",
                           "quire_tier_over_write_budget{tier=\"host\"} 0",
                           "quire_tier_scrubbed_bytes_total{tier=\"nvme\"} 5000",
                           "quire_tier_scrub_rounds_total{tier=\"nvme\"} 2",
                           "quire_tier_scrub_corruptions_total{tier=\"nvme\"} 1",
                           "quire_tenant_bytes{tenant=\"\"} 5",
                           "quire_tenant_bytes{tenant=\"acme \\\"inc\\\"\"} 15",
                           "quire_tenant_host_bytes{tenant=\"\"} 4",
                           "quire_tenant_objects{tenant=\"\"} 3",
                           "quire_tenant_soft_limit_bytes{tenant=\"acme \\\"inc\\\"\"} 10",
                           "quire_tenant_hard_limit_bytes{tenant=\"acme \\\"inc\\\"\"} 20",
                           "quire_tenant_refused_puts_total{tenant=\"acme \\\"inc\\\"\"} 12"})
    EXPECT_NE(("\n" + result->body).find("\n" + std::string(line) + "\n"), std::string::npos)
        << line << "\nin\n"
        << result->body;
}

TEST_F(HttpServerTest, HealthzTellsDrainingAndDeadStores) {
  auto result = get("/healthz");
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 200);
  EXPECT_EQ(result->body, "ok\n");
  ASSERT_TRUE(admin_.drain(false, 1000).is_ok());
  result = get("/healthz");
  EXPECT_EQ(result->status, 503);
  EXPECT_EQ(result->body, "draining\n");
  admin_.fail_with({StatusCode::kInternal, "stuck"});
  for (const char* path : {"/healthz", "/metrics", "/"}) {
    result = get(path);
    EXPECT_EQ(result->status, 503);
    EXPECT_EQ(result->body, "store: INTERNAL: stuck\n");
  }
}

TEST_F(HttpServerTest, AStoreThatHangsIsReportedInTime) {
  admin_.close_gate();
  const auto result = get("/healthz");
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 503);
  EXPECT_EQ(admin_.last_deadline_ms(), kHttpAdminDeadlineMs);
  admin_.open_gate();
}

TEST_F(HttpServerTest, StatusPageShowsAndEscapes) {
  const auto result = get("/");
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 200);
  EXPECT_NE(result->body.find("/data/&lt;b&gt;&amp;&quot;quire&quot;"), std::string::npos);
  EXPECT_EQ(result->body.find("<b>"), std::string::npos);
  EXPECT_NE(result->body.find("quarantined: 12 read errors"), std::string::npos);
  EXPECT_NE(result->body.find("117.7"), std::string::npos);  // MiB used
  const size_t degraded = result->body.find("12 read errors &lt;in a minute&gt;");
  EXPECT_LT(degraded, result->body.find("<h2>Tiers"));               // first of all
  EXPECT_NE(result->body.find("<td>1.25</td>"), std::string::npos);  // write amplification
  for (const char* from_elsewhere : {"http:", "https:", "<script", "<img", "src="})
    EXPECT_EQ(result->body.find(from_elsewhere), std::string::npos) << from_elsewhere;
}

TEST(StatusPage, ATierBeingOpenedIsNotMarkedAsBad) {
  const auto class_of = [](const std::string& state) {
    ServerStats stats;
    TierStats gpu;
    gpu.tier = wire::TierId::kGpu;
    gpu.state = state;
    stats.tiers = {gpu};
    const std::string page = render_status_page(stats);
    const size_t end = page.find("\">" + state + "</span>");
    const size_t begin = page.rfind("<span class=\"", end) + std::strlen("<span class=\"");
    EXPECT_NE(page.find("." + page.substr(begin, end - begin) + "{"), std::string::npos);
    return end == std::string::npos ? "" : page.substr(begin, end - begin);
  };
  EXPECT_EQ(class_of("ok"), "ok");
  EXPECT_EQ(class_of("opening"), "neutral");
  EXPECT_EQ(class_of("absent: no libcuda.so.1"), "neutral");
  EXPECT_EQ(class_of("stopped: a copy to the GPU does not end"), "bad");
  EXPECT_EQ(class_of("quarantined: 12 read errors"), "bad");
  EXPECT_EQ(class_of("read_only: no space"), "bad");
  EXPECT_EQ(class_of("opening failed"), "bad");
}

TEST_F(HttpServerTest, OtherPathsMethodsAndHostsAreRefused) {
  EXPECT_EQ(get("/etc/passwd")->status, 404);
  EXPECT_EQ(get("/../etc/passwd")->status, 404);
  httplib::Client client("127.0.0.1", server_->port());
  EXPECT_EQ(client.Post("/metrics", "x", "text/plain")->status, 404);
  EXPECT_EQ(get("/metrics", {{"Host", "evil.example:80"}})->status, 403);
  EXPECT_EQ(get("/metrics", {{"Host", "evil.example"}})->status, 403);
  for (const char* host : {"localhost", "localhost:9", "127.0.0.1", "[::1]:9", "[::1]"})
    EXPECT_EQ(get("/metrics", {{"Host", host}})->status, 200) << host;
}

TEST_F(HttpServerTest, SilentConnectionsDoNotBlockOthers) {
  // Fewer silent ones than threads: the rest of the threads must serve.
  std::vector<std::unique_ptr<httplib::Client>> idle;
  for (size_t i = 0; i + 1 < kHttpThreads; ++i) {
    idle.push_back(std::make_unique<httplib::Client>("127.0.0.1", server_->port()));
    idle.back()->set_keep_alive(true);
    ASSERT_EQ(idle.back()->Get("/healthz")->status, 200);
  }
  EXPECT_EQ(get("/healthz")->status, 200);
}

TEST_F(HttpServerTest, ManyRequestsAtOnce) {
  std::atomic<int> good = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 40; ++i)
    threads.emplace_back([&] {
      const auto result = get("/metrics");
      if (result && result->status == 200) ++good;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 40);
}

TEST_F(HttpServerTest, StopIsIdempotentAndFreesThePort) {
  const std::string address = "127.0.0.1:" + std::to_string(server_->port());
  EXPECT_EQ(HttpServer::start(admin_, address).status().code(), StatusCode::kUnavailable);
  server_->stop();
  server_->stop();
  EXPECT_TRUE(HttpServer::start(admin_, address).is_ok());
}

TEST(HttpServerStart, LoopbackOnly) {
  FakeAdmin admin;
  for (const char* remote : {"0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.org:0"})
    EXPECT_EQ(HttpServer::start(admin, remote).status().code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(HttpServer::start(admin, "nonsense").status().code(), StatusCode::kInvalidArgument);
}

TEST(Metrics, TheDocumentHoldsTheTableOfTheCode) {
  std::ifstream file(QUIRE_SOURCE_DIR "/docs/ops/metrics.md");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_NE(text.str().find(metrics_markdown()), std::string::npos)
      << "docs/ops/metrics.md must hold this table:\n"
      << metrics_markdown();
}

TEST(Metrics, TheTextHoldsExactlyTheMetricsAndLabelsOfTheTable) {
  const std::string text = render_metrics(sample_stats(), sample_tenants());
  std::istringstream table(metrics_markdown());
  std::string line;
  size_t rows = 0;
  while (std::getline(table, line)) {
    if (!line.starts_with("| `")) continue;
    ++rows;
    const std::string name = line.substr(3, line.find('`', 3) - 3);
    EXPECT_TRUE(name.starts_with("quire_"));
    const bool counter = line.find("| counter |") != std::string::npos;
    EXPECT_EQ(name.ends_with("_total"), counter) << name;
    EXPECT_NE(text.find("# TYPE " + name + (counter ? " counter\n" : " gauge\n")),
              std::string::npos);
    const size_t sample =
        text.find("\n" + name + (line.find("| - |") == std::string::npos ? "{" : " "));
    EXPECT_NE(sample, std::string::npos) << name << " has other labels than documented";
  }
  size_t families = 0;
  for (size_t at = text.find("# TYPE "); at != std::string::npos; at = text.find("# TYPE ", at + 1))
    ++families;
  EXPECT_EQ(families, rows);
}

TEST(ListenAddress, ParsesAndPrints) {
  const auto v6 = parse_listen_address("[::1]:80");
  ASSERT_TRUE(v6.is_ok());
  EXPECT_EQ(v6->host, "::1");
  EXPECT_EQ(v6->port, 80);
  EXPECT_TRUE(v6->loopback);
  EXPECT_EQ(v6->to_string(), "[::1]:80");
  EXPECT_TRUE(parse_listen_address("127.9.8.7:1")->loopback);
  EXPECT_FALSE(parse_listen_address("128.0.0.1:1")->loopback);
  EXPECT_FALSE(parse_listen_address("localhost.example.org:1")->loopback);
  EXPECT_FALSE(parse_listen_address("127.0.0.1.example.org:1")->loopback);
  EXPECT_FALSE(parse_listen_address(std::string(300, 'a') + ":1").is_ok());
}

TEST(BoundedTaskQueue, RunsEverythingAndHoldsTheProducerBack) {
  std::atomic<int> done = 0;
  std::atomic<bool> go = false;
  std::atomic<int> given = 0;
  BoundedTaskQueue queue(1, 2);
  std::thread producer([&] {
    for (int i = 0; i < 10; ++i) {
      queue.enqueue([&] {
        while (!go) std::this_thread::yield();
        ++done;
      });
      ++given;
    }
  });
  while (given < 3) std::this_thread::yield();
  // One runs and two wait: the fourth cannot have been accepted.
  EXPECT_EQ(given, 3);
  go = true;
  producer.join();
  queue.shutdown();
  EXPECT_EQ(done, 10);
  queue.enqueue([&] { ++done; });
  EXPECT_EQ(done, 11);
}

}  // namespace
}  // namespace quire::server
