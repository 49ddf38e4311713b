"""Lines of plain, gzip and zstandard files, one at a time and as bytes; such files for writing."""

import contextlib
import dataclasses
import glob
import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

import zstandard

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories.contexts import is_contexts

PATTERNS = ("*.jsonl", "*.jsonl.gz", "*.jsonl.zst", "*.json", "*.traj")
# One row is the whole of such a file.
DOCUMENTS = (".json", ".traj")
BLOCK_BYTES = 1 << 16
GZIP_WBITS = 31


@dataclasses.dataclass(frozen=True)
class Line:
    """One row of a file; `truncated` marks what is left where a compressed stream breaks off."""

    file: str
    number: int
    data: bytes
    truncated: bool = False


def find(path: str | Path) -> list[Path]:
    """Files named by `path`: a file, a directory (searched recursively) or a glob; sorted.

    Files of contexts are not among them. Raises UserError when there is none.
    """
    root = Path(path)
    if root.is_file():
        return [root]
    if root.is_dir():
        found = {file for pattern in PATTERNS for file in root.rglob(pattern)}
    else:
        found = {Path(name) for name in glob.glob(str(path), recursive=True)}
    files = sorted(file for file in found if file.is_file() and not is_contexts(file))
    if not files:
        raise UserError(
            f"no trajectory file at {str(path)!r}: give a file, a glob, or a directory that holds "
            f"{', '.join(PATTERNS)}"
        )
    return files


def lines(file: Path) -> Iterator[Line]:
    """Rows of `file` without line ends: the whole of a .json or .traj document, else its lines.

    A broken compressed stream ends with one truncated row; every line before it is complete.
    """
    try:
        with file.open("rb") as raw:
            if file.suffix in DOCUMENTS:
                yield Line(str(file), 1, raw.read())
            else:
                yield from _split(str(file), _chunks(raw, file.suffix))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): check the file") from error


@contextlib.contextmanager
def writing(file: Path) -> Iterator[TextIO]:
    """`file` opened for new text, in a folder that is made; compressed if its name says so.

    Raises UserError if it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _opened(file) as out:
            yield out
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}): check the path") from error


def _opened(file: Path) -> TextIO:
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".zst": zstandard.open}
    return cast(TextIO, openers.get(file.suffix, open)(file, "wt", encoding="utf-8"))


def _split(file: str, chunks: Iterator[bytes]) -> Iterator[Line]:
    number, rest, truncated = 1, b"", False
    while True:
        try:
            chunk = next(chunks, b"")
        except (EOFError, zlib.error, zstandard.ZstdError):
            chunk, truncated = b"", True
        if not chunk:
            break
        *complete, rest = (rest + chunk).split(b"\n")
        for data in complete:
            yield Line(file, number, data)
            number += 1
    if rest or truncated:
        yield Line(file, number, rest, truncated)


def _chunks(raw: BinaryIO, suffix: str) -> Iterator[bytes]:
    blocks = iter(lambda: raw.read(BLOCK_BYTES), b"")
    if suffix == ".gz":
        return _decompressed(blocks, lambda: zlib.decompressobj(GZIP_WBITS))
    if suffix == ".zst":
        return _decompressed(blocks, lambda: zstandard.ZstdDecompressor().decompressobj())
    return blocks


def _decompressed(blocks: Iterator[bytes], new_decoder: Callable[[], Any]) -> Iterator[bytes]:
    # The file objects of gzip and zstandard disagree on a truncated stream (an exception, silence);
    # their decoders share one interface and say whether the last frame was complete.
    decoder = new_decoder()
    for block in blocks:
        while block:
            if decoder.eof:
                decoder = new_decoder()
            if chunk := decoder.decompress(block):
                yield chunk
            block = decoder.unused_data
    if not decoder.eof:
        raise EOFError
