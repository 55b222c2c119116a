"""Adaptation as an ONNX graph: each method, the networks of Omniglot and sinusoids, and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import innerloop as il
from innerloop.cli.main import main
from innerloop.export.check import compared, run_graph, session_of
from innerloop.methods.base import CARDS

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

FOUR = {
    "maml": lambda: il.maml(0.4, 3),
    "anil": lambda: il.anil(0.1, 3),
    "reptile": lambda: il.reptile(test_steps=10, test_batch=5),
    "protomaml": lambda: il.protomaml(0.1, 3),
}


@pytest.mark.parametrize("norm", ["transductive", "inductive"])
@pytest.mark.parametrize("name", FOUR)
def test_the_network_of_omniglot(name: str, norm: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    episode = il.data.glyphs("test").episodes(ways=3, shots=2, queries=1, tasks=1)(torch.Generator().manual_seed(0))
    x, y, query_x = episode.support_x[0], episode.support_y[0], episode.query_x[0]
    pool = "flatten" if name == "reptile" else "mean"
    learner = il.Learner(il.nets.conv4(ways=3, filters=4, pool=pool), FOUR[name](), norm=norm)
    exported = il.export.adaptation(learner, tmp_path / "a.onnx", x, y, tolerance=1e-4)
    session = session_of(exported.file.read_bytes())
    for count in (6, 4):
        found = run_graph(session, {"support_x": x[:count], "support_y": y[:count], "query_x": query_x})
        predictor = learner.adapt(x[:count], y[:count])
        expected = {"logits": predictor.outputs(query_x), "probabilities": predictor.predict_proba(query_x)}
        assert compared(found, expected) < 1e-4


def small_net(name: str) -> nn.Module:
    """A small network of the kind that a method needs."""
    torch.manual_seed(0)
    kind = CARDS[name].network
    if kind == "with_context":
        return il.nets.mlp_with_context(2, inputs=3, outputs=3, hidden=(6,))
    if kind == "with_particles":
        return il.nets.with_particles(lambda: il.nets.mlp(3, 3, (6,)), 2)
    if kind == "with_warps":
        return il.nets.mlp_with_warps(inputs=3, outputs=3, hidden=(6, 6))
    return il.nets.pixels(3) if kind == "pixels" else il.nets.mlp(3, 3, (6,))


@pytest.mark.parametrize("name", sorted(set(il.METHODS) - set(FOUR)))
def test_every_other_method(name: str, tmp_path: Path) -> None:
    net, method = small_net(name), il.METHODS[name]()
    shape = (1, 28, 28) if CARDS[name].network == "pixels" else (3,)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, *shape, generator=generator), torch.arange(6) % 3
    steps = min(method.test.steps, 2)
    learner = il.Learner(net, method)
    exported = il.export.adaptation(learner, tmp_path / "a.onnx", x, y, steps=steps)
    found = run_graph(session_of(exported.file.read_bytes()), {"support_x": x, "support_y": y, "query_x": x})
    assert compared(found, {"probabilities": learner.adapt(x, y, steps=steps).predict_proba(x)}) < 1e-4


def test_sinusoids_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = tmp_path / "run", tmp_path / "adapt.onnx"
    quick = ["--iterations", "2", "--val-every", "2", "--val-tasks", "2", "--tasks", "2", "--quiet"]
    assert main(["train", "sinusoid-maml", *quick, "--out", str(run)]) == 0
    assert main(["export", str(run), str(file), "--steps", "3", "--every-step", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["difference"] < 1e-4
    assert said["outputs"] == ["outputs", "step_outputs", "step_losses"]
    learner = il.Learner.load(run)
    assert learner.loss_fn is F.mse_loss
    x = torch.linspace(-5, 5, 10)[:, None]
    found = run_graph(session_of(file.read_bytes()), {"support_x": x, "support_y": x.sin(), "query_x": x})
    assert compared(found, {"outputs": learner.adapt(x, x.sin(), steps=3).outputs(x)}) < 1e-4


def test_a_predictor_of_a_folder_of_images_by_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = pytest.importorskip("PIL.Image")
    torch.manual_seed(0)
    spec = {"name": "conv4", "arguments": {"ways": 3, "filters": 4}}
    prepare = il.data.ImagePreprocessing(size=(28, 28), channels=1, invert=True)
    learner = il.Learner(
        il.nets.conv4(ways=3, filters=4), il.maml(0.1, 2), norm="inductive", net_spec=spec, preprocessing=prepare
    )
    learner.save(tmp_path / "learner")
    for name in ("bar", "box", "dot"):
        (tmp_path / "support" / name).mkdir(parents=True)
        for number in range(2):
            pixels = torch.randint(256, (30 + 8 * number, 40), dtype=torch.uint8).numpy()
            image.fromarray(pixels).save(tmp_path / "support" / name / f"{number}.png")
    files = sorted((tmp_path / "support").rglob("*.png"))
    predictor = learner.adapt(files, [file.parent.name for file in files])
    expected, queries = predictor.predict_proba(files), prepare(files)
    place, file = str(tmp_path / "learner"), tmp_path / "predictor.onnx"
    assert main(["export", place, str(file), "--support", str(tmp_path / "support"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["inputs"] == ["query_x"]
    found = run_graph(session_of(file.read_bytes()), {"query_x": queries})
    assert compared(found, {"probabilities": expected}) < 1e-4
    file = file.with_suffix(".pt2")
    assert main(["export", place, str(file), "--support", str(tmp_path / "support")]) == 0
    program = torch.export.load(file).module()
    assert compared({"p": torch.cat([program(one[None])["probabilities"] for one in queries])}, {"p": expected}) < 1e-4
    (tmp_path / "support" / "loose.png").write_bytes(files[0].read_bytes())
    assert main(["export", place, str(file), "--support", str(tmp_path / "support")]) == 2
    assert "outside class folders" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.onnx"], "there is no folder"),
        (["a.txt"], "its name must end with .onnx"),
        (["absent/a.onnx"], "whose folder does not exist"),
        (["a.pt2"], "add --support DIR"),
    ],
)
def test_mistakes(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "no-such-run", *arguments]) == 2
    assert said in capsys.readouterr().err
