"""The worked examples, each at a small size."""

from __future__ import annotations

import importlib.util
import re
import socket
from pathlib import Path
from types import ModuleType

import pytest
import torch
from processes import start_program

import innerloop as il

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples keep prepared images in a cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_example_has_a_test() -> None:
    tested = {"sinusoids", "own_sketches", "sensors", "lora_transformer", "optuna_search", "two_processes"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_sinusoids(capsys: pytest.CaptureFixture[str]) -> None:
    sinusoids = example("sinusoids")
    trained, untrained = sinusoids.errors(150)
    assert trained.loss.shape == untrained.loss.shape == (200, 6)
    assert float(trained.loss[:, -1].mean()) < 0.8 * float(untrained.loss[:, -1].mean())
    sinusoids.main(1)
    assert capsys.readouterr().out.count("\n") == 7


def test_sketches_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sketches = example("own_sketches")
    folder = sketches.invented(tmp_path / "sketches", classes=30, images=6)
    _, result = sketches.train(folder, 12)
    assert result.norm == "inductive"
    assert result.mean > 0.4  # chance is 0.2
    sketches.main(str(folder), "1")
    assert capsys.readouterr().out.count("scribble") >= 5


def test_a_table_of_sensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sensors = example("sensors")
    table = sensors.invented(tmp_path / "sensors.csv")
    result, _ = sensors.train(table, 150)
    before, *_, after = result.loss.mean(0).tolist()
    assert after < 0.7 * before
    sensors.main("", "1")
    assert "after four readings" in capsys.readouterr().out


def test_lora_in_a_transformer() -> None:
    lora = example("lora_transformer")
    episode = lora.episodes()(torch.Generator().manual_seed(0))
    for x, y in ((episode.support_x, episode.support_y), (episode.query_x, episode.query_y)):
        for task in range(len(x)):  # some word is in all sentences of a class and in none of the other
            in_class = [torch.stack([(x[task, y[task] == c] == w).any(1) for w in range(lora.WORDS)]) for c in (0, 1)]
            assert (in_class[0].all(1) & ~in_class[1].any(1)).any()
    result, share = lora.train(3, width=8)
    assert isinstance(result, il.Evaluation)
    assert 0.1 < share < 0.5
    net = lora.Transformer(8)
    adapted = il.adapt(net, il.maml(0.3, adapt="*lora_*"), episode.support_x[0], episode.support_y[0])
    changed = {name for name, p in net.named_parameters() if not torch.equal(adapted.get(name, p), p)}
    assert changed
    assert all("lora_" in name for name in changed)


def test_two_processes_and_one_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    started = []
    for rank in ("0", "1"):  # as a launcher does
        monkeypatch.setenv("RANK", rank)
        started.append(start_program(EXAMPLES / "two_processes.py", "3"))
    (said, _), error = started[0].communicate(timeout=60), started[1].communicate(timeout=60)[1]
    assert [process.returncode for process in started] == [0, 0], error
    assert said.startswith("2 processes and one differ by at most ")
    assert float(re.search(r"most (\S+) in", said)[1]) < 1e-6
