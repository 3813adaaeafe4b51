"""What `predict` prints: a table that fits the terminal, and a sentence for every file that is not simply scored."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len, set_cell_size

from cxrpipe.models.ensemble import Ensemble
from cxrpipe.report.words import votes
from cxrpipe.scoring.prepare import Row

_STUDY_CELLS = 28
"""The longest name of a study in the table. A longer name loses its middle."""
_GAP = "  "


def lines_of(rows: Sequence[Row], ensemble: Ensemble, width: int) -> Iterator[str]:
    """Score rows, with every column → lines of at most `width` cells, but for the sentences below the table."""
    columns = [
        ["study", *(_shortened(row["study_id"], min(_STUDY_CELLS, width // 3)) for row in rows)],
        ["status", *(row["status"] for row in rows)],
    ]
    lungs = [["lungs", *map(_lungs, rows)]] if ensemble.segmenters else []
    top = _highest(rows, ensemble.findings, width - sum(_cells(column) + len(_GAP) for column in columns + lungs))
    columns += [[finding, *(_cell(row, finding) for row in rows)] for finding in top]
    for line in zip(*map(_aligned, columns + lungs), strict=True):
        yield _GAP.join(line).rstrip()
    if top:
        yield "Probability (votes of members); * where the members agree on yes."
    if others := len(ensemble.findings) - len(top):
        yield f"{others} more findings, less probable, are in scores.parquet."
    for row in rows:
        if row["reason"]:
            yield f"{row['study_id']}: {row['reason']}: {row['detail']}"
        elif row["study_id"] not in row["views"][0]["url"]:
            yield f"{row['study_id']}: {row['views'][0]['url']}"  # its id has a number: another file has the same name
        if row["flags"]:
            yield f"{row['study_id']}: look at it, flagged {', '.join(row['flags'])}"


def _highest(rows: Sequence[Row], findings: Sequence[str], width: int) -> list[str]:
    """The findings with the highest probabilities, as many as have room, in the order of the cards; one at least."""
    by_height = sorted(findings, key=lambda finding: -max(row[f"prob_{finding}"] or 0.0 for row in rows))
    fitting: list[str] = []
    for finding in by_height:
        width -= _cells([finding, *(_cell(row, finding) for row in rows)]) + len(_GAP)
        if width < 0 and fitting:
            break
        fitting.append(finding)
    return [finding for finding in findings if finding in fitting]


def _cell(row: Row, finding: str) -> str:
    if row[f"prob_{finding}"] is None:
        return ""
    yes, members = votes(row, finding)
    star = "*" if row[f"consensus_{finding}"] else " "
    return f"{row[f'prob_{finding}']:.2f} ({yes}/{members}){star}"


def _lungs(row: Row) -> str:
    fraction = row["views"][0]["lung_fraction"]
    return "" if fraction is None else f"{fraction:.0%}"


def _cells(column: Sequence[str]) -> int:
    return max(map(cell_len, column))


def _aligned(column: Sequence[str]) -> list[str]:
    width = _cells(column)
    return [set_cell_size(cell, width) for cell in column]


def _shortened(name: str, width: int) -> str:
    """The name, without its middle where it has more than `width` cells: names differ at either end."""
    if cell_len(name) <= width:
        return name
    begin, end = name, name
    while cell_len(begin) > (width - 1) // 2:
        begin = begin[:-1]
    while cell_len(end) > (width - 1) // 2:
        end = end[1:]
    return f"{begin}…{end}"
