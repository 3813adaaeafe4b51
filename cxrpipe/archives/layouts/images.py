"""Any prefix of image objects: nothing is known but the images. One image is one study."""

from collections.abc import Iterator

from cxrpipe.archives.catalogue import IMAGE_SUFFIXES, Catalogue, view_of
from cxrpipe.archives.layouts.base import Found, Skipped
from cxrpipe.archives.listing import Names
from cxrpipe.records import Study

NAME = "images"


def recognise(names: Names) -> str | None:
    if not all(name.lower().endswith(IMAGE_SUFFIXES) for name in names):
        return None
    if any("mask" in folder.lower() for name in names for folder in name.split("/")[:-1]):
        return None  # a mask is no radiograph
    return "only images are there"


def studies(catalogue: Catalogue) -> Iterator[Found]:
    for file in catalogue.files():
        if file.suffix in IMAGE_SUFFIXES:
            yield Study(study_id=file.name.rpartition(".")[0], views=(view_of(file),))
        else:
            yield Skipped(file.url, file.entry, "not an image by its name")
