// Arguments that several functions of the C ABI take, checked.
#ifndef QUIRE_CLIENT_CAPI_ARGUMENTS_H_
#define QUIRE_CLIENT_CAPI_ARGUMENTS_H_

#include "base/bytes.h"
#include "base/ids.h"
#include "base/status.h"
#include "client/capi/quire.h"
#include "proto/wire.h"

namespace quire::capi {

Status check_tokens(const uint32_t* tokens, size_t n_tokens);
// Empty for the default tenant.
Expected<ByteSpan> salt_span(const void* salt, size_t salt_bytes);
Expected<VariantContext> to_context(const quire_context& source);
Expected<ModelDescriptor> to_model(const void* descriptor, size_t descriptor_bytes);
Expected<wire::AckLevel> to_ack(uint32_t ack);

}  // namespace quire::capi

#endif  // QUIRE_CLIENT_CAPI_ARGUMENTS_H_
