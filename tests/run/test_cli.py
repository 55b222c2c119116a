"""The command line as a user meets it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from innerloop import Learner
from innerloop.cli.main import main
from innerloop.data import glyphs, sinusoids
from innerloop.methods.base import CARDS
from innerloop.nets import NETS
from innerloop.recipes import RECIPES, Config, ConfigError, recipe
from innerloop.recipes.build import make_trainer, net_spec
from innerloop.recipes.figures import OURS

SINUSOID = ["train", "sinusoid-maml", "--iterations", "40", "--val-every", "20", "--val-tasks", "20"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main([*SINUSOID, "--out", str(folder), "--quiet"]) == 0
    return folder


def test_a_run_folder_holds_what_it_should(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "config.json",
        "metrics.jsonl",
        "checkpoint.safetensors",
        "learner.json",
        "learner.safetensors",
        "curves.png",
    }
    assert any(name.startswith("events.out.tfevents") for name in names)
    config = json.loads((run / "config.json").read_text())["config"]
    assert (config["iterations"], config["method_settings"]["inner_lr"]) == (40, 0.01)
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["iteration"] for r in records if "val_loss" in r] == [20, 40]
    assert all("loss" in r or "val_loss" in r for r in records)


def test_tensorboard_events_hold_the_same_numbers(run: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(run))
    events.Reload()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = [r["val_loss"] for r in records if "val_loss" in r]
    assert [event.value for event in events.Scalars("validation/loss")] == pytest.approx(expected)


def test_evaluate_ends_with_one_json_object(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--tasks", "30", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["tasks"], result["shots"], result["inner_steps"]) == (30, 10, 10)
    assert (result["norm"], result["dataset"], result["split"]) == ("transductive", "sinusoids", "test")
    assert len(result["loss_per_step"]) == 11
    assert result["loss_per_step"][-1] == result["loss"]
    assert len(set(result["loss_per_step"])) == 11
    assert result["ci95"] > 0
    assert main(["evaluate", str(run), "--tasks", "30", "--last-step", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert json.loads(out[-1])["loss_per_step"] == pytest.approx([result["loss"]])
    assert not any("after 0.." in line for line in out)


def test_evaluating_twice_gives_the_same_and_another_seed_does_not(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = []
    for seed in ("5", "5", "6"):
        main(["evaluate", str(run), "--tasks", "20", "--seed", seed, "--json"])
        losses.append(json.loads(capsys.readouterr().out.splitlines()[-1])["loss"])
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.usefixtures("undrawn")
def test_classification_reports_accuracy_as_a_fraction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--iterations", "2", "--val-every", "2", "--val-tasks", "2", "--filters", "8", "--quiet"]
    for method in ("maml", "reptile"):
        folder = str(tmp_path / method)
        extra = ["--inner-batch", "5", "--test-steps", "3"] if method == "reptile" else []
        assert main(["train", f"glyphs-5w1s-{method}", *settings, *extra, "--out", folder]) == 0
        for norm in ("transductive", "inductive"):
            assert main(["evaluate", folder, "--tasks", "3", "--norm", norm, "--json"]) == 0
            result = json.loads(capsys.readouterr().out.splitlines()[-1])
            assert (result["ways"], result["norm"], result["dataset"]) == (5, norm, "glyphs")
            assert 0 <= result["accuracy"] <= 1
            assert len(result["accuracy_per_step"]) == result["inner_steps"] + 1 == 4


def test_recipes_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines if line.startswith("  ")) == sorted(RECIPES)
    (maml,) = [line for line in lines if line.startswith("  omniglot-5w1s-maml ")]
    assert maml.endswith("60,000 iterations  paper 98.7 ± 0.4  ours 98.5 ± 0.5")


@pytest.mark.parametrize("name", OURS)
def test_our_figures_are_those_of_the_results(name: str) -> None:
    assert name in RECIPES
    root = Path(__file__).parents[2]
    _, method = name.split("s-", 1)
    text = (root / "README.md").read_text() + (root / "docs" / "results.md").read_text()
    rows = [line for line in text.splitlines() if line.lower().startswith((f"| `{method}` |", f"| {method} |"))]
    assert any(f"| {OURS[name]} % |" in row for row in rows), name


def test_every_promised_recipe_is_there() -> None:
    cells = [f"{ways}w{shots}s" for ways in (5, 20) for shots in (1, 5)]
    methods = ["maml", "fomaml", "reptile"]
    promised = {f"omniglot-{cell}-{method}" for cell in cells for method in methods}
    family = ["anil", "boil", "meta-sgd", "maml-plus-plus", "protomaml", "cavia", "imaml", "meta-curvature"]
    family += ["foml", "alfa", "gap", "t-net", "warpgrad", "bmaml"]
    family += ["prototypical", "scratch", "finetune", "nearest-neighbour"]
    promised |= {f"omniglot-{ways}w1s-{method}" for ways in (5, 20) for method in family}
    promised |= {f"sinusoid-{method}" for method in [*methods, "meta-sgd", "cavia", "alfa", "gap", "t-net", "bmaml"]}
    published = ("mini-imagenet", "tiered-imagenet", "cifar-fs", "fc100", "cub")
    promised |= {
        f"{data}-5w{shots}s-{method}"
        for data in published
        for shots in (1, 5)
        for method in [*methods, "anil", "prototypical"]
    }
    promised |= {f"glyphs-{ways}w1s-{method}" for ways in (5, 20) for method in ("maml", "reptile")}
    assert promised <= set(RECIPES)
    named = {f"{cell}-{name.replace('_', '-')}" for name, card in CARDS.items() for cell in card.settings()}
    assert named == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_agrees_with_its_name(name: str) -> None:
    config = recipe(name)
    lake = config.dataset == "omniglot_alphabets"
    data = "omniglot-lake" if lake else config.dataset.replace("_", "-")
    task = "" if config.regression or lake else f"-{config.ways}w{config.shots}s"
    assert name == f"{data.removesuffix('s') if config.regression else data}{task}-{config.method.replace('_', '-')}"


drawn_glyphs = functools.cache(glyphs)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_its_learner_is_read_back(name: str, tmp_path: Path) -> None:
    small = {"filters": 4, "tasks": 2, "ways": min(5, recipe(name).ways), "test_steps": 2}
    config = recipe(name)
    config = config.override(**{key: value for key, value in small.items() if key in config.flat()})
    spec = net_spec(config)
    trainer = make_trainer(config, NETS[spec["name"]](**spec["arguments"]))
    shots, queries = config.train_shots or config.shots, config.queries
    sampler = sinusoids() if config.regression else drawn_glyphs("train")
    ways = () if config.regression else (min(60, config.train_ways or config.ways),)
    generator = torch.Generator().manual_seed(0)
    trainer.step(sampler.episodes(*ways, shots, queries, config.tasks)(generator), generator)
    trainer.learner(net_spec=spec).save(tmp_path)
    learner = Learner.load(tmp_path)
    assert learner.method == trainer.method
    for parameter, value in trainer.meta_params.items():
        assert torch.equal(learner._meta.named()[parameter], value)


def test_help_lists_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "omniglot-20w1s-maml", "--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    for flag in ("--inner-lr", "--data-dir", "--resume", "--iterations", "--seed", "--out", "--device"):
        assert flag in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train"], "name a recipe"),
        (["train", "omniglot-5w1s-mmal"], "no recipe 'omniglot-5w1s-mmal'"),
        (["paint"], "no command 'paint'"),
        (["train", "sinusoid-maml", "--iterations", "-5"], "--iterations is -5"),
        (["train", "sinusoid-maml", "--inner-lr", "0"], "--inner-lr is 0"),
        (["train", "sinusoid-maml", "--inner-lr", "nan"], "--inner-lr is nan"),
        (["train", "sinusoid-maml", "--inner-lr", "fast"], "fast"),
        (["train", "sinusoid-maml", "--inner-pace", "1"], "--inner-pace"),
        (["train", "sinusoid-maml", "--device", "toaster"], "choose cpu or cuda"),
        (["train", "sinusoid-maml", "--adapt", "head.*"], "matches none"),
        (["train", "sinusoid-reptile", "--outer-lr", "3"], "--outer-lr is 3"),
        (["train", "sinusoid-maml", "--inner-batch", "3"], "Reptile"),
        (["train", "glyphs-5w1s-maml", "--ways", "1"], "--ways is 1"),
        (["train", "glyphs-5w1s-maml", "--ways", "5000"], "5000"),
        (["train", "glyphs-5w1s-maml", "--shots", "0"], "--shots is 0"),
        (["train", "glyphs-5w1s-maml", "--shots", "20"], "20"),
        (["train", "omniglot-5w1s-maml", "--data-dir", "no/such/folder"], "no/such/folder"),
        (["evaluate"], "RUN"),
        (["evaluate", "no/such/run"], "no/such/run"),
        (["evaluate", ".", "--tasks", "0"], "--tasks is 0"),
        (["evaluate", ".", "--norm", "instance"], "instance"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_real_process_have_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "innerloop", "evaluate", str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no run" in done.stderr


def test_damaged_archives_and_folders_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    for name in ("images_background.zip", "images_evaluation.zip"):
        (data / name).write_bytes(b"not a zip")
    out = str(tmp_path / "run")
    assert main(["train", "omniglot-5w1s-maml", "--data-dir", str(data), "--out", out]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "images_background.zip" in error
    assert not Path(out).exists()


def test_damaged_runs_are_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for victim, content in (
        ("config.json", b"{"),
        ("learner.json", b"[]"),
        ("learner.safetensors", b"\x00" * 40),
    ):
        copy = tmp_path / victim
        copy.mkdir()
        for path in filter(Path.is_file, run.iterdir()):
            (copy / path.name).write_bytes(content if path.name == victim else path.read_bytes())
        assert main(["evaluate", str(copy), "--tasks", "2"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert victim in error


def test_a_finished_run_is_not_overwritten(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main([*SINUSOID, "--out", str(run), "--quiet"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*SINUSOID, "--inner-lr", "0.02", "--out", str(run), "--resume", "--quiet"]) == 2
    assert "--inner-lr 0.01 (now 0.02)" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert main([*SINUSOID, "--out", str(tmp_path), "--quiet"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_diverging_run_stops_and_names_the_last_good_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = [*SINUSOID, "--inner-lr", "1e30", "--inner-steps", "3", "--out", str(out), "--quiet"]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(out / "checkpoint.safetensors") in error
    assert main(["evaluate", str(out), "--tasks", "2"]) == 0


def test_progress_without_a_terminal_is_a_line_for_each_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SINUSOID, "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("iteration 20: ")


def test_settings_are_checked_where_they_are_made() -> None:
    with pytest.raises(ConfigError, match="--head-std is -1"):
        Config.of(head_std=-1.0)


def test_omniglot_from_the_real_archives(
    omniglot_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    settings = ["--iterations", "2", "--tasks", "2", "--val-every", "2", "--val-tasks", "2", "--filters", "8"]
    arguments = ["train", "omniglot-5w1s-maml", "--data-dir", str(omniglot_root), *settings, "--out", out, "--quiet"]
    assert main(arguments) == 0
    assert main(["evaluate", out, "--data-dir", str(omniglot_root), "--tasks", "4", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["dataset"], result["tasks"], result["inner_steps"]) == ("omniglot", 4, 3)
