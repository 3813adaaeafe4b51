"""Reasons why a file is in no study, one word each, and what the words mean.

`skipped.parquet` lists these files, so that every file of an archive is accounted for: it is a view, a mask, a table
that was read, or skipped. Layouts add further reasons, and `records.REASONS` has those of broken files.
"""

import functools

from cxrpipe.archives.containers.files import File
from cxrpipe.archives.containers.formats import advice, format_by_name

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp")
DICOM_SUFFIXES = (".dcm", ".dicom")
"""Suffixes of DICOM files. Many DICOM files have none."""
UNFINISHED = (".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp")

MEANINGS = {
    "hidden": "the name of the file, or of a folder above it, begins with a dot",
    "thumbnail": "a small copy that a storage box or an operating system has made",
    "recycle_bin": "a deleted file that is still in a recycle bin",
    "snapshot": "an earlier state of the archive, kept by a storage box",
    "system_file": "a file of an operating system, such as desktop.ini or those in __MACOSX",
    "folder_marker": "an empty object that stands for a folder",
    "link": "a link to a folder, out of its container, or to nothing in it; not followed",
    "special_file": "a device, a pipe or a socket",
    "unusable_name": "a name that is not UTF-8 or that is nothing but dots and slashes; rename the file",
    "copy_of_archive": "a copy of a file elsewhere in the archive: in a folder inside a folder of the same name, or in "
    "a container beside the folder that it was unpacked to",
    "unsupported_container": "an archive that cannot be read at random; convert it",
    "compressed_file": "a single file that is compressed; decompress it",
    "unsupported_compression": "an entry of a zip that is neither stored nor deflated",
    "nested_archive": "an archive inside an archive; unpack the outer one",
    "encrypted": "an entry of a zip that needs a password",
    "sparse": "a sparse entry of a tar",
    "unfinished_download": "an unfinished download, by its suffix",
    "not_an_image_file": "neither an image by its suffix nor a table that the layout reads",
    "not_in_layout": "an image, or a DICOM file, that the layout takes neither for a view nor for a mask",
}
_NAMES = {
    "thumbnail": "@eadir .@__thumb .thumbnails thumbs.db ehthumbs.db ehthumbs_vista.db",
    "recycle_bin": "#recycle @recycle .recycle $recycle.bin recycler .trash .trashes",
    "snapshot": "#snapshot @snapshot .snapshot .snapshots ~snapshot @recently-snapshot .zfs",
    "system_file": "desktop.ini __macosx lost+found @tmp",
}
_WHY = {name: reason for reason, names in _NAMES.items() for name in names.split()} | {
    "system volume information": "system_file"
}
_FOLDER_MARKER = "_$folder$"
"""Hadoop's clients of S3 end the name of a folder marker so."""


def why_aside(name: str) -> str | None:
    """Say why a file stands aside for its name alone, so that no layout sees it; None: layouts see it."""
    folder, _, last = name.rpartition("/")
    return _of_folder(folder) or _of_file(last)


@functools.lru_cache(maxsize=1024)
def _of_folder(folder: str) -> str | None:
    return next((why for part in folder.split("/") if (why := _of_part(part))), None) if folder else None


def _of_file(name: str) -> str | None:
    if why := _of_part(name):
        return why
    if name.endswith(_FOLDER_MARKER):
        return "folder_marker"
    packed = None if name.lower().endswith(IMAGE_SUFFIXES) else format_by_name(name)
    return packed.reason if packed else None


def _of_part(part: str) -> str | None:
    lower = part.lower()
    if why := _WHY.get(lower):
        return why
    if lower.startswith(".trash-"):  # followed by the number of a user, on Linux
        return "recycle_bin"
    return "hidden" if lower.startswith(".") else None


def why_left(file: File) -> str:
    """Say why a file is in no study, where the layout has not said it."""
    if file.name.lower().endswith((*IMAGE_SUFFIXES, *DICOM_SUFFIXES)):
        return "not_in_layout"
    return "unfinished_download" if file.suffix in UNFINISHED else "not_an_image_file"


def detail(reason: str, file: File) -> str | None:
    """Say what a person should do, where that depends on the file."""
    place = file.url if file.entry is None else f"{file.url}!{file.entry}"
    if reason == "unusable_name":
        return f"{place}: a name that is not UTF-8, or is nothing but dots and slashes; rename the file"
    packed = format_by_name(file.name) if reason in ("unsupported_container", "compressed_file") else None
    return advice(packed, place) if packed else None
