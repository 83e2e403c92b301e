"""Reading what strangers wrote: limits on size and depth, no repeated keys, no NaN, no control characters."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import stat
import unicodedata
import zlib
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

MAX_FILE = 5 * 2**20
"""Bytes that a file of a submission may have on disk."""
MAX_UNPACKED = 100 * 2**20
"""Bytes that a packed file may hold."""
MAX_LINE = 2 * 2**20
"""Bytes of one line of a packed file."""
MAX_DIGITS = 20
"""Digits of a whole number."""
MAX_DEPTH = 24
"""Levels of lists and objects within each other."""
MAX_TEXT = 20_000
"""Characters of one string."""
ALLOWED = frozenset("\n\t")


class Refused(Exception):
    """Why something can't be read, as a predicate; ``str`` of it is fit for a terminal."""

    def __init__(self, why: str) -> None:
        super().__init__(shown(why))


def shown(text: str, limit: int = 200) -> str:
    """A text without anything that a terminal or page could take for a command."""
    plain = "".join(c if c == " " or (c.isprintable() and unicodedata.category(c)[0] != "C") else "�" for c in text)
    return plain if len(plain) <= limit else f"{plain[: limit - 1]}…"


def read_file(path: Path, limit: int = MAX_FILE) -> bytes:
    """The bytes of a regular file, never through a link. Raises ``Refused``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as problem:
        link = path.is_symlink()
        raise Refused("is a symbolic link" if link else f"can't be read ({problem.strerror})") from problem
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise Refused("is no ordinary file")
    with open(descriptor, "rb") as stream:
        if found.st_size > limit:
            raise Refused(f"has {found.st_size:,} bytes; {limit:,} are allowed")
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise Refused(f"has more than {limit:,} bytes")
    return content


def unpack(content: bytes, limit: int = MAX_UNPACKED) -> bytes:
    """What a gzip file holds; a bomb is stopped at ``limit`` bytes. Raises ``Refused``."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            found = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as problem:
        raise Refused(f"is no whole gzip file ({problem})") from problem
    if len(found) > limit:
        raise Refused(f"unpacks to more than {limit:,} bytes")
    return found


def unpacked_lines(content: bytes, limit: int = MAX_UNPACKED, longest: int = MAX_LINE) -> Iterator[tuple[int, bytes]]:
    """The numbered lines of a gzip file, one at a time: what it holds is never in memory as a whole. Raises
    ``Refused``."""
    total = number = 0
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
        while True:
            try:
                line = stream.readline(longest + 1)
            except (OSError, EOFError, zlib.error) as problem:
                raise Refused(f"is no whole gzip file ({problem})") from problem
            if not line:
                return
            total, number = total + len(line), number + 1
            if total > limit:
                raise Refused(f"unpacks to more than {limit:,} bytes")
            if len(line) > longest:
                raise Refused(f"line {number} has more than {longest:,} bytes")
            yield number, line.removesuffix(b"\n")


def pack(content: bytes) -> bytes:
    """gzip without a clock or a name: equal contents give equal bytes."""
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=9, mtime=0) as stream:
        stream.write(content)
    return out.getvalue()


def parse(text: bytes | str) -> Any:
    """JSON as the standard has it: UTF-8, finite numbers, no key twice, not deeper than ``MAX_DEPTH``, texts without
    control or direction characters. Raises ``Refused``."""
    try:
        # json.loads would take UTF-16 and halves of characters too; who reads the file later may not.
        whole = text.decode("utf-8") if isinstance(text, bytes) else text
        found = json.loads(
            whole, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole
        )
    except Refused:
        raise
    except UnicodeDecodeError as problem:
        raise Refused(f"is no UTF-8 text (byte {problem.start})") from problem
    except (ValueError, RecursionError) as problem:
        raise Refused(f"is not valid JSON ({problem})") from problem
    check_texts(found)
    return found


def check_texts(value: Any, depth: int = 0) -> None:
    """Every key and string in ``value`` is fit to be shown. Raises ``Refused``."""
    if depth > MAX_DEPTH:
        raise Refused(f"is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        _fit(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            _fit(key)
            check_texts(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            if not isinstance(inner, float | int | bool):
                check_texts(inner, depth + 1)


def check_source(content: bytes) -> None:
    """Code that a maintainer reads before it is run: what is seen must be what is there. Raises ``Refused``."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise Refused(f"is no UTF-8 text (byte {problem.start})") from problem
    _plain(text, ALLOWED | {"\r", "\f"})


def _fit(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise Refused(f"holds a text of {len(text):,} characters; {MAX_TEXT:,} are allowed")
    _plain(text, ALLOWED)


def _plain(text: str, allowed: Set[str]) -> None:
    # Whatever is printable is none of these categories.
    if text.isprintable():
        return
    for letter in text:
        if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn") and letter not in allowed:
            raise Refused(f"holds the control character U+{ord(letter):04X}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Refused(f"has the key {twice!r} twice")
    return found


def _no_constant(name: str) -> Any:
    raise Refused(f"holds {name}, which is no JSON number")


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise Refused(f"holds a whole number of {len(text.lstrip('-'))} digits; {MAX_DIGITS} are allowed")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Refused(f"holds the number {text}, too large")
    return number
