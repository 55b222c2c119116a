"""Numbers of classes and examples that vary between meta-batches, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from innerloop.cli.main import main
from innerloop.cli.train_arguments import train_arguments
from innerloop.data.iterables import VaryingEpisodes
from innerloop.recipes import Config, DataSource, read_run, recipe
from innerloop.recipes.build import net_spec

SMALL = ["--iterations", "4", "--tasks", "2", "--val-tasks", "2", "--val-every", "4", "--filters", "2"]


def config_of(name: str, *arguments: str) -> Config:
    return train_arguments(name, recipe(name), arguments).config


def test_ranges_and_lists_are_written_out() -> None:
    config = config_of("glyphs-5w1s-maml", "--ways", "3-8", "--shots=1,5", "--queries", "2-3", "--inner-lr", "0.3")
    assert (config.ways, config.varied_ways) == (5, (3, 4, 5, 6, 7, 8))
    assert (config.shots, config.varied_shots, config.varied_queries) == (1, (1, 5), (2, 3))
    assert config.method_settings["inner_lr"] == 0.3
    assert net_spec(config)["arguments"]["ways"] == 8
    assert config.drawn == {"ways": (3, 4, 5, 6, 7, 8), "shots": (1, 5), "queries": (2, 3)}
    other = config_of("glyphs-5w1s-maml", "--ways", "2-4", "--shots", "3,2")
    assert (other.ways, other.shots, other.varied_shots) == (4, 3, (2, 3))  # 5 ways and 1 shot are not among them
    both = config_of("glyphs-5w1s-maml", "--varied-ways", "5", "7", "--ways", "6")
    assert (both.ways, both.outputs) == (6, 7)
    reptile = config_of("glyphs-5w1s-reptile", "--train-shots", "5-7")
    assert (reptile.shots, reptile.train_shots, reptile.varied_shots) == (1, None, (5, 6, 7))
    assert config_of("sinusoid-maml", "--shots", "5-10").drawn == {"shots": (5, 6, 7, 8, 9, 10), "queries": (10,)}
    assert Config.from_json(json.loads(json.dumps(config.as_json()))) == config


def test_meta_batches_differ_and_the_run_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    train = ["train", "glyphs-5w1s-maml", *SMALL, "--out", str(folder)]
    assert main([*train, "--ways", "3-6", "--shots", "1,3"]) == 0
    said = capsys.readouterr().out
    assert (
        "meta-training: ways 3 to 6; shots 1 or 3; queries 5; validation and test: 5 ways, 1 shots, 5 queries" in said
    )
    run = read_run(folder)
    sampler = DataSource().training(run.config)
    assert isinstance(sampler, VaryingEpisodes)
    assert main(["evaluate", str(folder), "--tasks", "4", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["ways"], result["shots"]) == (5, 1)
    assert main([*train, "--resume", "--iterations", "6", "--quiet"]) == 2  # without them it is another run
    assert main([*train, "--resume", "--ways", "3-6", "--shots", "1,3", "--quiet"]) == 0
    path = folder / "config.json"
    description = json.loads(path.read_text())
    for name in ("varied_ways", "varied_shots", "varied_queries"):
        del description["config"][name]  # as runs of earlier versions
    path.write_text(json.dumps(description))
    assert read_run(folder).config == run.config.override(varied_ways=(), varied_shots=())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["glyphs-5w1s-maml", "--ways", "8-3"], "--ways is 8-3; write the lower number first"),
        (["glyphs-5w1s-maml", "--ways", "1-3"], "--varied-ways is (1, 2, 3); it must be a whole number of at least 2"),
        (["glyphs-5w1s-maml", "--ways", "3-9999"], "there are"),
        (["glyphs-5w1s-maml", "--shots", "0,3"], "--varied-shots is (0, 3)"),
        (["glyphs-5w1s-maml", "--queries", "0-3"], "--queries is 0"),
        (["glyphs-5w1s-maml", "--varied-ways", "3", "4"], "--ways is 5, and tasks of meta-training have at most 4"),
        (["glyphs-5w1s-reptile", "--shots", "1-3"], "--train-shots is 10 in this recipe; to vary it, write"),
        (["sinusoid-maml", "--varied-ways", "2", "3"], "--ways cannot vary in regression"),
        (["omniglot-5w1s-protomaml", "--ways", "3-5"], "--ways cannot vary with protomaml"),
        (["omniglot-5w1s-finetune", "--shots", "1,2"], "--varied-shots belongs to"),
        (["glyphs-5w1s-maml", "--ways", "3-x"], "--ways"),
    ],
)
def test_what_cannot_vary_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
