"""Fixtures that several test files share: real components made small, an S3 server and a local Ray."""

import atexit
import gc
import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

# Ray reads these when it is imported or first asked for, so they stand before anything that imports it.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else ray.init writes a token into the home folder
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.pop("RAY_ADDRESS", None)  # no test may join a cluster that happens to run

import hypothesis
import pytest
from s3server import S3Server

from cxrpipe.models.folder import ModelFolder

# The modules that collecting imports make millions of objects, none of which is garbage: looking for it while they are
# made took 1.6 of 8 s of every process.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(20_000)  # of 700, looking for garbage took 18 of 260 s of the tests
    gc.enable()
    atexit.register(gc.unfreeze)  # or libraries in C++ complain of leaks


hypothesis.settings.register_profile("ours", deadline=None)  # a busy machine is no bug
hypothesis.settings.load_profile("ours")


_SENT_FROM = [str(Path(__file__).parent / folder) for folder in ("helpers", "on_ray", "programs")]
"""Folders of modules whose functions tests send to the workers of Ray."""


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for all tests; what a test writes goes into its own `bucket`."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """The name of a fresh, empty bucket. Nothing needs cleaning up: no two tests share one."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    s3_server.boto().create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3_env(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_* variables that lead every client of this process, and of those it starts, to the server."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)  # each would win over what is set here
    for name, value in s3_server.env().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The url of an empty place, on disk and on S3: what a test says must hold of both."""
    if request.param == "disk":
        return str(tmp_path / "anywhere")
    request.getfixturevalue("s3_env")
    return f"s3://{request.getfixturevalue('bucket')}/anywhere"


@pytest.fixture(scope="module")
def scored_here() -> Iterator[None]:
    """The plain loop decodes in this process: its decoders of their own cost 0.7 s of every run."""
    from cxrpipe.scoring.prepare import Preparer

    def here(table: object, ensemble: object, timeout_s: float, **more: object) -> Preparer:
        return Preparer(table, ensemble, None, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("cxrpipe.runs.trial.Preparer", here)
        patched.setattr("cxrpipe.runs.engine.Preparer", here)
        yield


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray of our own with 4 logical CPUs, however many cores the machine has: fewer hang on resume.

    Ray's own checkpoint filter takes one CPU more on resume than on the first run. A pipeline that makes no
    progress fails after two minutes, not after Ray's thirty.
    """
    import ray
    import ray.data

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join(_SENT_FROM), prepend=os.pathsep)
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            object_store_memory=200_000_000,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = 120
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def members(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolder, ModelFolder]:
    """Two ResNet-18 with random weights that want squares of 32 and of 64 px."""
    import builders

    folder = tmp_path_factory.mktemp("members")
    return (
        builders.classifier(folder / "a", seed=1, side_px=32),
        builders.classifier(folder / "b", seed=2, side_px=64),
    )


@pytest.fixture(scope="session")
def lungs(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A U-Net with random weights that wants squares of 32 px."""
    import builders

    return builders.segmenter(tmp_path_factory.mktemp("segmenter") / "lungs")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A classifier of 1.4 MB with random weights."""
    import builders

    return builders.small_classifier(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread. Threads that share a small operation on a busy machine mostly wait for each other: with
    two of them the tests of models took 2.5 times as much processor time."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real public images, which are not part of the repository."""
    if "CXRPIPE_REAL_DATA" not in os.environ:
        pytest.skip("real data not found: set CXRPIPE_REAL_DATA")
    folder = Path(os.environ["CXRPIPE_REAL_DATA"])
    if not folder.is_dir():
        pytest.fail(f"CXRPIPE_REAL_DATA={folder} is not a folder")
    return folder
