"""Reads CSV files and lists as people and programs write them. Every layout reads its tables here.

Accepted are UTF-8, and UTF-16 with a byte order mark; any line ends; commas, semicolons, tabs and bars between columns;
column names in any case, with spaces, `_` or `-` between their words. Other files are refused in one line that says
what was found. Encodings of one byte, such as Windows-1252, are refused and not guessed: a wrong guess changes file
names.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from cxrpipe.errors import ConfigError

if TYPE_CHECKING:
    import _csv

SEPARATORS = (",", ";", "\t", "|")
_SHOWN = 120
"""Number of characters of a header that an error shows."""
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_FIELD_BYTES = 10 << 20
"""Size of the longest cell. A quote that is never closed makes longer ones."""


class Row(dict[str, str]):
    """The cells of a row by column name, without spaces around them."""

    def __init__(self, cells: Iterable[tuple[str, str]], where: str) -> None:
        super().__init__(cells)
        self.where = where
        """Place of the row, for messages: `s3://bucket/table.csv: line 7`."""


def read_rows(data: bytes, name: str, needed: Sequence[str], known: Sequence[str] = ()) -> Iterator[Row]:
    """Read the rows of a CSV file, in order, without empty ones.

    needed, known  columns that the file must have, and those that it may have. Rows have these names, however the file
                   spells them: `Image Index` for ` image index`
    """
    text = decoded(data, name)
    body, separator = _without_declaration(text)
    first_line = 1 if body is text else 2
    header_line = body.lstrip("\r\n").partition("\n")[0].partition("\r")[0]
    separator = separator or max(SEPARATORS, key=lambda mark: _matches(header_line, mark, [*needed, *known]))
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    lines = _numbered(reader, name, first_line)
    header_number, header = next(lines, (0, []))
    columns = named_columns(header, [*needed, *known], name)
    if missing := [column for column in needed if column not in columns]:
        raise ConfigError(
            f"{name}: no column {' and no column '.join(missing)}; the header in line {header_number} reads "
            f"{header_line[:_SHOWN]!r}; expected columns such as {', '.join(needed)}"
        )
    count = 0
    for number, cells in lines:
        where = f"{name}: line {number}"
        if any(cells[len(columns) :]):
            raise ConfigError(f"{where} has more cells than the header ({len(cells)}, {len(columns)})")
        row = Row(zip(columns, cells, strict=False), where)
        if missing := [column for column in needed if column not in row]:
            raise ConfigError(f"{where} has no {' and no '.join(missing)}: it has fewer cells than the header")
        if broken := [column for column in needed if "\n" in row[column] or "\r" in row[column]]:
            raise ConfigError(f"{where}: the {broken[0]} has a line break in it; is a quote not closed?")
        count += 1
        yield row
    if not count:
        raise ConfigError(f"{name}: a header without rows, {header_line[:_SHOWN]!r}; expected a row for every image")


def read_names(data: bytes, name: str) -> list[str]:
    """Read a list of names: one a line, or separated by commas or semicolons. Quotes and folders are dropped."""
    words = re.split(r"[\s,;]+", decoded(data, name).replace('"', " "))
    return [re.split(r"[/\\]", word)[-1] for word in words if word]


def decoded(data: bytes, name: str) -> str:
    """Decode the text of a CSV file or a list; ConfigError where it is neither UTF-8 nor marked as UTF-16."""
    encoding = next((encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{name}: not a CSV file in UTF-8: line {line} holds the byte 0x{data[error.start]:02x}; if it is "
            f"Windows-1252 (Excel), convert it: iconv -f WINDOWS-1252 -t UTF-8 {name.rpartition('/')[2]} > utf8.csv"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError(f"{name}: not a CSV file: line {line} holds a NUL; expected text in UTF-8")
    if not text.strip():
        raise ConfigError(f"{name}: not a CSV file: it is empty; expected a header and rows")
    return text


def spelled(column: str) -> str:
    """Reduce a column name to what all its spellings share: ` Image index` and `image_index` become `imageindex`."""
    return re.sub(r"[\s_-]+", "", column).casefold()


def _without_declaration(text: str) -> tuple[str, str | None]:
    """Split off Excel's `sep=;`: the text after it, and the separator that it declares."""
    declared = re.match(r'"?sep=(.)"?[;,\t]*\r?\n?', text, re.IGNORECASE)
    return (text[declared.end() :], declared[1]) if declared else (text, None)


def _matches(header: str, separator: str, known: Sequence[str]) -> tuple[int, int]:
    """Count the known columns that the header has under a separator, and all its columns."""
    names = [name.strip().strip('"') for name in header.split(separator)]
    return len({spelled(name) for name in names} & set(map(spelled, known))), len(names)


def _numbered(reader: "_csv.Reader", name: str, first_line: int) -> Iterator[tuple[int, list[str]]]:
    """Yield rows that are not empty, with the numbers of their first lines."""
    csv.field_size_limit(_FIELD_BYTES)
    number = 0
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield first_line + number, cells
            number = reader.line_num
    except csv.Error as error:
        raise ConfigError(f"{name}: not a CSV file: line {first_line + number} and after ({error})") from None


def named_columns(header: Sequence[str], known: Sequence[str], name: str) -> list[str]:
    """Rename the known columns of a header to their known names; ConfigError where a known column is there twice."""
    names = {spelled(column): column for column in known}
    columns = [names.get(spelled(column), column) for column in header]
    for column in known:
        if columns.count(column) > 1:
            twice = ", ".join(repr(written) for written in header if spelled(written) == spelled(column))
            raise ConfigError(f"{name}: the header has {column} twice ({twice}); expected it once")
    return columns
