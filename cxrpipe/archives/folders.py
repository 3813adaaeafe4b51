"""Class folders, as of Kermany et al. (Cell 2018): the folder of an image is its label. One image is one study."""

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from cxrpipe.archives.catalogue import IMAGE_SUFFIXES, Catalogue, view_of
from cxrpipe.archives.layout import Found
from cxrpipe.errors import ConfigError
from cxrpipe.labels import finding, is_nothing
from cxrpipe.records import Study

NAME = "folders"
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "test": "test",
}
# Kermany: person12_bacteria_46.jpeg is patient (12, bacteria), as person12_bacteria_46_1.jpeg is; IM-0115-0001.jpeg and
# NORMAL2-IM-0115-0002.jpeg are patient 0115.
_PATIENT = re.compile(r"(?:NORMAL2-)?(person\d+_(?:bacteria|virus)|IM-\d+)(?:[-_]\d+)*")


def recognise(names: Sequence[str]) -> str | None:
    images = [PurePosixPath(name) for name in names if _class_of(name)]
    classes = sorted({image.parent.name for image in images})
    # Other trees have folders too, such as patient0001/study1 or COVID/masks.
    sure = any(map(is_nothing, classes)) or any(image.parent.parent.name.lower() in _SPLITS for image in images)
    if len(classes) < 2 or not sure:
        return None
    return f"images lie in class folders: {', '.join(classes[:6])}"


def studies(catalogue: Catalogue) -> Iterator[Found]:
    images = list(catalogue.images())
    findings = sorted(
        {finding(folder) for file in images if (folder := _class_of(file.name)) and not is_nothing(folder)}
    )
    if not findings:
        raise ConfigError(f"{catalogue.archive}: no class folders with images; expected <finding>/<image>.png or .jpg")
    splits = {_split_of(file.name) for file in images}
    for file in images:
        folder = _class_of(file.name)
        patient = _PATIENT.fullmatch(file.stem)
        yield Study(
            study_id=file.name.removesuffix(PurePosixPath(file.name).suffix),
            patient_id=patient[1] if patient else None,
            views=(view_of(file),),
            split=_official(_split_of(file.name), splits),
            labels={name: None if folder is None else float(name == finding(folder)) for name in findings},
        )


def _class_of(name: str) -> str | None:
    """The folder of an image, unless that is a split."""
    path = PurePosixPath(name)
    if path.suffix.lower() not in IMAGE_SUFFIXES or path.parent.name.lower() in _SPLITS:
        return None
    return path.parent.name or None


def _split_of(name: str) -> str | None:
    folders = name.lower().split("/")[:-1]
    return next((_SPLITS[folder] for folder in folders if folder in _SPLITS), None)


def _official(split: str | None, present: set[str | None]) -> str | None:
    """Folders are a split only where there is a test part; a missing validation part is cut out of train."""
    if "test" not in present:
        return None
    return "train_valid" if split == "train" and "valid" not in present else split
