"""Images and nothing else: no labels, no patients. One image is one study."""

from collections.abc import Iterator

from cxrpipe.archives.aside import IMAGE_SUFFIXES, UNFINISHED
from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.layouts.base import Found, Layout
from cxrpipe.archives.listing import Names
from cxrpipe.records import Study

_DOCUMENTS = (".md", ".txt", ".pdf", ".html", ".htm", ".rtf", ".doc", ".docx", ".log", ".md5", ".sha256")


def recognise(names: Names) -> str | None:
    images = 0
    for name in names:
        is_image = name.lower().endswith(IMAGE_SUFFIXES)
        if not is_image and not _is_document(name):
            return None
        images += is_image
    if not images:
        return None
    if any("mask" in folder.lower() for name in names for folder in name.split("/")[:-1]):
        return None  # a mask is no radiograph
    return "only images are there" if images == len(names) else "only images are there, and documents"


def studies(catalogue: Catalogue) -> Iterator[Found]:
    for file in catalogue.images():
        yield Study(study_id=file.name.rpartition(".")[0], views=(view_of(file),))


def _is_document(name: str) -> bool:
    """Whether a file beside the images is, by its name, a document without labels. Documents are not read."""
    last = name.rpartition("/")[2].lower()
    return last.endswith((*_DOCUMENTS, *UNFINISHED)) or last.partition(".")[0] in (
        "readme",
        "license",
        "licence",
        "changelog",
    )


LAYOUT = Layout(name="images", recognise=recognise, studies=studies, named_by_path=True)
