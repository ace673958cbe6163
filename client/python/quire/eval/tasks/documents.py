"""Real text: files of a folder, or what is on the machine already."""

from __future__ import annotations

import hashlib
import re
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from ..errors import DocumentsMissing

HANDBOOK = Path("/usr/share/doc/debian-handbook/html/en-US")
_HTML = {".html", ".htm", ".xhtml"}
_PLAIN = {".txt", ".md", ".rst", ".text"}
_CODE = {".py"}
_SKIPPED_TAGS = {"script", "style", "head", "nav", "title"}
_BLOCK_TAGS = {"p", "li", "h1", "h2", "h3", "h4", "h5", "pre", "td", "th", "dd", "dt", "div", "br"}
PARAGRAPH_CHARACTERS_MIN = 80
FILE_BYTES_MAX = 4 << 20
FILES_MAX = 2000
DOCUMENT_CHARACTERS_MIN = 1500
# Modules that every Python has and whose text changes little.
_CODE_MODULES = (
    "bisect calendar cmd colorsys configparser csv difflib filecmp fileinput fractions getopt "
    "gettext graphlib heapq imaplib mailbox netrc optparse pprint queue quopri sched shelve shlex "
    "smtplib statistics string tabnanny textwrap timeit trace uuid wave zipapp"
)


@dataclass(frozen=True)
class Document:
    """paragraphs: without blank lines inside; code keeps its lines."""

    name: str
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """documents: prose. code: source files. Both in a fixed order."""

    documents: tuple[Document, ...]
    code: tuple[Document, ...]

    @property
    def digest(self) -> str:
        """Of all text: prompts of one seed are equal only over equal text."""
        digest = hashlib.sha256()
        for document in (*self.documents, *self.code):
            for part in (document.name, *document.paragraphs):
                digest.update(part.encode())
                digest.update(b"\0")
        return digest.hexdigest()[:16]


class _TextOfHtml(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self._text: list[str] = []
        self._skip = 0

    def _end_block(self) -> None:
        text = " ".join("".join(self._text).split())
        self._text.clear()
        if text:
            self.blocks.append(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in _SKIPPED_TAGS:
            self._skip += 1
        elif tag in _BLOCK_TAGS:
            self._end_block()

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED_TAGS:
            self._skip = max(0, self._skip - 1)
        elif tag in _BLOCK_TAGS:
            self._end_block()

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self._text.append(data)

    def finish(self) -> list[str]:
        self.close()
        self._end_block()
        return self.blocks


def paragraphs_of_html(text: str) -> list[str]:
    """The visible text of a page, block by block."""
    parser = _TextOfHtml()
    parser.feed(text)
    return parser.finish()


def paragraphs_of_text(text: str) -> list[str]:
    """Runs of lines between blank lines, each made one line."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def _prose(name: str, paragraphs: Iterable[str]) -> Document | None:
    long = tuple(p for p in paragraphs if len(p) >= PARAGRAPH_CHARACTERS_MIN)
    if sum(map(len, long)) < DOCUMENT_CHARACTERS_MIN:
        return None
    return Document(name, long)


def _code(name: str, text: str) -> Document | None:
    text = text.replace("\r\n", "\n").expandtabs(4)
    lines = tuple(line.rstrip() for line in text.split("\n"))
    return Document(name, lines) if len(text) >= DOCUMENT_CHARACTERS_MIN else None


def _read(path: Path) -> str | None:
    """None for what is too large or not UTF-8: a guessed encoding is wrong text."""
    if path.stat().st_size > FILE_BYTES_MAX:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def _of_file(path: Path, name: str) -> tuple[Document | None, Document | None]:
    """(prose, code)"""
    kind = path.suffix.lower()
    if kind not in _HTML | _PLAIN | _CODE:
        return None, None
    text = _read(path)
    if text is None:
        return None, None
    if kind in _CODE:
        return None, _code(name, text)
    return _prose(
        name, paragraphs_of_html(text) if kind in _HTML else paragraphs_of_text(text)
    ), None


def read_folder(folder: Path) -> Corpus:
    """HTML, text and Python files below a folder, by path. Raises DocumentsMissing."""
    if not folder.is_dir():
        raise DocumentsMissing(f"no folder {folder}")
    kinds = _HTML | _PLAIN | _CODE
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in kinds and p.is_file())
    documents, code = [], []
    for path in files[:FILES_MAX]:
        prose, source = _of_file(path, str(path.relative_to(folder)))
        documents += [prose] if prose else []
        code += [source] if source else []
    if not documents and not code:
        raise DocumentsMissing(
            f"{folder} has no text of {DOCUMENT_CHARACTERS_MIN} characters or more in files of "
            f"the kinds {' '.join(sorted(kinds))}"
        )
    return Corpus(tuple(documents), tuple(code))


def _python_reference() -> list[Document]:
    """The language reference as pydoc carries it: there on every machine."""
    from pydoc_data.topics import topics

    found = [_prose(f"pydoc/{name}", paragraphs_of_text(topics[name])) for name in sorted(topics)]
    return [document for document in found if document]


def _python_code() -> list[Document]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for name in _CODE_MODULES.split():
        path = folder / f"{name}.py"
        text = _read(path) if path.is_file() else None
        found.append(_code(path.name, text) if text else None)
    return [document for document in found if document]


def read_corpus(folder: Path | None = None) -> Corpus:
    """A folder, or: the Debian Administrator's Handbook where it is installed, and Python's own
    reference and modules. Raises DocumentsMissing."""
    if folder is not None:
        return read_folder(folder)
    documents = _python_reference()
    if HANDBOOK.is_dir():
        documents = [*read_folder(HANDBOOK).documents, *documents]
    if not documents:
        raise DocumentsMissing("no documents on this machine: name a folder of text or HTML files")
    return Corpus(tuple(documents), tuple(_python_code()))
