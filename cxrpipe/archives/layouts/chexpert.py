"""CheXpert (Irvin et al., AAAI 2019): the zip of small JPEGs, or the four of the full set. A study has 1 to 3 views.

The archive is published in two parts, train and valid, which are kept: it has no test part unless `test.csv` is there.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.labels import finding, parse_age, parse_label, parse_sex, parse_view_position
from cxrpipe.archives.layouts.base import Found, Group, Unmatched, group
from cxrpipe.archives.listing import Names
from cxrpipe.errors import ConfigError
from cxrpipe.records import Study

NAME = "chexpert"
TABLES = {"train.csv": "train", "valid.csv": "valid", "test.csv": "test"}
COLUMNS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""What CheXpert's labeler looks for, apart from "No Finding"."""
# What stands before the patient differs: CheXpert-v1.0-small/train/, CheXpert-v1.0/train/, the name of the batch.
_VIEW = re.compile(r"(?:^|/)((patient\d+)/study\d+)/(view\d+_(frontal|lateral))\.jpg$")
_PART = re.compile(r"(?:^|/)(train|valid|test)/patient\d+/")


class _Row(NamedTuple):
    """What the tables say of a study."""

    labels: dict[str, float | None]
    split: str
    patient_age: float | None
    patient_sex: str | None


def recognise(names: Names) -> str | None:
    name = next((name for name in names if _VIEW.search(name)), None)
    return f"found {name}" if name else None


def studies(catalogue: Catalogue) -> Iterator[Found]:
    rows, positions = _read_tables(catalogue)
    official = {study_id.partition("/")[0]: row.split for study_id, row in rows.items()}
    for found in group(catalogue.images(), _place, "not named as a CheXpert image"):
        if not isinstance(found, Group):
            yield found
            continue
        study_id, files = found
        patient = study_id.partition("/")[0]
        row = rows.pop(study_id, None)
        yield Study(
            study_id=study_id,
            patient_id=patient,
            views=tuple(
                view_of(file, positions.get(f"{study_id}/{view}") or parse_view_position(view))
                for view, file in files.items()
            ),
            split=official.get(patient) or _part(next(iter(files.values()))),
            labels=row.labels if row else dict.fromkeys(map(finding, COLUMNS)),
            patient_age=row.patient_age if row else None,
            patient_sex=row.patient_sex if row else None,
        )
    yield from map(Unmatched, rows)


def labels_of(row: Mapping[str, str], where: str) -> dict[str, float | None]:
    """The row's own labels, raw; a column that is not there mentions nothing."""
    return {finding(column): parse_label(row.get(column) or "", where) for column in COLUMNS}


def _read_tables(catalogue: Catalogue) -> tuple[dict[str, _Row], dict[str, str | None]]:
    """Study id → its row; study id and view → view position. All rows of a study must say the same."""
    rows: dict[str, _Row] = {}
    positions = {}
    for name, split in TABLES.items():
        table = catalogue.find(name)
        for row in catalogue.rows(table, "Path") if table else ():
            view = _VIEW.search(row["Path"])
            if view is None:
                raise ConfigError(f"{name}: Path {row['Path']!r}; expected …/patient00001/study1/view1_frontal.jpg")
            study_id = view[1]
            said = _Row(
                labels=labels_of(row, f"{name}: {study_id}"),
                split=split,
                patient_age=parse_age(row.get("Age") or ""),
                patient_sex=parse_sex(row.get("Sex") or ""),
            )
            if rows.setdefault(study_id, said) != said:
                raise ConfigError(f"{name}: the rows of {study_id} differ; expected one set of labels for a study")
            positions[f"{study_id}/{view[3]}"] = parse_view_position(row.get("AP/PA") or "")
    return rows, positions


def _place(file: File) -> tuple[str, str] | None:
    view = _VIEW.search(file.name)
    return (view[1], view[3]) if view else None


def _part(file: File) -> str | None:
    part = _PART.search(file.name)
    return part[1] if part else None
