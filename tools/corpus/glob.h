// Shell patterns over a folder tree: * and ? and [...] within one path component, ** for any number
// of folders. Hidden names match only where the pattern's component begins with a dot.
#ifndef QUIRE_TOOLS_CORPUS_GLOB_H_
#define QUIRE_TOOLS_CORPUS_GLOB_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace quire::corpus {

bool has_glob_characters(std::string_view path);

// Files and folders that match, sorted by path; kNotFound where nothing does.
Expected<std::vector<std::string>> expand_glob(const std::string& pattern);

}  // namespace quire::corpus

#endif  // QUIRE_TOOLS_CORPUS_GLOB_H_
