"""PadChest (Bustos et al., 2020): zips of 16-bit PNGs and one CSV. A study has several views."""

import ast
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.labels import finding, is_nothing, parse_sex, parse_view_position
from cxrpipe.archives.layouts.base import Found, Group, Skipped, Unmatched, group
from cxrpipe.archives.listing import Names
from cxrpipe.errors import ConfigError
from cxrpipe.records import Study

NAME = "padchest"
TABLE = "PADCHEST_*.csv*"
REMARKS = {"exclude", "suboptimal study", "unchanged"}
"""Labels that tell of the report and not of the chest; where nothing else is said, nothing is known."""
NO_CHEST = {"COSTAL", "EXCLUDE"}
"""Projections that are left out: ribs, and what the authors excluded."""


class _Image(NamedTuple):
    """A row of the table."""

    study_id: str
    patient_id: str | None
    projection: str
    present: frozenset[str] | None
    """Findings; null: nothing is known."""
    patient_age: float | None
    patient_sex: str | None


def recognise(names: Names) -> str | None:
    table = names.find(TABLE)
    return f"found {table}" if table else None


def studies(catalogue: Catalogue) -> Iterator[Found]:
    images = _read_table(catalogue)
    findings = sorted(set().union(*(image.present for image in images.values() if image.present)))
    labels: dict[str, frozenset[str]] = {}  # the first row of a study that has labels: a row is whole or not used
    for image in images.values():
        if image.present is not None:
            labels.setdefault(image.study_id, image.present)

    def place(file: File) -> tuple[str, str] | None:
        name = file.name.rpartition("/")[2]
        return (images[name].study_id, name) if name in images else None

    left = {image.study_id: None for image in images.values()}
    for found in group(catalogue.images(), place, "no row in the table of PadChest"):
        if not isinstance(found, Group):
            yield found
            continue
        study_id, files = found
        left.pop(study_id)
        views = []
        for name, file in files.items():
            projection = images[name].projection
            if projection in NO_CHEST:
                yield Skipped(file.url, file.entry, f"projection {projection}: not a chest radiograph")
            else:
                views.append((view_of(file, parse_view_position(projection)), images[name]))
        if not views:
            continue
        present = labels.get(study_id)
        yield Study(
            study_id=study_id,
            patient_id=views[0][1].patient_id,
            views=tuple(view for view, _ in views),
            labels={name: None if present is None else float(name in present) for name in findings},
            patient_age=views[0][1].patient_age,
            patient_sex=views[0][1].patient_sex,
        )
    yield from map(Unmatched, left)


def _read_table(catalogue: Catalogue) -> dict[str, _Image]:
    """Image name → its row. The report, which the table holds too, is not kept."""
    table = catalogue.find(TABLE)
    if table is None:
        raise ConfigError(f"{catalogue.archive}: no {TABLE}; the padchest layout needs it for studies and labels")
    images = {}
    for row in catalogue.rows(table, "ImageID", "StudyID", "PatientID", "Projection", "Labels"):
        images[row["ImageID"].strip()] = _Image(
            study_id=row["StudyID"],
            patient_id=row["PatientID"] or None,
            projection=row["Projection"].strip().upper(),
            present=_present(row["Labels"], f"{table.url}: {row['ImageID']}"),
            patient_age=_age(row),
            patient_sex=parse_sex(row.get("PatientSex_DICOM") or ""),
        )
    return images


def _present(text: str, where: str) -> frozenset[str] | None:
    """`[' pneumonia', 'unchanged']` → {Pneumonia}: every label as a whole, never a part of one."""
    if text.strip() in ("", "nan"):
        return None
    try:
        listed = ast.literal_eval(text)
        labels = {label.strip() for label in listed} - {""}
    except (ValueError, SyntaxError, TypeError, AttributeError):
        raise ConfigError(f"{where}: Labels {text!r}; expected a list such as ['pneumonia', 'unchanged']") from None
    said = labels - REMARKS
    if not said or "exclude" in labels:
        return None
    return frozenset(_spelled(label) for label in said if not is_nothing(label))


def _spelled(label: str) -> str:
    """`pleural effusion` → `Pleural_Effusion`, as other archives have it; `NSG tube` → `NSG_Tube`."""
    return finding(" ".join(word[:1].upper() + word[1:] for word in label.split()))


def _age(row: Mapping[str, str]) -> float | None:
    """Years between the year of birth and the year of the study; the table has no closer."""
    born = re.match(r"\d{4}", row.get("PatientBirth") or "")
    taken = re.match(r"\d{4}", row.get("StudyDate_DICOM") or "")
    return float(int(taken[0]) - int(born[0])) if born and taken else None
