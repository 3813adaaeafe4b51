"""What `pip install cxrpipe` brings is free to be passed on: no package under the GPL or the AGPL is among it."""

import json
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

pytestmark = pytest.mark.slow

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

_READ = f"""
import importlib.metadata, json, re
for distribution in importlib.metadata.distributions():
    metadata, files = distribution.metadata, distribution.files or []
    licences = [file for file in files if re.search("licen[sc]e|copying|notice", str(file), re.I)]
    written = [file for file in licences if file.suffix in ("", ".txt", ".md", ".rst")]
    texts = [file.locate().read_text(errors="replace") for file in written]
    print(json.dumps({{
        "name": re.sub("[-_.]+", "-", distribution.name).lower(),
        "declared": [metadata.get("License-Expression"), (metadata.get("License") or "").strip().split("\\n")[0]]
        + [kind for kind in metadata.get_all("Classifier") or [] if kind.startswith("License")],
        "texts": len(texts),
        "gnu": any(re.search({_HEADLINES!r}, text, re.I) for text in texts)
        or any(re.match({_GNU_LIBRARIES!r}, file.name) and ".so" in file.name for file in files),
    }}))
"""
_FFMPEG = """
import ctypes, pathlib, cv2
for library in pathlib.Path(cv2.__file__).parents[1].glob("opencv_python_headless.libs/libavcodec*"):
    licence = ctypes.CDLL(str(library)).avcodec_license
    licence.restype = ctypes.c_char_p
    print(licence().decode())
"""


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    """Python of a fresh environment that holds cxrpipe, without extras, and what it requires. 6 GB, some minutes."""
    with TemporaryDirectory(prefix="cxrpipe-") as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        command = [python, "-m", "pip", "install", "--quiet", "--no-compile", *constraints, str(ROOT)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        yield python


@pytest.fixture(scope="module")
def installed(python: str) -> list[dict[str, Any]]:
    """What each installed distribution says of its licence."""
    lines = subprocess.run([python, "-I", "-c", _READ], check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in lines.splitlines()]


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


def test_the_default_install_holds_no_package_under_the_gpl(installed):
    names = {distribution["name"] for distribution in installed}
    assert {"cxrpipe", "torch", "ray", "imagecodecs", "pydicom"} <= names
    assert not [distribution for distribution in installed if under_gpl(distribution["declared"])]


def test_every_package_names_a_licence(installed):
    """In its metadata or as a file. cuda-toolkit is an empty package that requires others."""
    silent = {each["name"] for each in installed if not any(each["declared"]) and not each["texts"]}
    assert silent <= {"cuda-toolkit"}


def test_what_holds_a_library_under_a_gnu_licence_is_named_with_the_reason(installed):
    """As they are on Linux on x86-64, with the versions of constraints.txt."""
    assert {distribution["name"] for distribution in installed if distribution["gnu"]} == set(NAMED)


def test_ffmpeg_in_opencv_is_built_without_its_parts_under_the_gpl(python):
    said = subprocess.run([python, "-I", "-c", _FFMPEG], check=True, capture_output=True, text=True).stdout
    assert said == "LGPL version 2.1 or later\n"
