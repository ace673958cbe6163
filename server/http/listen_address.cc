#include "server/http/listen_address.h"

#include <arpa/inet.h>

#include <charconv>

namespace quire::server {
namespace {

constexpr size_t kHostBytesMax = 253;  // of a DNS name

Status bad(std::string_view text, const std::string& what) {
  return {StatusCode::kInvalidArgument,
          "listen address \"" + std::string(text) + "\": " + what + "; write it as 127.0.0.1:7766"};
}

}  // namespace

bool is_loopback_host(std::string_view host) {
  if (host == "localhost") return true;
  const std::string text(host);
  in_addr v4{};
  if (inet_pton(AF_INET, text.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, text.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

std::string ListenAddress::to_string() const {
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Expected<ListenAddress> parse_listen_address(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad(text, "the port is missing");
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  else if (host.find(':') != std::string_view::npos)
    return bad(text, "an IPv6 address needs brackets, as in [::1]:7766");
  if (host.empty()) return bad(text, "the host is missing");
  if (host.size() > kHostBytesMax)
    return bad(text.substr(0, kHostBytesMax), "the host is too long");
  ListenAddress address;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (port.empty() || error != std::errc{} || end != port.data() + port.size())
    return bad(text, "the port must be a number from 0 to 65535");
  address.host = host;
  address.loopback = is_loopback_host(host);
  return address;
}

}  // namespace quire::server
