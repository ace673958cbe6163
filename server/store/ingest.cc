#include "server/store/ingest.h"

#include "codecs/registry.h"

namespace quire::server {
namespace {

Status check_tokens(const RepresentationHeader& header) {
  if (header.tokens.empty()) {
    return Status(StatusCode::kInvalidArgument, "an object without tokens cannot be found again");
  }
  return Status::ok();
}

}  // namespace

Expected<RepresentationHeader> ingest(const IngestRequest& request) {
  if (copy_and_xxh3_128(request.target, request.source) != request.checksum) {
    return Status(StatusCode::kCorrupt,
                  "the bytes in the staging window are not those of the checksum");
  }
  auto view = RepresentationView::parse(request.target);
  if (!view) return view.status();
  const RepresentationHeader& header = view->header();
  if (header.representation != request.representation) {
    return Status(StatusCode::kInvalidArgument, "the bytes are representation " +
                                                    header.representation.to_hex() +
                                                    ", another one was reserved");
  }
  QUIRE_RETURN_IF_ERROR(check_tokens(header));
  QUIRE_RETURN_IF_ERROR(view->verify_object(*request.salt));
  QUIRE_RETURN_IF_ERROR(view->verify_sections());
  const auto model = request.models->find(header.model);
  if (model == request.models->end()) {
    return Status(StatusCode::kFailedPrecondition,
                  "model " + header.model.to_hex() + " is not registered; register it first");
  }
  QUIRE_RETURN_IF_ERROR(check_sections(*view, model->second.descriptor));
  return header;
}

}  // namespace quire::server
