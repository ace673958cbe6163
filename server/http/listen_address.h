// "host:port" of the listening sockets that people configure: the control API and the HTTP
// endpoints.
#ifndef QUIRE_SERVER_HTTP_LISTEN_ADDRESS_H_
#define QUIRE_SERVER_HTTP_LISTEN_ADDRESS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace quire::server {

struct ListenAddress {
  std::string host;   // without the brackets of an IPv6 address
  uint16_t port = 0;  // 0 = any free port
  bool loopback = false;

  // "127.0.0.1:7766", "[::1]:7766".
  std::string to_string() const;
};

// Accepts "127.0.0.1:7766", "localhost:0", "[::1]:7766"; kInvalidArgument says what is wrong. Names
// other than localhost are not looked up and count as remote.
Expected<ListenAddress> parse_listen_address(std::string_view text);

// True for localhost, 127.0.0.0/8 and ::1. Names are not looked up.
bool is_loopback_host(std::string_view host);

}  // namespace quire::server

#endif  // QUIRE_SERVER_HTTP_LISTEN_ADDRESS_H_
