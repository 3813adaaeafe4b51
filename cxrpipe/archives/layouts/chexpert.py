"""CheXpert (Irvin et al., AAAI 2019): the zip of small JPEGs, or the four of the full set. A study has 1 to 3 views.

The archive is published in two parts, train and valid, which stay. It has a test part only where it holds `test.csv`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.labels import agreed, parse_age, parse_label, parse_sex, parse_view_position
from cxrpipe.archives.layouts.base import CONTRADICTION, Found, Group, Layout, Remark, Unmatched, group
from cxrpipe.archives.listing import Names
from cxrpipe.errors import ConfigError
from cxrpipe.models.spelling import finding
from cxrpipe.records import Study
from cxrpipe.records.splits import more_held_out

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
"""The findings of CheXpert's labeler, without "No Finding"."""
MORE_COLUMNS = ("Sex", "Age", "AP/PA", *COLUMNS)
# The folder above the patient differs: CheXpert-v1.0-small/train/, CheXpert-v1.0/train/, or the name of the batch.
_VIEW = re.compile(r"(?:^|/)((patient\d+)/study\d+)/(view\d+_(frontal|lateral))\.\w+$")
_PART = re.compile(r"(?:^|/)(train|valid|test)/patient\d+/")


class _Row(NamedTuple):
    """The row of a study in the tables."""

    labels: dict[str, float | None]
    split: str
    patient_age: float | None
    patient_sex: str | None

    def united(self, other: "_Row") -> "_Row":
        """Keep what both rows say, and None where they contradict each other. The more held-out split stays."""
        return _Row(
            labels=agreed(self.labels, other.labels),
            split=more_held_out(self.split, other.split),
            patient_age=self.patient_age if self.patient_age == other.patient_age else None,
            patient_sex=self.patient_sex if self.patient_sex == other.patient_sex else None,
        )


def recognise(names: Names) -> str | None:
    name = next((name for name in names if _VIEW.search(name)), None)
    return f"found {name}" if name else None


def studies(catalogue: Catalogue) -> Iterator[Found]:
    rows, positions, contradictions = _read_tables(catalogue)
    official: dict[str, str] = {}
    for study_id, row in rows.items():
        patient = study_id.partition("/")[0]
        official[patient] = more_held_out(row.split, official.get(patient, row.split))
    for item in group(catalogue.images(), _place, "not named as a CheXpert image"):
        if not isinstance(item, Group):
            yield item
            continue
        study_id, files = item
        patient = study_id.partition("/")[0]
        of_study = rows.pop(study_id, None)
        yield Study(
            study_id=study_id,
            patient_id=patient,
            views=tuple(
                view_of(file, positions.get(f"{study_id}/{view}") or parse_view_position(view))
                for view, file in files.items()
            ),
            split=official.get(patient) or _part(next(iter(files.values()))),
            labels=of_study.labels if of_study else dict.fromkeys(map(finding, COLUMNS)),
            patient_age=of_study.patient_age if of_study else None,
            patient_sex=of_study.patient_sex if of_study else None,
        )
    yield from (Remark(CONTRADICTION, study_id) for study_id in contradictions)
    yield from map(Unmatched, rows)


def labels_of(row: Mapping[str, str], where: str) -> dict[str, float | None]:
    """Read the raw labels of a row. A missing column mentions nothing, but at least one column must be there."""
    if not any(column in row for column in COLUMNS):
        raise ConfigError(f"{where}: columns {', '.join(row)}; expected labels such as {', '.join(COLUMNS[:3])}")
    return {finding(column): parse_label(row.get(column) or "", where) for column in COLUMNS}


def _read_tables(catalogue: Catalogue) -> tuple[dict[str, _Row], dict[str, str | None], dict[str, None]]:
    """Read study id → its row, study id and view → view position, and the studies whose rows contradict each other."""
    rows: dict[str, _Row] = {}
    positions = {}
    contradictions: dict[str, None] = {}
    for name, split in TABLES.items():
        table = catalogue.find(name)
        for row in catalogue.rows(table, ("Path",), MORE_COLUMNS) if table else ():
            view = _VIEW.search(row["Path"].replace("\\", "/"))
            if view is None:
                raise ConfigError(
                    f"{row.where}: Path {row['Path']!r}; expected …/patient00001/study1/view1_frontal.jpg"
                )
            study_id = view[1]
            of_study = _Row(
                labels=labels_of(row, f"{row.where}: study {study_id}"),
                split=split,
                patient_age=parse_age(row.get("Age") or ""),
                patient_sex=parse_sex(row.get("Sex") or ""),
            )
            before = rows.setdefault(study_id, of_study)
            if before != of_study:
                rows[study_id] = before.united(of_study)
                contradictions[study_id] = None
            positions[f"{study_id}/{view[3]}"] = parse_view_position(row.get("AP/PA") or "")
    return rows, positions, contradictions


def _place(file: File) -> tuple[str, str] | None:
    view = _VIEW.search(file.name)
    return (view[1], view[3]) if view else None


def _part(file: File) -> str | None:
    part = _PART.search(file.name)
    return part[1] if part else None


LAYOUT = Layout(name="chexpert", recognise=recognise, studies=studies)
