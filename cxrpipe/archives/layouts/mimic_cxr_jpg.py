"""MIMIC-CXR-JPG 2.x (Johnson et al., 2019): a tree of JPEGs and gzipped CSVs. A study has several views."""

import re
from collections.abc import Iterator

from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.labels import finding, parse_view_position
from cxrpipe.archives.layouts.base import Found, Group, Unmatched, group
from cxrpipe.archives.layouts.chexpert import COLUMNS, labels_of
from cxrpipe.archives.listing import Names
from cxrpipe.errors import ConfigError
from cxrpipe.records import Study

NAME = "mimic-cxr-jpg"
METADATA = "mimic-cxr-2.*-metadata.csv*"
LABELS = "mimic-cxr-2.*-chexpert.csv*"
SPLITS = "mimic-cxr-2.*-split.csv*"
TEST_LABELS = "mimic-cxr-2.*-test-set-labeled.csv*"
"""Since 2.1.0: the test studies, read by people. Its row stands for the labeler's, as a whole."""
_IMAGE = re.compile(r"(?:^|/)p\d{2}/p(\d{8})/s(\d{8})/([0-9a-f-]+)\.jpg$")
_SPLIT = {"train": "train", "validate": "valid", "test": "test"}


def recognise(names: Names) -> str | None:
    table = names.find(METADATA)
    return f"found {table}" if table else None


def studies(catalogue: Catalogue) -> Iterator[Found]:
    table = catalogue.find(METADATA)
    if table is None:
        raise ConfigError(f"{catalogue.archive}: no {METADATA}; the mimic-cxr-jpg layout needs it for view positions")
    positions = {
        row["dicom_id"]: parse_view_position(row["ViewPosition"])
        for row in catalogue.rows(table, "dicom_id", "ViewPosition")
    }
    splits = _read_splits(catalogue)
    labels, unknown = _read_labels(catalogue), dict.fromkeys(map(finding, COLUMNS))
    for found in group(catalogue.images(), _place, "not named as a MIMIC-CXR-JPG image"):
        if not isinstance(found, Group):
            yield found
            continue
        study_id, files = found
        patient = _patient(next(iter(files.values())))
        yield Study(
            study_id=study_id,
            patient_id=patient,
            views=tuple(view_of(file, positions.get(dicom_id)) for dicom_id, file in files.items()),
            split=splits.get(study_id) or splits.get(patient),
            labels=labels.pop(study_id, unknown),
        )
    yield from map(Unmatched, labels)


def _read_splits(catalogue: Catalogue) -> dict[str, str]:
    """Study or patient → split: a patient's stands for a study that the table lacks."""
    splits = {}
    table = catalogue.find(SPLITS)
    for row in catalogue.rows(table, "study_id", "subject_id", "split") if table else ():
        if row["split"] not in _SPLIT:
            raise ConfigError(f"{SPLITS}: split {row['split']!r}; expected train, validate or test")
        splits[row["study_id"]] = splits[row["subject_id"]] = _SPLIT[row["split"]]
    return splits


def _read_labels(catalogue: Catalogue) -> dict[str, dict[str, float | None]]:
    labels: dict[str, dict[str, float | None]] = {}
    for pattern in (LABELS, TEST_LABELS):
        table = catalogue.find(pattern)
        for row in catalogue.rows(table, "study_id") if table else ():
            if "Airspace Opacity" in row:  # what the people who read the test studies call it
                row["Lung Opacity"] = row["Airspace Opacity"]
            labels[row["study_id"]] = labels_of(row, f"{pattern}: study {row['study_id']}")
    return labels


def _place(file: File) -> tuple[str, str] | None:
    image = _IMAGE.search(file.name)
    return (image[2], image[3]) if image else None


def _patient(file: File) -> str:
    image = _IMAGE.search(file.name)
    assert image  # it has been placed
    return image[1]
