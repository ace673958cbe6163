// Tokens, text and chat templates.
#include <string>

#include "client/llama/engine_impl.h"
#include "llama.h"

namespace quire {

namespace {
constexpr size_t kTextBytesMax = 64u << 20;
constexpr int32_t kPieceBytes = 256;
}  // namespace

Expected<std::vector<TokenId>> LlamaEngine::tokenize(std::string_view text, bool add_special,
                                                     bool parse_special) const {
  if (text.size() > kTextBytesMax) {
    return Status(StatusCode::kResourceExhausted, "text of more than 64 MiB");
  }
  const auto length = static_cast<int32_t>(text.size());
  std::vector<llama_token> ids(text.size() + 8);
  try {
    int32_t n = llama_tokenize(impl_->vocab, text.data(), length, ids.data(),
                               static_cast<int32_t>(ids.size()), add_special, parse_special);
    if (n < 0 && n != INT32_MIN) {
      ids.resize(static_cast<size_t>(-n));
      n = llama_tokenize(impl_->vocab, text.data(), length, ids.data(), -n, add_special,
                         parse_special);
    }
    if (n < 0) return Status(StatusCode::kInvalidArgument, "the text cannot be tokenised");
    ids.resize(static_cast<size_t>(n));
  } catch (const std::exception& exception) {
    return Status(StatusCode::kInvalidArgument,
                  std::string("the text cannot be tokenised: ") + exception.what());
  }
  return std::vector<TokenId>(ids.begin(), ids.end());
}

std::string LlamaEngine::detokenize(std::span<const TokenId> tokens) const {
  std::string text;
  std::string piece(kPieceBytes, '\0');
  for (const TokenId token : tokens) {
    if (token >= impl_->n_vocab) continue;
    const auto write = [&] {
      return llama_token_to_piece(impl_->vocab, static_cast<llama_token>(token), piece.data(),
                                  static_cast<int32_t>(piece.size()), 0, false);
    };
    int32_t n = write();
    if (n < 0) {  // -n bytes are needed
      piece.resize(static_cast<size_t>(-n));
      n = write();
    }
    if (n > 0) text.append(piece, 0, static_cast<size_t>(n));
  }
  return text;
}

bool LlamaEngine::is_end_of_generation(TokenId token) const {
  return llama_vocab_is_eog(impl_->vocab, static_cast<llama_token>(token));
}

Expected<std::string> LlamaEngine::apply_chat_template(std::string_view system,
                                                       std::string_view user) const {
  const char* layout = llama_model_chat_template(impl_->model, nullptr);
  if (layout == nullptr) return Status(StatusCode::kNotFound, "the model has no chat template");
  const std::string system_text(system);
  const std::string user_text(user);
  const llama_chat_message messages[] = {{"system", system_text.c_str()},
                                         {"user", user_text.c_str()}};
  std::string text(system.size() + user.size() + 1024, '\0');
  for (int attempt = 0; attempt < 2; ++attempt) {
    const int32_t n = llama_chat_apply_template(layout, messages, 2, true, text.data(),
                                                static_cast<int32_t>(text.size()));
    if (n < 0) return Status(StatusCode::kNotFound, "libllama does not know the chat template");
    const bool fits = static_cast<size_t>(n) <= text.size();
    text.resize(static_cast<size_t>(n));
    if (fits) return text;
  }
  return Status(StatusCode::kInternal, "the chat template keeps growing");
}

}  // namespace quire
