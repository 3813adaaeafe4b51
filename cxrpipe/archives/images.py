"""Any prefix of image objects: nothing is known but the images. One image is one study."""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from cxrpipe.archives.catalogue import IMAGE_SUFFIXES, Catalogue, view_of
from cxrpipe.archives.layout import Found, Skipped
from cxrpipe.records import Study

NAME = "images"


def recognise(names: Sequence[str]) -> str | None:
    if not all(PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES for name in names):
        return None
    if any("mask" in folder.lower() for name in names for folder in name.split("/")[:-1]):
        return None  # a mask is no radiograph
    return "only images are there"


def studies(catalogue: Catalogue) -> Iterator[Found]:
    for file in catalogue.files():
        if file.suffix in IMAGE_SUFFIXES:
            name = PurePosixPath(file.name)
            yield Study(study_id=str(name.with_suffix("")), views=(view_of(file),))
        else:
            yield Skipped(file.url, file.entry, "not an image by its name")
