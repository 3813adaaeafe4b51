"""MedMNIST (Yang et al., 2023): one npz of arrays, `train_images` and `train_labels` and so on. One image is one study.

Patients are unknown, so the parts of the file stay the splits. A study is named by its part and its place in the array,
from zero: `train_00000`.
"""

import re
from collections.abc import Iterator

from cxrpipe.archives.catalogue import Catalogue
from cxrpipe.archives.containers import arrays
from cxrpipe.archives.layouts.base import Found, Layout
from cxrpipe.archives.listing import Names
from cxrpipe.errors import ConfigError
from cxrpipe.records import Study, View

FINDINGS = {
    "pneumonia": ("Pneumonia",),
    "chest": (  # the findings of ChestX-ray14, in another order
        "Atelectasis",
        "Cardiomegaly",
        "Pleural_Effusion",
        "Infiltration",
        "Mass",
        "Nodule",
        "Pneumonia",
        "Pneumothorax",
        "Consolidation",
        "Edema",
        "Emphysema",
        "Fibrosis",
        "Pleural_Thickening",
        "Hernia",
    ),
}
"""Columns of the labels, which the file does not name. The other sets of MedMNIST hold no chest radiographs."""
SPLITS = {"train": "train", "val": "valid", "test": "test"}
_FILE = re.compile(r"(?:^|.*/)(pneumonia|chest)mnist(?:_\d+)?\.npz", re.IGNORECASE)


def recognise(names: Names) -> str | None:
    name = next((name for name in names if _FILE.fullmatch(name)), None)
    return f"found {name}" if name else None


def studies(catalogue: Catalogue) -> Iterator[Found]:
    files = [(file, name) for file in catalogue.files() if (name := _FILE.fullmatch(file.name)) and not file.entry]
    if len(files) != 1:
        raise ConfigError(
            f"{catalogue.archive}: {len(files)} files like pneumoniamnist.npz or chestmnist_224.npz; expected one: "
            "name it as the archive"
        )
    [(file, name)] = files
    findings = FINDINGS[name[1].lower()]
    headers = arrays.headers(file.url)
    if not any(f"{part}_images" in headers for part in SPLITS):
        raise ConfigError(f"{file.url}: no train_images, val_images or test_images; expected the arrays of MedMNIST")
    for part, split in SPLITS.items():
        images = headers.get(f"{part}_images")
        if images is None:
            continue
        labels = _labels(file.url, headers.get(f"{part}_labels"), (images.shape[0], len(findings)))
        for number, label in enumerate(labels):
            view = View(
                url=file.url,
                entry=images.entry,
                offset=images.offset + number * images.image_bytes,
                length=images.image_bytes,
                compression="npy",
                version=images.version,
            )
            yield Study(
                study_id=f"{part}_{number:05}",
                views=(view,),
                split=split,
                labels=dict(zip(findings, label, strict=True)),
            )


def _labels(url: str, array: arrays.Array | None, shape: tuple[int, int]) -> list[list[float | None]]:
    """Read the rows of labels of a part. Where a part has no labels, all are None."""
    if array is None:
        return [[None] * shape[1]] * shape[0]
    labels = arrays.load(url, array)
    if labels.shape != shape or not set(map(float, set(labels.flat))) <= {0.0, 1.0}:
        raise ConfigError(f"{url}!{array.entry}: shape {labels.shape}; expected {shape}, of zeros and ones")
    rows: list[list[float | None]] = labels.astype(float).tolist()
    return rows


LAYOUT = Layout(name="medmnist", recognise=recognise, studies=studies)
