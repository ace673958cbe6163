// The one place where Quire's status codes become gRPC's.
#ifndef QUIRE_SERVER_CONTROL_GRPC_STATUS_H_
#define QUIRE_SERVER_CONTROL_GRPC_STATUS_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include "base/status.h"

namespace quire::server {

grpc::StatusCode grpc_code(StatusCode code);

// The reply's status; where it is an error, quire's own code and the retry hint go into the
// trailing metadata (proto/control_metadata.h). Messages are cut to kMessageBytesMax and made
// printable.
grpc::Status to_grpc(grpc::ServerContext& context, const Status& status);

}  // namespace quire::server

#endif  // QUIRE_SERVER_CONTROL_GRPC_STATUS_H_
