#include "tools/corpus/reader.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "tools/corpus/encoding.h"
#include "tools/corpus/glob.h"
#include "tools/corpus/html.h"
#include "tools/corpus/jsonl.h"
#include "tools/corpus/text.h"

namespace quire::corpus {
namespace fs = std::filesystem;
namespace {

struct Extension {
  std::string_view name;
  SourceKind kind;
};
constexpr std::array<Extension, 11> kExtensions = {{
    {".txt", SourceKind::kText},
    {".text", SourceKind::kText},
    {".rst", SourceKind::kText},
    {".md", SourceKind::kMarkdown},
    {".markdown", SourceKind::kMarkdown},
    {".html", SourceKind::kHtml},
    {".htm", SourceKind::kHtml},
    {".xhtml", SourceKind::kHtml},
    {".jsonl", SourceKind::kJsonl},
    {".ndjson", SourceKind::kJsonl},
    {".jsonlines", SourceKind::kJsonl},
}};

std::optional<SourceKind> known_kind(std::string_view path) {
  std::string extension = fs::path(path).extension().string();
  for (char& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const Extension& known : kExtensions)
    if (extension == known.name) return known.kind;
  return std::nullopt;
}

Status io_error(const std::error_code& error) {
  const bool missing = error == std::errc::no_such_file_or_directory;
  return Status(missing ? StatusCode::kNotFound : StatusCode::kIoError, error.message());
}

class Lister {
 public:
  void add_argument(const std::string& argument) {
    std::error_code error;
    // A file that really is called "a[1].txt" is that file.
    if (!fs::exists(argument, error) && has_glob_characters(argument)) {
      const auto matches = expand_glob(argument);
      if (!matches) return add_error(argument, matches.status());
      for (const std::string& match : *matches) add_path(match, /*by_name=*/false);
      return;
    }
    add_path(argument, /*by_name=*/true);
  }

  FileList take() { return std::move(list_); }

 private:
  void add_error(std::string path, Status status) {
    list_.errors.push_back({std::move(path), 0, std::move(status)});
  }

  void add_path(const std::string& path, bool by_name) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (status.type() == fs::file_type::not_found)
      return add_error(path, Status(StatusCode::kNotFound, "no such file or folder"));
    if (error) return add_error(path, io_error(error));
    if (fs::is_directory(status)) return add_folder(path);
    if (!fs::is_regular_file(status))
      return add_error(path, Status(StatusCode::kInvalidArgument, "is not a regular file"));
    add_file(path, by_name);
  }

  void add_folder(const fs::path& folder) {
    std::vector<fs::path> entries;
    std::error_code error;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
      if (!it->path().filename().string().starts_with(".")) entries.push_back(it->path());
    if (error) add_error(folder.string(), io_error(error));
    std::sort(entries.begin(), entries.end());
    for (const fs::path& entry : entries) {
      std::error_code ignored;
      if (fs::is_directory(fs::symlink_status(entry, ignored))) {
        add_folder(entry);
      } else if (fs::is_regular_file(fs::status(entry, ignored))) {
        add_file(entry.string(), /*by_name=*/false);
      }
    }
  }

  void add_file(const std::string& path, bool by_name) {
    const std::optional<SourceKind> kind = known_kind(path);
    if (!kind && !by_name) {
      ++list_.skipped;
      return;
    }
    std::error_code error;
    const std::string real = fs::canonical(path, error).string();
    if (error) return add_error(path, io_error(error));
    if (!seen_.insert(real).second) return;
    if (list_.files.size() >= kFilesMax)
      return add_error(path, Status(StatusCode::kResourceExhausted, "too many files in one run"));
    SourceFile file;
    file.path = fs::path(path).lexically_normal().string();
    file.kind = kind.value_or(SourceKind::kText);
    file.bytes = fs::file_size(path, error);
    if (error) return add_error(path, io_error(error));
    list_.files.push_back(std::move(file));
  }

  FileList list_;
  std::unordered_set<std::string> seen_;
};

Status too_large(uint64_t bytes, uint64_t bytes_max) {
  return Status(StatusCode::kResourceExhausted, "has " + std::to_string(bytes) +
                                                    " bytes, more than the limit of " +
                                                    std::to_string(bytes_max) + "; split it");
}

Status open_error() {
  return Status(errno == ENOENT ? StatusCode::kNotFound : StatusCode::kIoError,
                std::string("cannot be read: ") + std::strerror(errno));
}

Expected<std::string> read_whole(const SourceFile& file) {
  const uint64_t bytes_max = file.kind == SourceKind::kHtml ? kHtmlFileBytesMax : kTextFileBytesMax;
  if (file.bytes > bytes_max) return too_large(file.bytes, bytes_max);
  errno = 0;
  std::ifstream stream(file.path, std::ios::binary);
  if (!stream) return open_error();
  std::string bytes;
  std::array<char, 64 * 1024> block;
  while (stream.read(block.data(), block.size()) || stream.gcount() > 0) {
    bytes.append(block.data(), static_cast<size_t>(stream.gcount()));
    if (bytes.size() > bytes_max) return too_large(bytes.size(), bytes_max);  // it grew meanwhile
  }
  if (stream.bad()) return open_error();
  return bytes;
}

class JsonlReader {
 public:
  JsonlReader(const SourceFile& file, const DocumentVisitor& on_document,
              const ErrorVisitor& on_error)
      : file_(file), on_document_(on_document), on_error_(on_error) {}

  bool read() {
    if (file_.bytes > kJsonlFileBytesMax) {
      fail(0, too_large(file_.bytes, kJsonlFileBytesMax));
      return true;
    }
    errno = 0;
    std::ifstream stream(file_.path, std::ios::binary);
    if (!stream) {
      fail(0, open_error());
      return true;
    }
    std::string line;
    for (uint64_t number = 1; next_line(stream, line); ++number)
      if (!take_line(number, line)) return false;
    if (stream.bad()) fail(0, Status(StatusCode::kIoError, "reading stopped in the middle"));
    return true;
  }

 private:
  // Like getline, but a line beyond the limit is cut (and then refused), not kept in memory.
  static bool next_line(std::istream& stream, std::string& line) {
    line.clear();
    std::streambuf* buffer = stream.rdbuf();
    int c = buffer->sbumpc();
    if (c == std::char_traits<char>::eof()) return false;
    for (; c != std::char_traits<char>::eof() && c != '\n'; c = buffer->sbumpc())
      if (line.size() <= kJsonlLineBytesMax) line += static_cast<char>(c);
    return true;
  }

  bool take_line(uint64_t number, std::string_view line) {
    if (number == 1 && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) return true;
    if (line.size() > kJsonlLineBytesMax) {
      fail(number, too_large(line.size(), kJsonlLineBytesMax));
      return true;
    }
    auto record = parse_jsonl_line(line);
    if (!record) {
      fail(number, record.status());
      return true;
    }
    const std::string key = record->id.empty() ? "L" + std::to_string(number) : record->id;
    const auto [first, inserted] = lines_of_ids_.emplace(key, number);
    if (!inserted) {
      fail(number, Status(StatusCode::kInvalidArgument,
                          "repeats the id '" + key + "' of line " + std::to_string(first->second)));
      return true;
    }
    Document document;
    document.id = file_.path + "#" + key;
    document.path = file_.path;
    document.title = std::move(record->title);
    document.text = std::move(record->text);
    document.paragraphs = split_plain_paragraphs(document.text);
    return on_document_(std::move(document));
  }

  void fail(uint64_t line, Status status) { on_error_({file_.path, line, std::move(status)}); }

  const SourceFile& file_;
  const DocumentVisitor& on_document_;
  const ErrorVisitor& on_error_;
  std::unordered_map<std::string, uint64_t> lines_of_ids_;
};

}  // namespace

SourceKind source_kind(std::string_view path) {
  return known_kind(path).value_or(SourceKind::kText);
}

std::string SourceError::to_string() const {
  return path + (line > 0 ? ":" + std::to_string(line) : "") + ": " + status.message();
}

FileList list_files(const std::vector<std::string>& paths) {
  Lister lister;
  for (const std::string& path : paths) lister.add_argument(path);
  return lister.take();
}

Expected<Document> make_document(std::string_view path, SourceKind kind, std::string_view bytes) {
  Document document;
  document.id = document.path = std::string(path);
  std::string charset;
  if (kind == SourceKind::kHtml) charset = declared_html_charset(bytes);
  QUIRE_ASSIGN_OR_RETURN(std::string text, to_canonical_utf8(bytes, charset));
  if (kind == SourceKind::kHtml) {
    QUIRE_ASSIGN_OR_RETURN(HtmlText html, extract_html(text));
    document.title = std::move(html.title);
    document.text = std::move(html.text);
    document.paragraphs = std::move(html.paragraphs);
    return document;
  }
  document.text = std::move(text);
  if (kind == SourceKind::kMarkdown) {
    document.title = markdown_title(document.text);
    document.paragraphs = split_markdown_paragraphs(document.text);
  } else {
    document.paragraphs = split_plain_paragraphs(document.text);
  }
  return document;
}

bool read_documents(const SourceFile& file, const DocumentVisitor& on_document,
                    const ErrorVisitor& on_error) {
  if (file.kind == SourceKind::kJsonl) return JsonlReader(file, on_document, on_error).read();
  const auto bytes = read_whole(file);
  auto document = bytes ? make_document(file.path, file.kind, *bytes) : bytes.status();
  if (!document) {
    on_error({file.path, 0, document.status()});
    return true;
  }
  return on_document(std::move(document).value());
}

}  // namespace quire::corpus
