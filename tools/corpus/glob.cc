#include "tools/corpus/glob.h"

#include <fnmatch.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <span>

namespace quire::corpus {
namespace fs = std::filesystem;
namespace {

// Symbolic links to folders are not followed below a "**", so no loop is possible; this bounds the
// rest.
constexpr uint32_t kGlobDepthMax = 64;

class Expansion {
 public:
  void expand(const fs::path& base, std::span<const std::string> components, uint32_t depth) {
    if (depth > kGlobDepthMax) return;
    if (components.empty()) {
      results_.insert(base.lexically_normal().string());
      return;
    }
    const std::string& component = components.front();
    const auto rest = components.subspan(1);
    if (component == "**") {
      expand(base, rest, depth);
      for (const fs::path& entry : entries(base))
        if (!entry.filename().string().starts_with(".") && is_real_folder(entry))
          expand(entry, components, depth + 1);
      return;
    }
    if (!has_glob_characters(component)) {
      std::error_code error;
      if (fs::exists(base / component, error)) expand(base / component, rest, depth + 1);
      return;
    }
    for (const fs::path& entry : entries(base))
      if (fnmatch(component.c_str(), entry.filename().c_str(), FNM_PERIOD) == 0)
        expand(entry, rest, depth + 1);
  }

  std::vector<std::string> results() const { return {results_.begin(), results_.end()}; }

 private:
  static std::vector<fs::path> entries(const fs::path& folder) {
    std::vector<fs::path> found;
    std::error_code error;
    const fs::path& listed = folder.empty() ? fs::path(".") : folder;
    for (fs::directory_iterator it(listed, error), end; !error && it != end; it.increment(error))
      found.push_back(folder.empty() ? it->path().filename() : it->path());
    return found;
  }

  static bool is_real_folder(const fs::path& path) {
    std::error_code error;
    return fs::is_directory(fs::symlink_status(path, error));
  }

  std::set<std::string> results_;
};

}  // namespace

bool has_glob_characters(std::string_view path) {
  return path.find_first_of("*?[") != std::string_view::npos;
}

Expected<std::vector<std::string>> expand_glob(const std::string& pattern) {
  const fs::path path(pattern);
  std::vector<std::string> components;
  for (const fs::path& part : path.relative_path())
    if (!part.empty()) components.push_back(part.string());
  Expansion expansion;
  expansion.expand(path.root_path(), components, 0);
  std::vector<std::string> results = expansion.results();
  if (results.empty()) return Status(StatusCode::kNotFound, "no file matches this pattern");
  return results;
}

}  // namespace quire::corpus
