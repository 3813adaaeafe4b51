"""ONNX files: adopted, run by ONNX Runtime, and scored as members of an ensemble."""

import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from builders import small_classifier
from onnx import TensorProto, helper
from torch import nn

from cxrpipe.config import AdoptConfig
from cxrpipe.errors import ConfigError
from cxrpipe.images.letterbox import Preparation
from cxrpipe.models import architectures, weights
from cxrpipe.models.ensemble import Ensemble, open_ensemble
from cxrpipe.models.folder import ModelFolder, open_model
from cxrpipe.models.normalise import normalise
from cxrpipe.models.onnx_export import write_onnx
from cxrpipe.models.onnx_network import OnnxNetwork
from cxrpipe.programs import adopt as program
from cxrpipe.scoring.predict import Predictor

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE_PX = 32
FINDINGS = ("Pneumonia", "Mass")


def network(channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return architectures.build("timm:vit_tiny_patch16_224,depth=1", 2, SIDE_PX, channels=channels).eval()


def exported(folder: Path, model: nn.Module, batch: int | None = None, channels: int = 1, **metadata: str) -> str:
    """Write model.onnx with a batch of any size, or of one size, and give `onnx:FILE`."""
    content = io.BytesIO()
    axes = {"views": {0: "n"}, "logits": {0: "n"}} if batch is None else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter by TorchScript is the older one; the newer needs onnxscript
        torch.onnx.export(
            model,
            (torch.rand(batch or 2, channels, SIDE_PX, SIDE_PX),),
            content,
            dynamo=False,
            input_names=["views"],
            output_names=["logits"],
            dynamic_axes=axes,
        )
    whole = onnx.load_from_string(content.getvalue())
    helper.set_model_props(whole, metadata)
    onnx.save(whole, folder / "a.onnx")
    return f"onnx:{folder / 'a.onnx'}"


def adopted(source: str, folder: Path, **settings: object) -> ModelFolder:
    program.run(AdoptConfig(source=source, out=str(folder), **settings))  # type: ignore[arg-type]
    return open_model(str(folder), "classify")


def views(number: int = 5) -> torch.Tensor:
    """(N, 1, S, S) uint8"""
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, 1, SIDE_PX, SIDE_PX), dtype=torch.uint8, generator=draw)


@pytest.mark.parametrize(("batch", "channels"), [(None, 1), (1, 1), (2, 3)])
@torch.inference_mode()
def test_an_onnx_file_answers_as_the_network_it_was_made_of(batch, channels, tmp_path):
    """With any number of views, one by one, and in calls of two, the last of which is filled up."""
    source = network(channels)
    model = adopted(exported(tmp_path, source, batch, channels), tmp_path / "m", findings=FINDINGS)
    assert (model.card.architecture, model.card.channels, model.card.side_px) == ("onnx", channels, SIDE_PX)
    assert (tmp_path / "m" / "model.onnx").exists()
    pixels = normalise(views(), model.card)
    torch.testing.assert_close(weights.load(model)(pixels), source(pixels), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_model_folder_exported_and_adopted_says_the_same(tmp_path):
    model = small_classifier(tmp_path / "torch", side_px=SIDE_PX)
    write_onnx(model, tmp_path / "a.onnx")
    settings = {"mean": (model.card.mean,), "std": (model.card.std,), "fit": "letterbox", "resize": "area"}
    onnx_model = adopted(f"onnx:{tmp_path / 'a.onnx'}", tmp_path / "m", findings=model.card.findings, **settings)
    assert onnx_model.card.preparation == model.card.preparation
    pixels = normalise(views(), model.card)
    torch.testing.assert_close(weights.load(onnx_model)(pixels), weights.load(model)(pixels), rtol=1e-4, atol=1e-4)


def test_findings_come_from_the_files_metadata(tmp_path):
    model = adopted(exported(tmp_path, network(), findings="Effusion,NORMAL", license="MIT"), tmp_path / "m")
    assert (model.card.findings, model.card.outputs) == (("Pleural_Effusion",), ("Pleural_Effusion", ""))
    assert model.card.facts["licence"] == "MIT"


def test_an_onnx_file_votes_beside_a_network_of_torch_and_adds_no_heat_map(tmp_path, capsys):
    source = network()
    adopted(exported(tmp_path, source), tmp_path / "onnx", findings=FINDINGS, fit="letterbox", resize="area")
    small_classifier(tmp_path / "torch", side_px=SIDE_PX)
    ensemble = open_ensemble([str(tmp_path / "onnx"), str(tmp_path / "torch")], (), explain=True)
    assert "onnx: an ONNX file; heat maps are those of the other members" in capsys.readouterr().err
    predictor = Predictor(ensemble, "cpu")
    assert predictor.computed_on == "cpu float32 eager+onnx"
    got = predictor.predict({Preparation("voi", SIDE_PX): views()[:, 0].numpy()})
    with torch.inference_mode():
        expected = source(normalise(views(), ensemble.members[0].card)).sigmoid().numpy()
    np.testing.assert_allclose(
        got.probs[0][:, [ensemble.findings.index(name) for name in FINDINGS]], expected, atol=1e-5
    )
    assert got.maps is not None
    assert [each is None for each in got.maps] == [True, False]


def test_a_file_is_opened_once_however_often_its_network_is_asked(tmp_path, monkeypatch):
    """A session holds all weights, and optimises the graph when it opens."""
    import onnxruntime

    model = adopted(exported(tmp_path, network()), tmp_path / "m", findings=FINDINGS)
    opened, real = [], onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *args, **more: opened.append(1) or real(*args, **more))
    loaded = weights.load(model)
    np.testing.assert_array_equal(loaded(views()), loaded(views()))
    assert len(opened) == 1


def test_heat_maps_of_onnx_files_alone_are_refused(tmp_path):
    model = adopted(exported(tmp_path, network()), tmp_path / "m", findings=FINDINGS)
    with pytest.raises(ConfigError, match="ONNX Runtime runs all --models, and has no heat maps"):
        Ensemble((model,), explain=True)


def test_probabilities_in_the_place_of_logits_are_named(tmp_path, capsys):
    source = exported(tmp_path, nn.Sequential(network(), nn.Sigmoid()))
    program.run(AdoptConfig(source=source, dry_run=True, findings=FINDINGS))
    assert "export the model without its sigmoid or softmax" in capsys.readouterr().err


def test_an_onnx_file_cannot_be_trained(tmp_path):
    with pytest.raises(ConfigError, match="an ONNX file computes and does not learn"):
        architectures.check_architecture("onnx", "classify", SIDE_PX)


def graph(shape: list[int | str], output: list[int | str], kind: int = TensorProto.FLOAT) -> bytes:
    """An ONNX file that gives a part of its input."""
    inputs = [helper.make_tensor_value_info("views", kind, shape)]
    outputs = [helper.make_tensor_value_info("logits", kind, output)]
    whole = helper.make_graph([helper.make_node("Identity", ["views"], ["logits"])], "g", inputs, outputs)
    content: bytes = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nonsense", "ONNX Runtime cannot load it"),
        (graph(["n", 2, 32, 32], ["n", 2, 32, 32]), "its input has the shape n x 2 x 32 x 32; expected N x C x S x S"),
        (graph(["n", 1, 32, 64], ["n", 1, 32, 64]), "its input has the shape n x 1 x 32 x 64"),
        (graph(["n", 32], ["n", 32]), "its input has the shape n x 32"),
        (graph(["n", 1, 32, 32], ["n", 1, 32, 32]), "its output has the shape n x 1 x 32 x 32"),
        (graph(["n", 1, 32, 32], ["n", 1, 32, 32], TensorProto.FLOAT16), r"its input is a tensor\(float16\)"),
    ],
)
def test_an_onnx_file_of_another_form_is_refused_in_one_line_and_nothing_is_written(content, message, tmp_path):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as refused:
        program.run(AdoptConfig(source=f"onnx:{tmp_path / 'a.onnx'}", out=str(tmp_path / "m"), findings=FINDINGS))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "m").exists()


def test_tensors_outside_the_file_are_refused_for_its_hash_does_not_cover_them(tmp_path, monkeypatch):
    exported(tmp_path, network())
    whole = onnx.load(tmp_path / "a.onnx")
    onnx.save(whole, tmp_path / "b.onnx", save_as_external_data=True, location="b.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"ONNX Runtime cannot load it .*xternal data"):
        OnnxNetwork(Path("b.onnx").read_bytes(), "b")


def test_a_side_that_the_file_does_not_take_is_refused(tmp_path):
    source = exported(tmp_path, network())
    with pytest.raises(ConfigError, match=f"--side-px 64: .* takes squares of {SIDE_PX} px alone"):
        program.run(AdoptConfig(source=source, dry_run=True, findings=FINDINGS, side_px=64))


def test_without_onnx_runtime_the_package_to_install_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"needs ONNX Runtime: pip install 'cxrpipe\[onnx\]'"):
        OnnxNetwork(b"", "a")
