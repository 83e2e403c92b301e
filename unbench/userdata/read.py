"""Files and hub data sets as records that know where they stand: every mistake names its file and line.

Lines are counted from 1 as an editor shows them (a CSV record whose cells hold line breaks is at its first line);
Parquet files and hub data sets have rows instead, counted from 1. Text is UTF-8, with or without a byte order mark.
Nothing that a cell holds is ever executed.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from unbench.errors import UsageError
from unbench.taskfile import TRY_NEXT, Document, Place, read_yaml, shown
from unbench.userdata.spec import Format, Source

MAX_BYTES = 256 * 2**20
"""Largest data file (and largest Parquet table once unpacked): everything is held in memory, and every row is asked."""
MAX_ROWS = 200_000
MAX_SPEC_BYTES = 2**20
MAX_DEPTH = 8
"""A task file has three levels; deeper ones are a mistake or an attack."""

_ENDINGS: dict[str, Format] = {
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_BOMS = ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


@dataclass(frozen=True)
class Where:
    """Where a record stands."""

    file: str
    unit: Literal["line", "row"]
    number: int

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}"

    def error(self, problem: str, try_next: str = TRY_NEXT) -> UsageError:
        return UsageError(f"{self}: {problem}", try_next)


@dataclass(frozen=True)
class Record:
    """One row as it was read: column -> value (text in CSV, anything in JSON and Parquet)."""

    values: dict[str, Any]
    where: Where


@dataclass(frozen=True)
class Table:
    """One file or data set."""

    name: str
    """Its name as the task file gives it, without folders of this machine."""
    columns: tuple[str, ...]
    records: list[Record]
    sha256: str
    """Of the file's bytes; of the rows as canonical JSON lines where they come from the hub."""
    header: Where
    """Where a missing column is to be told."""


def read_spec(path: Path) -> Document:
    """The task file, unchecked but for what would harm the reader: size, nesting, and YAML's aliases, by which a few
    lines unfold into gigabytes."""
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise UsageError(f"{shown(path)} is not a file.", "Name the task file, such as my.yaml.")
    if path.is_file():
        if path.suffix.lower() in _ENDINGS:
            raise UsageError(
                f"{shown(path)} holds rows; a task is a YAML file that names them.",
                "'unbench new-task NAME' writes one to start from.",
            )
        if path.stat().st_size > MAX_SPEC_BYTES:
            raise UsageError(
                f"{shown(path)} is too large for a task file (over 1 MiB).", "Put rows into files beside it."
            )
        _refuse_bombs(path)
    return read_yaml(path)


def _refuse_bombs(path: Path) -> None:
    text = _text(path.read_bytes(), shown(path))
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.AliasEvent):
                raise UsageError(f"{shown(path)}, line {line}: a task file has no aliases (*{event.anchor}).", TRY_NEXT)
            if depth > MAX_DEPTH:
                raise UsageError(f"{shown(path)}, line {line}: this is nested too deep for a task file.", TRY_NEXT)
    except yaml.YAMLError:
        return  # read_yaml says what is wrong, and where


def read_table(source: Source, document: Document, place: Place) -> Table:
    """The rows that a section of the task file names.

    Raises ``UsageError`` with file and line for a missing, empty, damaged or too large file, ``EnvironmentProblem``
    where the hub can't be reached.
    """
    if source.hub is not None:
        from unbench.userdata.hub import read_hub

        return read_hub(source, document, place)
    path, kind = _find(source, document, place)
    name = path.name if Path(str(source.data)).is_absolute() else Path(str(source.data)).as_posix()
    where = shown(path)
    if path.stat().st_size > MAX_BYTES:
        raise document.error((*place, "data"), f"{where} has over {MAX_BYTES >> 20} MiB; take a part of it.")
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise document.error((*place, "data"), f"{where} can't be read ({problem.strerror}).") from None
    if not data.strip():
        raise UsageError(f"{where}: the file is empty.", TRY_NEXT)
    if kind == "parquet":
        columns, records = _parquet(path, where)
    else:
        text = _text(data, where)
        if kind in ("csv", "tsv"):
            columns, records = _csv(text, where, source.delimiter or ("\t" if kind == "tsv" else ","))
        else:
            columns, records = _objects(_json_lines(text, where) if kind == "jsonl" else _json_list(text, where))
    header = Where(where, "row" if kind == "parquet" else "line", 1)
    if not records:
        raise UsageError(f"{where}: there are no rows in it.", TRY_NEXT)
    if len(records) > MAX_ROWS:
        raise UsageError(f"{where}: {len(records)} rows, more than {MAX_ROWS}; take a part of them.", TRY_NEXT)
    return Table(name, columns, records, hashlib.sha256(data).hexdigest(), header)


def _find(source: Source, document: Document, place: Place) -> tuple[Path, Format]:
    given = Path(str(source.data)).expanduser()
    path = document.path.parent / given
    if not path.exists():
        names = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise document.error((*place, "data"), f"there is no file {shown(path)!r}{hint}")
    if not path.is_file():
        raise document.error((*place, "data"), f"{shown(path)!r} is not a file.")
    kind = source.format or _ENDINGS.get(path.suffix.lower())
    if kind is None:
        known = ", ".join(get_args(Format))
        raise document.error(
            (*place, "data"), f"the format of {shown(path)!r} is unknown; save it as one of {known}, or add format:."
        )
    return path, kind


def _text(data: bytes, where: str) -> str:
    for mark, name in _BOMS:
        if data.startswith(mark):
            raise UsageError(f"{where}, line 1: the text is {name}, not UTF-8.", "Save the file as UTF-8.")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if (at := data.find(b"\0")) >= 0:
        raise UsageError(
            f"{where}, line {_line(data, at)}: there is a NUL byte, so this is no UTF-8 text.", "Save it as UTF-8 text."
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as bad:
        raise UsageError(
            f"{where}, line {_line(data, bad.start)}: the byte 0x{data[bad.start]:02x} is not UTF-8.",
            "Save the file as UTF-8 (spreadsheets call it 'CSV UTF-8').",
        ) from None


def _line(data: bytes, at: int) -> int:
    return data.count(b"\n", 0, at) + 1


def _csv(text: str, where: str, delimiter: str) -> tuple[tuple[str, ...], list[Record]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    records = []
    before = 0
    while True:
        at = Where(where, "line", before + 1)
        try:
            cells = next(reader, None)
        except csv.Error as broken:
            raise at.error(f"this is not valid CSV ({_csv_words(str(broken))}).") from None
        before = reader.line_num
        if cells is None:
            break
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = _header(cells, at, delimiter)
            continue
        if len(cells) != len(header):
            raise at.error(
                f"{_count(len(cells), 'cell')} under {_count(len(header), 'column')}; "
                f"a cell that holds {_spoken(delimiter)} needs quotes around it."
            )
        records.append(Record(dict(zip(header, cells, strict=True)), at))
    return tuple(header or ()), records


def _header(cells: list[str], at: Where, delimiter: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    named = [name for name in header if name]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise at.error(f"the column {twice!r} is there twice.")
    other = next((mark for mark in ";\t," if mark != delimiter and mark in header[0]), None)
    if len(header) == 1 and other is not None:
        raise at.error(
            f"there is one column, {header[0]!r}; are the cells separated by {_spoken(other)}?",
            f"Say so in the task file: delimiter: {json.dumps(other)}.",
        )
    return header


def _csv_words(problem: str) -> str:
    if "unexpected end of data" in problem:
        return "a quotation mark is opened here and never closed"
    if "field larger than field limit" in problem:
        return f"a cell has over {csv.field_size_limit():,} characters; is a quotation mark never closed?"
    return problem


def _spoken(mark: str) -> str:
    return {",": "commas", ";": "semicolons", "\t": "tabs"}.get(mark, repr(mark))


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _json_lines(text: str, where: str) -> Iterator[tuple[Where, Any]]:
    # Not splitlines: it would also break at U+2028, which may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        at = Where(where, "line", number)
        try:
            yield at, json.loads(line)
        except json.JSONDecodeError as broken:
            raise at.error(f"this is not valid JSON ({broken.msg}, column {broken.colno}).") from None
        except (ValueError, RecursionError):
            raise at.error("this is not valid JSON (a number too long, or nested too deep).") from None


def _json_list(text: str, where: str) -> Iterator[tuple[Where, Any]]:
    """The entries of one JSON list, each with the line it starts in."""
    decoder = json.JSONDecoder()
    at, line = 0, 1

    def skip(position: int) -> int:
        while position < len(text) and text[position] in " \t\r\n":
            position += 1
        return position

    def error(problem: str) -> UsageError:
        return Where(where, "line", line).error(problem)

    position = skip(0)
    if text[position : position + 1] != "[":
        line += text.count("\n", 0, position)
        raise error("a list of rows is wanted, [{…}, {…}]; give one object a line the ending .jsonl.")
    position = skip(position + 1)
    while text[position : position + 1] != "]":
        line += text.count("\n", at, position)
        at = position
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as broken:
            line = broken.lineno
            raise error(f"this is not valid JSON ({broken.msg}, column {broken.colno}).") from None
        except (ValueError, RecursionError):
            raise error("this is not valid JSON (a number too long, or nested too deep).") from None
        yield Where(where, "line", line), value
        position = skip(position)
        mark, after = text[position : position + 1], skip(position + 1)
        if mark == "," and text[after : after + 1] != "]":
            position = after
        elif mark != "]":
            line = text.count("\n", 0, position) + 1
            raise error("this is not valid JSON (a comma or the list's end is wanted).")
    if skip(position + 1) < len(text):
        line = text.count("\n", 0, skip(position + 1)) + 1
        raise error("there is something behind the end of the list.")


def _objects(values: Iterator[tuple[Where, Any]]) -> tuple[tuple[str, ...], list[Record]]:
    columns: dict[str, None] = {}
    records = []
    for at, value in values:
        if not isinstance(value, dict):
            raise at.error(f'an object is wanted, such as {{"question": …}}, not {kind_of(value)}.')
        columns |= dict.fromkeys(value)
        records.append(Record(value, at))
    return tuple(columns), records


def _parquet(path: Path, where: str) -> tuple[tuple[str, ...], list[Record]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
            if unpacked > MAX_BYTES or metadata.num_rows > MAX_ROWS:
                raise UsageError(
                    f"{where}: {metadata.num_rows} rows of {unpacked >> 20} MiB, over {MAX_ROWS} rows or "
                    f"{MAX_BYTES >> 20} MiB; take a part of it.",
                    TRY_NEXT,
                )
            table = file.read()
    except (pa.ArrowException, OSError) as problem:
        first = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise UsageError(f"{where}: this can't be read as Parquet ({first.rstrip('.')}).", TRY_NEXT) from None
    records = [Record(row, Where(where, "row", i)) for i, row in enumerate(table.to_pylist(), 1)]
    return tuple(table.column_names), records


def kind_of(value: Any) -> str:
    """What a value is, in a user's words, with the value where it is short."""
    if value is None:
        return "nothing"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    name = next((words for kind, words in names.items() if isinstance(value, kind)), type(value).__name__)
    return f"{name} ({str(value)[:40]})" if isinstance(value, int | float) and not isinstance(value, bool) else name
