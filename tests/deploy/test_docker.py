"""The Dockerfile and what is sent to its builder. No image is built here."""

import re
from importlib.metadata import version

import pytest
from processes import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
TARGETS = ("cpu", "gpu")


def stages() -> dict[str, str]:
    """The name of every stage → its lines."""
    _, *texts = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)
    return {re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE)[0]: text for text in texts}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_holds_the_ray_that_we_pin_and_is_not_root(target: str) -> None:
    stage = stages()[target]
    assert f"FROM rayproject/ray:{version('ray')}-py311-{target} AS" in stage
    assert "\nUSER 1000:100\n" in stage
    assert re.search(r"pip install --no-cache-dir --constraint constraints.txt \.$", stage, re.MULTILINE)


def test_only_the_target_for_cpus_takes_torch_from_where_it_has_no_cuda() -> None:
    without_cuda = [
        name for name, stage in stages().items() if "--index-url https://download.pytorch.org/whl/cpu" in stage
    ]
    assert without_cuda == ["cpu"]
    assert "--no-deps --constraint constraints.txt" in stages()["cpu"]  # the version is ours, and all else is of PyPI


def test_the_targets_differ_in_nothing_else() -> None:
    cpu, gpu = (re.sub(r"(?m)^(FROM|RUN) .*$", "", stages()[target]) for target in TARGETS)
    assert cpu.strip() == gpu.strip()


def test_the_builder_gets_what_the_dockerfile_copies_and_nothing_else() -> None:
    """No .venv, no demo, no images of patients: everything is left out that is not named."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    copied = [
        name for line in re.findall(r"^COPY (.*)$", stages()["source"], re.MULTILINE) for name in line.split()[:-1]
    ]
    assert rules == ["*", *(f"!{name}" for name in copied), "**/__pycache__"]
    assert all((ROOT / name).exists() for name in copied)
