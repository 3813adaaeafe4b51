"""NIH ChestX-ray14 (Wang et al., CVPR 2017): tar.gz files of PNGs and one CSV. One image is one study."""

import re
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.labels import finding, is_nothing, parse_age
from cxrpipe.archives.layouts.base import Found, Skipped, Unmatched
from cxrpipe.archives.listing import Names
from cxrpipe.errors import ConfigError
from cxrpipe.records import Study

NAME = "nih"
TABLE = "Data_Entry_2017*.csv"
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
_IMAGE = re.compile(r"(\d{8})_\d{3}\.png")


class _Row(NamedTuple):
    """Of the table, what is used: 112,120 rows as read take 130 MB."""

    labels: str | None = None
    view_position: str | None = None
    patient_age: float | None = None
    patient_sex: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, str]) -> "_Row":
        return cls(
            labels=sys.intern(row["Finding Labels"]) if row.get("Finding Labels") is not None else None,
            view_position=sys.intern(row.get("View Position") or "") or None,
            patient_age=parse_age(row.get("Patient Age") or ""),
            patient_sex=sys.intern(row.get("Patient Gender") or "") or None,
        )


def recognise(names: Names) -> str | None:
    table = names.find(TABLE)
    return f"found {table}" if table else None


def studies(catalogue: Catalogue) -> Iterator[Found]:
    table = catalogue.find(TABLE)
    if table is None:
        raise ConfigError(f"{catalogue.archive}: no {TABLE}; the nih layout needs it for labels and patients")
    rows = {row.get("Image Index", ""): _Row.of(row) for row in catalogue.rows(table)}
    if "" in rows:
        raise ConfigError(f"{table.url}: a row without Image Index; expected the columns of Data_Entry_2017.csv")
    official = _official_splits(catalogue)
    found = set()
    for file in catalogue.images():
        name = file.name.rpartition("/")[2]
        image = _IMAGE.fullmatch(name)
        if image is None:
            yield Skipped(file.url, file.entry, "not named as an NIH image")
            continue
        found.add(name)
        row = rows.get(name, _Row())
        yield Study(
            study_id=file.stem,
            patient_id=image[1],  # "Patient ID" of the CSV, which drops the zeros
            views=(view_of(file, row.view_position),),
            split=official.get(name) or official.get(image[1]),
            labels=_labels(row.labels),
            patient_age=row.patient_age,
            patient_sex=row.patient_sex,
        )
    yield from (Unmatched(name.removesuffix(".png")) for name in rows if name not in found)


def _labels(text: str | None) -> dict[str, float | None]:
    """`Cardiomegaly|Effusion` → 1 for the two, 0 for the others; nothing is known without a row."""
    if text is None:
        return dict.fromkeys(FINDINGS)
    present = {finding(part) for part in text.split("|") if not is_nothing(part)}
    if unknown := present.difference(FINDINGS):
        raise ConfigError(f"Finding Labels {text!r}: {sorted(unknown)} are not findings of ChestX-ray14")
    return {name: float(name in present) for name in FINDINGS}


def _official_splits(catalogue: Catalogue) -> dict[str, str]:
    """Image name → split, from the two published lists; the validation part is left to the hash.

    A patient's number stands for those images of theirs that no list names.
    """
    splits: dict[str, str] = {}
    for name, split in (("train_val_list.txt", "train_valid"), ("test_list.txt", "test")):
        if file := catalogue.find(name):
            names = catalogue.read(file).decode().split()
            splits |= dict.fromkeys([*names, *(name[:8] for name in names)], split)
    return splits
