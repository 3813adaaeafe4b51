"""The program `adopt`: a model folder that scores films, or one line and nothing written."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from cxrpipe import cli
from cxrpipe.models import weights
from cxrpipe.models.folder import open_model


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main("adopt", list(words))
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The state of a small network with three outputs."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("theirs") / "net.pth"
    torch.save(torchvision.models.shufflenet_v2_x0_5(num_classes=3).state_dict(), file)
    return str(file)


def of(checkpoint: str, out: Path, *more: str, findings: str = "Effusion,,Mass") -> Sequence[str]:
    words = ("torchvision:shufflenet_v2_x0_5", "--weights", checkpoint, "--findings", findings, "--out", str(out))
    return *words, "--side-px", "64", *more


def test_adopt_writes_a_model_folder_that_loads(checkpoint, tmp_path, capsys):
    out = tmp_path / "model"
    assert run(*of(checkpoint, out)) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == f"Model: {out}"
    assert "2 findings: Effusion, Mass" in printed.out
    assert "licence unknown; cite unknown" in printed.out
    assert "assumed: --fit squash" in printed.err
    model = open_model(str(out), "classify")
    with torch.inference_mode():
        assert weights.load(model)(torch.zeros(1, model.card.channels, 64, 64)).shape == (1, 2)


def test_a_dry_run_prints_the_card_and_writes_nothing(checkpoint, tmp_path, capsys):
    out = tmp_path / "model"
    assert run(*of(checkpoint, out, "--dry-run")) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["findings"], card["fit"], card["facts"]["licence"]) == (["Effusion", "Mass"], "squash", None)
    assert not out.exists()


def test_a_folder_that_holds_a_model_is_refused(checkpoint, tmp_path, capsys):
    assert run(*of(checkpoint, tmp_path)) == 0
    before = (tmp_path / "card.json").read_bytes()
    assert run(*of(checkpoint, tmp_path, "--fit", "letterbox")) == 2
    assert "a model is there already; name another --out" in capsys.readouterr().err
    assert (tmp_path / "card.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("xrv:nonsense", "torchxrayvision has no model of this name"),
        ("onyx:net", "no source of this kind; expected xrv:NAME"),
        ("xrv:", "no name behind the colon"),
        ("net.pt2", "code that runs when they are loaded"),
        ("{checkpoint}", "a file without the kind of its model; expected torchvision:ARCH --weights FILE"),
        ("net.onnx", "expected onnx:FILE"),
        ("xrv:all --weights {checkpoint}", "belongs to torchvision:ARCH and timm:NAME"),
        ("torchvision:resnet18", "add --weights FILE"),
        ("torchvision:resnet18 --weights {file} --findings A", "not a weights file"),
        ("torchvision:shufflenet_v2_x0_5 --weights {checkpoint} --findings A,B,A", "two outputs named A"),
        ("torchvision:shufflenet_v2_x0_5 --weights {checkpoint}", "name --findings"),
        ("torchvision:shufflenet_v2_x0_5 --weights {checkpoint} --findings A,B,C --resize nicely", "resize 'nicely'"),
        ("torchvision:shufflenet_v2_x0_5 --weights {checkpoint} --findings A,B,C --mean 0.5,0.4", "values of mean"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(checkpoint, tmp_path, capsys, words, said):
    file, out = tmp_path / "file.pth", tmp_path / "out"
    file.write_bytes(np.random.default_rng(0).bytes(1000))
    assert run(*words.format(file=file, checkpoint=checkpoint).split(), "--out", str(out)) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not out.exists()


def test_adopt_needs_a_folder_or_a_dry_run(capsys):
    assert run("xrv:all") == 2
    assert "name --out MODEL" in capsys.readouterr().err
