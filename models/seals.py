"""Seals: what a safetensors file belongs to, and the digest by which it tells when it is damaged.

    Seal(of={"study": "3f2a", "trial": 7}).entries()    # of the header of a file
    stamp(path)                                         # writes the digest
    check_content(file)                                 # the seal; raises `TensorFileError`

A seal is two entries in the header of the file. ``seal`` holds the version of the seal, the
identity of what the file belongs to, and the number of the attempt that wrote it. ``sha256`` is
the digest of the whole file, in which these 64 digits count as zeros. So no bit of the file can
change unnoticed, and no file can take the place of another one.

Older versions wrote files without a seal. Such a file has to be as long as its header says, and
its header has to hold nothing beside what these versions wrote; more is not known of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeAlias

from models.errors import TensorFileError

Identity: TypeAlias = Mapping[str, Any]
"""What a file belongs to, as plain values by name; a message names those that differ."""

VERSION = 1  # of the seal; raise it when what stands beside the tensors changes its meaning
SEAL, DIGEST = "seal", "sha256"  # entries of the header
MARK, ZEROS = b'"sha256":"', b"0" * 64
LONGEST_HEADER = 100_000_000  # bytes, as safetensors has it
PIECE = 1 << 20  # bytes that are read at once
LARGE = 8 << 20  # bytes


@dataclass(frozen=True, kw_only=True)
class Seal:
    """What the seal of a file says. attempt: the number of the attempt that wrote it, if any"""

    of: Identity
    attempt: int | None = None
    version: int = VERSION

    def entries(self) -> dict[str, str]:
        """Return the entries of a header, with zeros where `stamp` writes the digest."""
        about = {"version": self.version, "of": dict(self.of), "attempt": self.attempt}
        return {SEAL: json.dumps(about), DIGEST: ZEROS.decode()}

    def check(self, of: Identity) -> None:
        """Raise `TensorFileError` unless the file belongs to ``of``."""
        if self.version != VERSION:
            raise TensorFileError(f"it was written by another version (seal {self.version!r})")
        wanted = json.loads(json.dumps(dict(of)))
        other = [name for name in wanted if self.of.get(name) != wanted[name]]
        if other or self.of.keys() != wanted.keys():
            raise TensorFileError(f"it belongs to another {' and '.join(other) or 'kind of file'}")


def is_whole_content(content: bytes) -> bool:
    """Whether ``content`` is that of a whole file."""
    try:
        check_content(BytesIO(content))
    except TensorFileError:
        return False
    return True


def check_content(file: IO[bytes]) -> Seal | None:
    """Return the seal of an open file, read from its beginning; raises what `read_seal` raises."""
    file.seek(0)
    start, header = read_header(file)
    entries = entries_of(header)
    place = header.find(MARK) + len(MARK)
    if place < len(MARK) or not {SEAL, DIGEST} <= entries.keys():
        _check_unsealed(entries, header, len(start + header), file)
        return None
    digest = hashlib.sha256(start)
    digest.update(header[:place] + ZEROS + header[place + len(ZEROS) :])
    while piece := file.read(PIECE):
        digest.update(piece)
    if digest.hexdigest() != entries[DIGEST]:
        raise TensorFileError("its content is not what was written")
    return seal_in(entries)


def stamp(path: Path) -> None:
    """Write the digest into a file whose header has the entries of a `Seal`.

    The system writes a large file to the disk meanwhile, so that a later sync takes no longer.
    """
    with path.open("r+b") as file, ThreadPoolExecutor(1) as beside:
        if path.stat().st_size > LARGE:
            beside.submit(os.fsync, file.fileno())
        start, header = read_header(file)
        digest = hashlib.sha256(start + header)
        while piece := file.read(PIECE):
            digest.update(piece)
        file.seek(len(start) + header.index(MARK) + len(MARK))
        file.write(digest.hexdigest().encode())


def stamped(content: bytes) -> bytes:
    """Return the content of a file with its digest."""
    place = content.index(MARK) + len(MARK)
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[:place] + digest + content[place + len(digest) :]


def read_header(file: IO[bytes]) -> tuple[bytes, bytes]:
    """Return the first eight bytes of a safetensors file, which say how long its header is, and
    the header."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > LONGEST_HEADER:
        raise TensorFileError("it is no safetensors file")
    header = file.read(length)
    if len(header) < length:
        raise TensorFileError("its end is missing")
    return start, header


def entries_of(header: bytes) -> dict[str, str]:
    """Return the entries of a header that are not tensors."""
    try:
        entries = json.loads(header).get("__metadata__", {})
        return {str(name): str(value) for name, value in entries.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise TensorFileError("its header is damaged") from error


def seal_in(entries: Mapping[str, str]) -> Seal | None:
    """Return the seal in the entries of a header; None: there is none."""
    if SEAL not in entries:
        return None
    try:
        about = json.loads(entries[SEAL])
        return Seal(of=dict(about["of"]), attempt=about["attempt"], version=about["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise TensorFileError("its seal is damaged") from error


def _check_unsealed(
    entries: Mapping[str, str], header: bytes, before: int, file: IO[bytes]
) -> None:
    """Raise `TensorFileError` for a file without a seal that no older version can have written.

    before: bytes of the file before its tensors
    """
    if len(entries) > 1:  # they wrote one at most
        raise TensorFileError("its seal is damaged")
    try:
        tensors = [about for name, about in json.loads(header).items() if name != "__metadata__"]
        end = max((int(about["data_offsets"][1]) for about in tensors), default=0)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise TensorFileError("its header is damaged") from error
    if file.seek(0, os.SEEK_END) != before + end:
        raise TensorFileError("its end is missing")
