"""Who takes a decoder over finds no credential there, no network, no other process and no file to write."""

import json
import os
import sys
from collections.abc import Iterator

import decoders
import psutil
import pytest
from builders import png, radiograph
from dicoms import dicom

from cxrpipe.errors import StudyError
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import decode_view

PARTS = {
    "open a socket": "seccomp",
    "create a file": "seccomp",
    "write to a file": "",  # a limit, which every kernel has
    "read files of the user": "landlock",
    "read the environment of the parent": "landlock",
    "start a program": "seccomp",
    "signal to the parent": "seccomp",
}
"""What makes an attempt fail."""
PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED0PLANTED0",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+key",
    "AWS_SESSION_TOKEN": "planted-session-token",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/planted",
    "RAY_AUTH_TOKEN": "planted-ray-token",
    "HTTPS_PROXY": "http://user:planted@proxy",
    "OUR_OWN_WORD_FOR_IT": "planted-by-nobody-we-know",
}


@pytest.fixture(scope="module")
def attempt() -> Iterator[Isolated]:
    with Isolated(decoders.attempt, timeout_s=60) as made:
        yield made


@pytest.mark.parametrize("what", PARTS)
def test_the_wall_refuses(attempt, tmp_path, what):
    if PARTS[what] and PARTS[what] not in attempt.wall():
        pytest.skip(f"this machine has no {PARTS[what]}")
    with pytest.raises(StudyError) as caught:
        attempt(what.encode(), str(tmp_path), ())
    assert caught.value.reason == "corrupt"
    assert not any(path.stat().st_size for path in tmp_path.iterdir())


def test_every_attempt_is_possible_without_the_wall(tmp_path):
    """Else the tests above would hold of nothing."""
    if sys.platform != "linux":
        pytest.skip("not Linux: no /proc")
    for what in PARTS:
        decoders.attempt(what.encode(), str(tmp_path), ())
    os.wait()


def test_a_decoder_finds_no_credential_in_its_environment(monkeypatch):
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    with Isolated(decoders.print_environment, timeout_s=60) as nosy, pytest.raises(StudyError) as caught:
        nosy(b"film", "a.png", ())
    names = {"LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    names |= {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
    assert {*json.loads(caught.value.detail)} <= names
    assert "planted" not in caught.value.detail


def test_no_credential_stands_in_the_command_of_a_decoder(monkeypatch):
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    with Isolated(decoders.obey, timeout_s=60) as isolated:
        process = psutil.Process(isolated(b"film", "a.png", ()).rows_px)
        assert "planted" not in " ".join(process.cmdline()).lower()
        assert "planted" not in str(process.environ()).lower()


def test_a_decoder_holds_no_file_of_its_parent(tmp_path):
    with (tmp_path / "open").open("w") as file, Isolated(decoders.obey, timeout_s=60) as isolated:
        os.set_inheritable(file.fileno(), True)
        process = psutil.Process(isolated(b"film", "a.png", ()).rows_px)
        assert process.open_files() == []


def test_a_decoder_has_one_thread_which_the_wall_is_around():
    """Landlock holds for the thread that asks for it."""
    before = psutil.Process().children()
    with Isolated(decode_view, timeout_s=60) as isolated:
        for data in (png(radiograph()), dicom(radiograph())):
            isolated(data, "a", (Preparation("mimic_v2", 32),))
        (child,) = set(psutil.Process().children()) - set(before)
        assert child.num_threads() == 1


def test_a_decoder_still_finds_a_module_that_it_imports_late():
    """Or a codec that is imported with the first file that needs it would be missed in silence."""
    with Isolated(decoders.import_late, timeout_s=60) as late:
        assert late(b"xml.dom.pulldom", "a.png", ()).rows_px == 1
