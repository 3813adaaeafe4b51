"""Small archives in the published layouts, and what is found in them."""

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from builders import png, radiograph, tar_gz

from cxrpipe import storage
from cxrpipe.archives import layouts
from cxrpipe.archives.catalogue import Catalogue
from cxrpipe.archives.layouts.base import Found, Table
from cxrpipe.archives.synthetic import NIH_HEADER
from cxrpipe.records import Study
from cxrpipe.storage import join

IMAGE = png(radiograph(rows=20, columns=20))


def put(url: str, *names: str, content: bytes = IMAGE) -> str:
    """Objects below `url`, all with the same content; gives the url back."""
    for name in names:
        storage.write(join(url, name), content)
    return url


def found(archive: str, layout: str = "auto", *, seed: int = 0) -> list[Found]:
    with tempfile.TemporaryDirectory() as seek_points:
        catalogue = Catalogue(storage.normalise(archive), Path(seek_points))
        return list(layouts.studies(catalogue, layouts.choose(catalogue, layout)[0], seed))


def studies(archive: str, layout: str = "auto", *, seed: int = 0) -> dict[str, Study]:
    every = [each for each in found(archive, layout, seed=seed) if isinstance(each, Study)]
    assert len({study.study_id for study in every}) == len(every)
    return {study.study_id: study for study in every}


def rest(archive: str, layout: str = "auto") -> list[Found]:
    """What is found beside studies and the tables that were read."""
    return [each for each in found(archive, layout) if not isinstance(each, (Study, Table))]


def why(archive: str) -> tuple[str, str]:
    """The layout that `auto` takes, and why."""
    with tempfile.TemporaryDirectory() as seek_points:
        layout, reason = layouts.choose(Catalogue(storage.normalise(archive), Path(seek_points)), "auto")
    return layout.name, reason


def splits_of_patients(archive: str, layout: str = "auto", *, seed: int = 0) -> dict[str | None, set[str | None]]:
    parts = defaultdict(set)
    for study in studies(archive, layout, seed=seed).values():
        parts[study.patient_id or study.study_id].add(study.split)
    return parts


NIH_ROWS = {
    "00000001_000.png": "Cardiomegaly,0,1,058Y,M,PA",
    "00000001_001.png": "Cardiomegaly|Emphysema,1,1,059Y,M,PA",
    "00000002_000.png": "No Finding,0,2,81,F,AP",
    "00000013_005.png": "Pleural_Thickening,5,13,006M,F,",
}


def nih(
    folder: str, *, images: Sequence[str] = tuple(NIH_ROWS), rows: dict[str, str] = NIH_ROWS, **lists: list[str]
) -> str:
    lines = [NIH_HEADER, *(f"{name},{row},2682,2749,0.143,0.143" for name, row in rows.items())]
    put(folder, "Data_Entry_2017_v2020.csv", content="\n".join(lines).encode())
    put(folder, "images_001.tar.gz", content=tar_gz({f"images/{name}": IMAGE for name in images}))
    for name, members in lists.items():
        put(folder, f"{name}.txt", content="\n".join(members).encode())
    return folder


def montgomery(folder: str, images: Sequence[str], left: Sequence[str], right: Sequence[str]) -> str:
    put(folder, *(f"MontgomerySet/CXR_png/{name}.png" for name in images))
    put(folder, *(f"MontgomerySet/ManualMask/leftMask/{name}.png" for name in left))
    return put(folder, *(f"MontgomerySet/ManualMask/rightMask/{name}.png" for name in right))


KERMANY = [
    "chest_xray/{}/NORMAL/IM-0115-0001.jpeg",
    "chest_xray/{}/NORMAL/NORMAL2-IM-0116-0001-0002.jpeg",
    "chest_xray/{}/PNEUMONIA/person12_bacteria_46.jpeg",
    "chest_xray/{}/PNEUMONIA/person12_bacteria_47_1.jpeg",
    "chest_xray/{}/PNEUMONIA/person12_virus_48.jpeg",
]


def kermany(*parts: str) -> list[str]:
    return [name.format(part) for part in parts for name in KERMANY]


def table(folder: str, text: str, name: str = "table.csv") -> str:
    return join(put(folder, name, content=text.encode()), name)
