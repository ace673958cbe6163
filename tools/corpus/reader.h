// Finds the files of a corpus and reads them into documents, one at a time. Errors belong to a file
// (or a line of JSONL) and never stop the rest.
#ifndef QUIRE_TOOLS_CORPUS_READER_H_
#define QUIRE_TOOLS_CORPUS_READER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tools/corpus/document.h"

namespace quire::corpus {

inline constexpr uint64_t kFilesMax = 10'000'000;

enum class SourceKind { kText, kMarkdown, kHtml, kJsonl };
// By the extension, any case; kText for unknown ones.
SourceKind source_kind(std::string_view path);

struct SourceFile {
  std::string path;  // lexically normal, as given
  SourceKind kind = SourceKind::kText;
  uint64_t bytes = 0;
};

struct SourceError {
  std::string path;
  uint64_t line = 0;  // of JSONL, from 1; 0: the whole file
  Status status;
  std::string to_string() const;  // "path:12: why"
};

struct FileList {
  std::vector<SourceFile> files;  // in the order of the arguments, folders and patterns sorted
  std::vector<SourceError> errors;
  uint64_t skipped =
      0;  // files of folders whose extension is not one of text, Markdown, HTML, JSONL
};

// Files, folders (recursive, hidden names and links to folders left out) and patterns. A file named
// twice is listed once. A file given by its own name is read whatever its extension is.
FileList list_files(const std::vector<std::string>& paths);

// False stops the reading.
using DocumentVisitor = std::function<bool(Document document)>;
using ErrorVisitor = std::function<void(SourceError error)>;

// Calls on_document for each document of the file, in order; a document may be empty. Returns false
// where the visitor stopped it.
bool read_documents(const SourceFile& file, const DocumentVisitor& on_document,
                    const ErrorVisitor& on_error);

// The document in the bytes of a file that is not JSONL.
Expected<Document> make_document(std::string_view path, SourceKind kind, std::string_view bytes);

}  // namespace quire::corpus

#endif  // QUIRE_TOOLS_CORPUS_READER_H_
