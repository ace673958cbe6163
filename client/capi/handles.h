// What the opaque handles of the C ABI hold. Leases and windows share the client: its mappings stay
// until the last handle is freed.
#ifndef QUIRE_CLIENT_CAPI_HANDLES_H_
#define QUIRE_CLIENT_CAPI_HANDLES_H_

#include <memory>

#include "client/client.h"

struct quire_client {
  std::shared_ptr<quire::Client> session;
};

struct quire_lease {
  std::shared_ptr<quire::Client> session;  // before lease: destroyed after it
  quire::Lease lease;
  quire::ByteSpan bytes;  // mapped also after the lease was released
};

struct quire_window {
  std::shared_ptr<quire::Client> session;
  quire::PutWindow window;
};

#endif  // QUIRE_CLIENT_CAPI_HANDLES_H_
