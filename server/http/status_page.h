// The status page: one HTML document without scripts, images or links to elsewhere.
#ifndef QUIRE_SERVER_HTTP_STATUS_PAGE_H_
#define QUIRE_SERVER_HTTP_STATUS_PAGE_H_

#include <string>

#include "server/admin.h"

namespace quire::server {

// Everything that comes from outside is escaped.
std::string render_status_page(const ServerStats& stats);

}  // namespace quire::server

#endif  // QUIRE_SERVER_HTTP_STATUS_PAGE_H_
