"""Class folders, as in Kermany et al. (Cell 2018): the folder of an image is its label. One image is one study."""

import re
from collections.abc import Iterable, Iterator

from cxrpipe.archives.aside import IMAGE_SUFFIXES
from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.labels import is_nothing
from cxrpipe.archives.layouts.base import Found, Layout, Skipped
from cxrpipe.archives.listing import Names
from cxrpipe.errors import ConfigError
from cxrpipe.models.spelling import finding
from cxrpipe.records import Study

_MOST_FOLDERS = 1_000
"""More folders than this are not classes but patients or days."""
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "test": "test",
}
_NO_CLASS = re.compile(
    r"\w*mask\w*|images?|imgs?|pics?|pictures?|pngs?|jpe?gs?|tiffs?|dicoms?|dcms?|bmps?|data|dataset|files|raw|original|"
    r"cxr|xrays?|x-rays?|labels?|annotations?|images?_\d+",
    re.IGNORECASE,
)
"""Matches folders that name a kind of file and say nothing of the patient. The class is the folder above them."""
# Mendeley, version 3, names images (disease)-(randomized patient id)-(image number of this patient). Ids are unique
# within a disease only: BACTERIA-1000001 and VIRUS-1000001 are two patients.
# Kermany: person12_bacteria_46.jpeg and person12_bacteria_46_1.jpeg are patient (12, bacteria); IM-0115-0001.jpeg and
# NORMAL2-IM-0115-0002.jpeg are patient 0115.
_PATIENT = re.compile(
    r"(?:NORMAL2-)?(person\d+_(?:bacteria|virus)|IM-\d+)(?:[-_]\d+)*|((?:BACTERIA|VIRUS|NORMAL)-\d+)-\d+", re.IGNORECASE
)


def recognise(names: Names) -> str | None:
    folders: set[tuple[str, str]] = set()  # (class, the folder above it)
    for name in names:
        if folder := _class_of(name):
            above = name.split("/")[:-1]
            folders.add((folder, above[above.index(folder) - 1] if above.index(folder) else ""))
            if len(folders) > _MOST_FOLDERS:
                return None
    classes = sorted({folder for folder, _ in folders})
    # Other trees have folders too, such as patient0001/study1.
    sure = any(map(is_nothing, classes)) or any(above.lower() in _SPLITS for _, above in folders)
    if len(classes) < 2 or not sure:
        return None
    return f"images lie in class folders: {', '.join(classes[:6])}"


def studies(catalogue: Catalogue) -> Iterator[Found]:
    classes: set[str] = set()
    splits: set[str | None] = set()
    for file in catalogue.images():
        classes.add(_class_of(file.name) or "")
        splits.add(_split_of(file.name))
    findings = sorted({finding(folder) for folder in classes if folder and not is_nothing(folder)})
    if not findings:
        raise ConfigError(f"{catalogue.archive}: no class folders with images; expected <finding>/<image>.png or .jpg")
    for file in catalogue.images():
        if _is_mask(file.name):
            yield Skipped(file.url, file.entry, "a mask by its folder; a table names masks: --layout table")
            continue
        folder = _class_of(file.name)
        patient = _PATIENT.fullmatch(file.stem)
        yield Study(
            study_id=file.name.rpartition(".")[0],
            patient_id=(patient[1] or patient[2]) if patient else None,
            views=(view_of(file),),
            split=_official(_split_of(file.name), splits),
            labels={name: None if folder is None else float(name == finding(folder)) for name in findings},
        )


def _class_of(name: str) -> str | None:
    """The class of an image: its innermost folder that may be a class. None for masks, and right below a split."""
    if not name.lower().endswith(IMAGE_SUFFIXES) or _is_mask(name):
        return None
    folders = name.split("/")[:-1]
    while folders and _NO_CLASS.fullmatch(folders[-1]):
        folders.pop()
    return folders[-1] if folders and folders[-1].lower() not in _SPLITS else None


def _is_mask(name: str) -> bool:
    return any("mask" in folder.lower() for folder in name.split("/")[:-1])


def hint(names: Iterable[str]) -> str:
    """Say what to do with an archive of no known layout that holds masks."""
    masks = next((name for name in names if _is_mask(name)), None)
    return f"; for images with masks such as {masks} write a table: study_id, path, mask_path" if masks else ""


def _split_of(name: str) -> str | None:
    folders = name.lower().split("/")[:-1]
    return next((_SPLITS[folder] for folder in folders if folder in _SPLITS), None)


def _official(split: str | None, present: set[str | None]) -> str | None:
    """The split of an image by its folder. Folders count as a split only where the archive has a test part.

    Where it has no validation part, that is cut out of train.
    """
    if "test" not in present:
        return None
    return "train_valid" if split == "train" and "valid" not in present else split


LAYOUT = Layout(name="folders", recognise=recognise, studies=studies, named_by_path=True)
