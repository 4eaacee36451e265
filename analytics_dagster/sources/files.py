"""From the paths that a user names to byte streams: folders and zip archives are opened, gzip and Zstandard undone.

What is inside the bytes is not this module's business. Compression is told by the first bytes, never by the name, since
exports are renamed more often than they are recompressed. Everything is read forward, a chunk at a time.
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from analytics_dagster.errors import UnreadableFileError

SAMPLE_BYTES = 256 * 1024
_GZIP, _ZSTD, _ZIP, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1"
_DAMAGED = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError)
"""What gzip, zipfile and Arrow raise for damaged, truncated, encrypted or unknown compressed data."""

Belongs = Callable[[str, bytes], bool]
"""(name, first bytes) -> whether a file met in a folder or archive is one of the format's."""


@dataclass(frozen=True)
class SourceFile:
    """One file to import. `name` is what quarantine shows: relative to the folder or archive that was named."""

    name: str
    path: Path
    member: str | None = None

    @contextmanager
    def open(self) -> Iterator[SourceStream]:
        """A forward stream of the decompressed bytes. Raises UnreadableFileError."""
        with ExitStack() as opened:
            try:
                raw = self._raw(opened)
                stream = SourceStream(_decompressed(raw), self.name)
            except _DAMAGED as error:
                raise UnreadableFileError(f"{self.name}: cannot be read ({error})") from error
            yield stream

    def _raw(self, opened: ExitStack) -> BinaryIO:
        if self.member is None:
            return opened.enter_context(self.path.open("rb"))
        archive = opened.enter_context(zipfile.ZipFile(self.path))
        return cast(BinaryIO, opened.enter_context(archive.open(self.member)))


class SourceStream:
    """Bytes of one file with a look at its beginning. Damage met while reading becomes UnreadableFileError."""

    def __init__(self, raw: BinaryIO, name: str) -> None:
        self.name = name
        self._raw = raw
        self._ahead = b""
        self._sampled = False

    def sample(self) -> bytes:
        """Up to SAMPLE_BYTES from the beginning, without consuming them. To be called before the first `read`."""
        if not self._sampled:
            self._sampled = True
            parts: list[bytes] = []
            missing = SAMPLE_BYTES
            while missing and (part := self._read(missing)):
                parts.append(part)
                missing -= len(part)
            self._ahead = b"".join(parts)
        return self._ahead

    def read(self, size: int) -> bytes:
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        return self._read(size)

    def _read(self, size: int) -> bytes:
        try:
            return self._raw.read(size)
        except _DAMAGED as error:
            raise UnreadableFileError(
                f"{self.name}: damaged, reading stopped ({error}); nothing of this import was stored. Fetch the file again"
            ) from error


def source_files(paths: Iterable[Path], belongs: Belongs) -> list[SourceFile]:
    """The files behind `paths`, folders and zip archives opened, in a stable order.

    A file that is named itself is always taken; one found in a folder or archive only if it `belongs`.
    Raises UnreadableFileError for a path that is missing, and for a folder or archive with nothing to import.
    """
    found: list[SourceFile] = []
    for path in paths:
        if path.is_dir():
            inside = [file for file in _files_below(path) if _accepted(file, belongs)]
        elif path.is_file():
            inside = _archive_or_file(path, path.name, belongs)
        else:
            raise UnreadableFileError(f"{path}: no such file or folder")
        if not inside:
            raise UnreadableFileError(f"{path}: holds no file of this format; see docs/reference/formats.md")
        found.extend(inside)
    return found


def uncompressed_name(name: str) -> str:
    """The name in lower case without the ending of its compression: what tells one kind of file from another."""
    return name.lower().removesuffix(".gz").removesuffix(".zst")


def is_parquet(sample: bytes) -> bool:
    """Whether a file that begins so is a Parquet file."""
    return sample.startswith(_PARQUET)


def _files_below(folder: Path) -> Iterator[SourceFile]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not _hidden(relative.parts):
            yield from _members(path, relative.as_posix()) if _is_zip(path) else [SourceFile(relative.as_posix(), path)]


def _archive_or_file(path: Path, name: str, belongs: Belongs) -> list[SourceFile]:
    if not _is_zip(path):
        return [SourceFile(name, path)]
    return [file for file in _members(path, name) if _accepted(file, belongs)]


def _members(path: Path, name: str) -> Iterator[SourceFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(info.filename for info in archive.infolist() if not info.is_dir())
    except (OSError, zipfile.BadZipFile) as error:
        raise UnreadableFileError(f"{name}: not a readable zip archive ({error})") from error
    for member in members:
        if not _hidden(Path(member).parts):
            yield SourceFile(f"{name}/{member}", path, member)


def _hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _accepted(file: SourceFile, belongs: Belongs) -> bool:
    if not belongs(file.name, b""):
        return False
    with file.open() as stream:
        return belongs(file.name, stream.sample())


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == _ZIP
    except OSError as error:
        raise UnreadableFileError(f"{path}: cannot be read ({error})") from error


def _decompressed(raw: BinaryIO) -> BinaryIO:
    buffered = io.BufferedReader(cast(io.RawIOBase, raw), 1 << 16) if not hasattr(raw, "peek") else raw
    head = buffered.peek(4)[:4]
    if head.startswith(_GZIP):
        return cast(BinaryIO, gzip.GzipFile(fileobj=buffered))
    if head == _ZSTD:
        return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(buffered, mode="r"), "zstd"))
    return buffered
