"""Makes a study of every file that a person names by hand: files, folders of files, and prefixes of a store."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from cxrpipe import console, storage
from cxrpipe.archives.aside import DICOM_SUFFIXES, IMAGE_SUFFIXES, why_aside
from cxrpipe.archives.containers.files import as_text, is_container
from cxrpipe.archives.containers.formats import advice, format_by_name
from cxrpipe.errors import ConfigError
from cxrpipe.images import dicom
from cxrpipe.records import Study, View

_TABLES = (".parquet", ".csv")
_FIRST_BYTES = 256
"""Bytes that show whether a file begins as DICOM."""
_ID_BYTES = 180
"""Longest id. A file system takes 255 bytes for a name, and the name of a picture is longer than the id: a suffix
follows, and a longer one while the picture is written."""


def studies_of(files: Sequence[str], out: str) -> list[Study]:
    """One study for each file, in the order named; a file that is named twice is one study.

    A folder, or a prefix, stands for the image files below it, in natural order. ConfigError where a name leads to
    nothing, or to what `predict` does not read.

    out  url of the folder for the results. Its files are left out: they are pictures of an earlier call
    """
    urls = list(dict.fromkeys(url for file in files for url in _urls(file, out)))
    ids: set[str] = set()
    return [Study(study_id=_unused_id(url, ids), views=(View(url=url),), study_digest="none") for url in urls]


def on_one_line(name: str) -> str:
    r"""A name on one line that can be stored and printed: bytes that are not UTF-8 as `\xfc`, a line break as `\n`."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in as_text(name))


# ---- the files behind a name ----------------------------------------------------------------------------------


def _urls(file: str, out: str) -> Iterator[str]:
    url = storage.normalise(file)
    try:
        urls = [entry.url for entry in storage.listing(url)]
    except OSError as error:
        raise ConfigError(f"{url}: cannot be opened ({error.strerror or error})") from None
    if not urls:
        problem = "an empty folder" if not storage.is_s3(url) and Path(url).is_dir() else "no such file or folder"
        raise ConfigError(f"{url}: {problem}; expected image files, folders of them, or urls")
    if urls == [url]:
        _check_kind(url)
        yield url
        return
    images = sorted(
        (image for image in urls if not image.startswith(f"{out}/") and _is_image(image, url)), key=_natural
    )
    if not images:
        raise ConfigError(f"{url}: {len(urls):,} files, and none is an image; expected PNG, JPEG or DICOM files")
    if others := len(urls) - len(images):
        console.log(f"{on_one_line(url)}: {len(images):,} images; {others:,} other files are left out")
    yield from images


def _check_kind(url: str) -> None:
    name = url.lower()
    if packed := format_by_name(name):
        raise ConfigError(advice(packed, url))
    if is_container(name):
        raise ConfigError(f"{url}: an archive; score it: cxrpipe score --archive {url} --models A,B --out scored")
    if name.endswith(_TABLES):
        raise ConfigError(f"{url}: a table; score its studies: cxrpipe score --studies {url} --models A,B --out scored")


def _is_image(url: str, folder: str) -> bool:
    """Judge a file by its name; by its first bytes where it has no suffix, as DICOM files often have none."""
    path = PurePosixPath(url.removeprefix(folder).lstrip("/"))
    if why_aside(str(path)):
        return False
    if _suffix(url):
        return True
    has_suffix = re.fullmatch(r"\.[A-Za-z]\w*", path.suffix)  # the last part of a UID is a number
    return not has_suffix and _begins_as_dicom(url)


def _begins_as_dicom(url: str) -> bool:
    try:
        return dicom.begins_as_dicom(storage.read(url, 0, _FIRST_BYTES))
    except (PermissionError, FileNotFoundError):
        return True  # the row of the file will say what is wrong


def _natural(url: str) -> list[tuple[bool, int, str]]:
    """The key that sorts `2.png` before `10.png`."""
    parts = re.split(r"(\d+)", url)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


# ---- the id of a file -----------------------------------------------------------------------------------------


def _suffix(url: str) -> str:
    """The suffix of an image, as the name spells it; empty where the name has none."""
    return next((url[-len(end) :] for end in (*IMAGE_SUFFIXES, *DICOM_SUFFIXES) if url.lower().endswith(end)), "")


def _unused_id(url: str, ids: set[str]) -> str:
    """The file's name without its suffix; a second file of that name gets a number. The id is added to `ids`."""
    name = _short(on_one_line(os.path.basename(url).removesuffix(_suffix(url))))
    study_id, number = name, 1
    while study_id in ids:
        number += 1
        study_id = f"{name}_{number}"
    ids.add(study_id)
    return study_id


def _short(name: str) -> str:
    """The name, without its middle where it has too many bytes for the name of a file."""
    encoded, half = name.encode(), _ID_BYTES // 2
    if len(encoded) <= _ID_BYTES:
        return name
    return f"{encoded[:half].decode(errors='ignore')}…{encoded[-half:].decode(errors='ignore')}"
