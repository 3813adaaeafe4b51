"""MIMIC-CXR-JPG 2.x (Johnson et al., 2019): a tree of JPEGs and gzipped CSVs. A study has several views."""

import re
from collections.abc import Iterator

from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.labels import agreed, parse_view_position
from cxrpipe.archives.layouts.base import (
    CONTRADICTION,
    KEPT_APART,
    Found,
    Group,
    Layout,
    Remark,
    Unmatched,
    by_patient,
    group,
)
from cxrpipe.archives.layouts.chexpert import COLUMNS, labels_of
from cxrpipe.archives.listing import Names
from cxrpipe.errors import ConfigError
from cxrpipe.models.spelling import finding
from cxrpipe.records import Study
from cxrpipe.records.splits import more_held_out

METADATA = "mimic-cxr-2.*-metadata.csv*"
LABELS = "mimic-cxr-2.*-chexpert.csv*"
SPLITS = "mimic-cxr-2.*-split.csv*"
TEST_LABELS = "mimic-cxr-2.*-test-set-labeled.csv*"
"""Since 2.1.0: labels of the test studies, read by people. A row replaces the whole row of the labeler."""
_IMAGE = re.compile(r"(?:^|/)p\d{2}/p(\d{8})/s(\d{8})/([0-9a-f-]+)\.\w+$")
_SPLIT = {"train": "train", "validate": "valid", "test": "test"}


def recognise(names: Names) -> str | None:
    table = names.find(METADATA)
    return f"found {table}" if table else None


def studies(catalogue: Catalogue) -> Iterator[Found]:
    table = catalogue.table(METADATA, "mimic-cxr-jpg", "view positions")
    positions, contradictions = _read_positions(catalogue, table), dict[str, None]()
    splits = _read_splits(catalogue, contradictions)
    labels, unknown = _read_labels(catalogue, contradictions), dict.fromkeys(map(finding, COLUMNS))
    without_image = dict.fromkeys(labels)
    for item in group(catalogue.images(), _place, "not named as a MIMIC-CXR-JPG image"):
        if not isinstance(item, Group):
            yield item
            continue
        without_image.pop(item.study_id, None)
        apart = by_patient(item.study_id, item.files.items(), lambda view: _patient(view[1]))
        for study_id, files in apart.items():
            patient = _patient(files[0][1])
            yield Study(
                study_id=study_id,
                patient_id=patient,
                views=tuple(view_of(file, positions.get(dicom_id)) for dicom_id, file in files),
                split=splits.get(patient) or splits.get(item.study_id),
                labels=labels.get(item.study_id, unknown),
            )
            if len(apart) > 1:
                yield Remark(KEPT_APART, study_id)
    yield from (Remark(CONTRADICTION, study_id) for study_id in contradictions)
    yield from map(Unmatched, without_image)


def _read_positions(catalogue: Catalogue, table: File) -> dict[str, str | None]:
    """Read image → view position."""
    return {
        row["dicom_id"].removesuffix(".jpg"): parse_view_position(row["ViewPosition"])
        for row in catalogue.rows(table, ("dicom_id", "ViewPosition"))
    }


def _read_splits(catalogue: Catalogue, contradictions: dict[str, None]) -> dict[str, str]:
    """Read patient or study → split. Of two splits of one patient the more held-out one stays.

    The split of a study counts where its patient has none.
    """
    splits: dict[str, str] = {}
    table = catalogue.find(SPLITS)
    for row in catalogue.rows(table, ("study_id", "subject_id", "split")) if table else ():
        split = _SPLIT.get(row["split"].lower())
        if split is None:
            raise ConfigError(f"{row.where}: split {row['split']!r}; expected train, validate or test")
        for name in (_number(row["study_id"]), _number(row["subject_id"])):
            if splits.setdefault(name, split) != split:
                splits[name] = more_held_out(splits[name], split)
                contradictions[name] = None
    return splits


def _read_labels(catalogue: Catalogue, contradictions: dict[str, None]) -> dict[str, dict[str, float | None]]:
    """Read study → labels. Where a table has several rows of a study, the labels on which they agree stay."""
    labels: dict[str, dict[str, float | None]] = {}
    for pattern in (LABELS, TEST_LABELS):
        table = catalogue.find(pattern)
        of_table: dict[str, dict[str, float | None]] = {}
        for row in catalogue.rows(table, ("study_id",), (*COLUMNS, "Airspace Opacity")) if table else ():
            if "Airspace Opacity" in row:  # the name that the readers of the test studies use
                row["Lung Opacity"] = row["Airspace Opacity"]
            study_id = _number(row["study_id"])
            of_row = labels_of(row, f"{row.where}: study {study_id}")
            if of_table.setdefault(study_id, of_row) != of_row:
                of_table[study_id] = agreed(of_table[study_id], of_row)
                contradictions[study_id] = None
        labels |= of_table
    return labels


def _number(text: str) -> str:
    """Read `50414267` from `50414267.0`, which pandas writes for a column with gaps."""
    return text.removesuffix(".0")


def _place(file: File) -> tuple[str, str] | None:
    image = _IMAGE.search(file.name)
    return (image[2], image[3]) if image else None


def _patient(file: File) -> str:
    image = _IMAGE.search(file.name)
    assert image  # `group` gives files with a place only
    return image[1]


LAYOUT = Layout(name="mimic-cxr-jpg", recognise=recognise, studies=studies)
