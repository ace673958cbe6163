// libllama's process-wide state: backends loaded once, its log kept for error messages.
#ifndef QUIRE_CLIENT_LLAMA_RUNTIME_H_
#define QUIRE_CLIENT_LLAMA_RUNTIME_H_

#include <string>

#include "base/hash.h"
#include "base/status.h"

namespace quire {

// Loads the backends, takes over the log, switches off ggml's debugger on abort. Any thread, any
// number of times.
void llama_runtime_start();
// Forgets what was logged; then what libllama said since, its last lines only.
void llama_log_reset();
std::string llama_log_text();

// SHA-256 of a file. Remembered in directory by path, size and mtime, since hashing takes a second
// per gigabyte; an unreadable or unwritable memory is no error.
Expected<Digest> file_digest(const std::string& path, const std::string& directory);

}  // namespace quire

#endif  // QUIRE_CLIENT_LLAMA_RUNTIME_H_
