"""What `pip install 'cxrpipe[review]'` brings is free to be passed on: none of it is under the GPL or the AGPL."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

NAMED = {
    "imagecodecs": "libgomp (GPL-3.0 with GCC-exception-3.1)",
    "matplotlib": "FreeType, of whose two licences (FTL, GPL-2.0) the FTL is taken",
    "numpy": "libgfortran (GPL-3.0 with GCC-exception-3.1) and libquadmath (LGPL-2.1) for OpenBLAS",
    "opencv-python-headless": "FFmpeg (LGPL-2.1, which it says itself); libgfortran and libquadmath for OpenBLAS",
    "pillow": "FreeType, as matplotlib; of XZ only liblzma (0BSD), not its tools (GPL-2.0)",
    "scikit-learn": "libgomp",
    "scipy": "libgfortran and libquadmath for OpenBLAS",
    "setuptools": "autocommand (LGPL-3.0), in its folder _vendor; torch requires setuptools",
    "torch": "libgomp; libgfortran for OpenBLAS on some processors",
}
"""Distributions that hold a licence of the GNU family, or a library under one: which, and why it is allowed. The LGPL
permits to use a library that can be replaced, as these can. The GCC exception permits to use its runtime libraries."""

_GPL = re.compile(r"\bA?GPL|GNU (Affero )?General Public", re.IGNORECASE)
_HEADLINES = r"GNU\s+(AFFERO\s+|LESSER\s+|LIBRARY\s+)?GENERAL\s+PUBLIC\s+LICENSE\s+Version"
_GNU_LIBRARIES = r"lib(gomp|gfortran|quadmath|avcodec|avformat|swscale|x264|x265|xvid|postproc|readline|fribidi|raqm)\b"

_FFMPEG = """
import ctypes, pathlib, cv2
for library in pathlib.Path(cv2.__file__).parents[1].glob("opencv_python_headless.libs/libavcodec*"):
    licence = ctypes.CDLL(str(library)).avcodec_license
    licence.restype = ctypes.c_char_p
    print(licence().decode())
"""


class Installed(NamedTuple):
    """What an installed distribution says of its licence."""

    declared: list[str | None]
    texts: int
    """Files of licences that have a text."""
    is_gnu: bool
    """Whether it brings the text of a licence of the GNU family, or a library under one."""


@pytest.fixture(scope="module")
def installed() -> dict[str, Installed]:
    """What `pip install 'cxrpipe[review]'` brings, by name, as it lies in this environment.

    The environment has more, for other extras and for tests, in the versions of the same constraints.txt.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["review"]]
    waiting, seen = [Requirement(line) for line in required], set()
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            if (wanted := (canonicalize_name(requirement.name), extra)) not in seen:
                seen.add(wanted)
                lines = importlib.metadata.requires(requirement.name) or ()
                needed = [Requirement(line) for line in lines]
                waiting += [each for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {name: _read(importlib.metadata.distribution(name)) for name, _ in seen}


def _read(distribution: importlib.metadata.Distribution) -> Installed:
    metadata, files = distribution.metadata, distribution.files or []
    licences = [file for file in files if re.search("licen[sc]e|copying|notice", str(file), re.IGNORECASE)]
    written = [file for file in licences if file.suffix in ("", ".txt", ".md", ".rst")]
    texts = [Path(file.locate()).read_text(errors="replace") for file in written]
    return Installed(
        declared=[
            metadata.get("License-Expression"),
            (metadata.get("License") or "").strip().split("\n")[0],
            *(kind for kind in metadata.get_all("Classifier") or [] if kind.startswith("License")),
        ],
        texts=len(texts),
        is_gnu=any(re.search(_HEADLINES, text, re.IGNORECASE) for text in texts)
        or any(re.match(_GNU_LIBRARIES, file.name) and ".so" in file.name for file in files),
    )


def under_gpl(declared: list[str | None]) -> bool:
    """Whether a distribution is under the GPL or the AGPL by what it declares. The LGPL is another licence."""
    return any(_GPL.search(licence) for licence in declared if licence)


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (["GPL V3.0"], True),
        ([None, "", "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"], True),
        (["AGPL-3.0-or-later"], True),
        (["License :: OSI Approved :: GNU Affero General Public License v3"], True),
        (["LGPL-2.1"], False),
        (["License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)"], False),
        (["MIT", None], False),
    ],
)
def test_the_gpl_is_told_from_the_lgpl(declared, expected):
    assert under_gpl(declared) == expected


def test_the_install_holds_no_package_under_the_gpl(installed):
    assert {"torch", "ray", "imagecodecs", "pydicom", "aiohttp", "setuptools", "duckdb", "uvicorn"} <= set(installed)
    assert "pylibjpeg-libjpeg" not in installed
    assert not [name for name, distribution in installed.items() if under_gpl(distribution.declared)]


def test_every_package_names_a_licence(installed):
    """In its metadata or as a file. cuda-toolkit is an empty package that requires others."""
    silent = {name for name, each in installed.items() if not any(each.declared) and not each.texts}
    assert silent <= {"cuda-toolkit"}


def test_what_holds_a_library_under_a_gnu_licence_is_named_with_the_reason(installed):
    """As they are on Linux on x86-64, with the versions of constraints.txt."""
    assert {name for name, distribution in installed.items() if distribution.is_gnu} == set(NAMED)


def test_ffmpeg_in_opencv_is_built_without_its_parts_under_the_gpl():
    said = subprocess.run([sys.executable, "-I", "-c", _FFMPEG], check=True, capture_output=True, text=True).stdout
    assert said == "LGPL version 2.1 or later\n"
