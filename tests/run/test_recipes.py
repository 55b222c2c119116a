"""Recipes and their settings: gathered from the files of methods and data sets, and the same as ever."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import innerloop as il
from innerloop.cli.main import main
from innerloop.cli.train_arguments import train_arguments
from innerloop.data import DATASETS, ImageClasses, Location, registered_data
from innerloop.methods.base import CARDS, METHODS, registered
from innerloop.nets import NETS
from innerloop.recipes import RECIPES, Config, ConfigError, read_run, recipe
from innerloop.recipes.build import net_spec
from innerloop.recipes.config import method_options
from innerloop.recipes.earlier import from_flat
from innerloop.recipes.options import Option, options_of
from innerloop.recipes.registry import recipes_of

FROZEN = json.loads((Path(__file__).parent / "frozen" / "recipes.json").read_text())
SHORT = ["--iterations", "2", "--val-every", "2", "--val-tasks", "2", "--tasks", "2", "--quiet"]


def flat_config(name: str) -> dict[str, Any]:
    """The settings of a recipe as config.json had them when those of all methods stood side by side."""
    return {**FROZEN["first"], **FROZEN["recipes"][name]["changes"]}


@pytest.mark.parametrize("name", FROZEN["recipes"])
def test_a_recipe_is_as_it_was(name: str) -> None:
    config, frozen = recipe(name), FROZEN["recipes"][name]
    assert repr(config.build_method()) == frozen["method"]
    spec = net_spec(config)
    assert spec["name"] == frozen["network"]["name"]
    rest = {key: value for key, value in spec["arguments"].items() if key not in frozen["network"]["arguments"]}
    assert {key: spec["arguments"][key] for key in frozen["network"]["arguments"]} == frozen["network"]["arguments"]
    own = inspect.signature(NETS[spec["name"].partition("_with_")[0]]).parameters
    assert rest == {key: own[key].default for key in rest}  # what recipes did not say is what networks have by default
    flat, before = json.loads(json.dumps(config.flat())), flat_config(name)
    both = flat.keys() & before.keys()
    assert both >= {"ways", "shots", "tasks", "iterations", "outer_lr", "seed", "test_tasks", "norm"}
    assert {key: flat[key] for key in both} == {key: before[key] for key in both}
    assert before.keys() - both <= set().union(*(options_of(make) for make in METHODS.values())) | {
        *("scheme", "test_rotations", "filters", "pool", "head_std", "hidden", "activation"),
        *("context_size", "particles", "warp"),
    }


def test_no_recipe_is_gone() -> None:
    assert FROZEN["recipes"].keys() <= RECIPES.keys()


@pytest.mark.parametrize("name", FROZEN["recipes"])
def test_settings_of_earlier_runs_are_read(name: str) -> None:
    assert from_flat(flat_config(name)) == recipe(name)


def test_a_run_of_an_earlier_version_resumes_and_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    train = ["train", "sinusoid-maml", "--val-every", "2", "--val-tasks", "2", "--tasks", "2", "--quiet"]
    assert main([*train, "--iterations", "2", "--out", str(folder)]) == 0
    path = folder / "config.json"
    description = json.loads(path.read_text())
    flat = {**flat_config("sinusoid-maml"), "val_every": 2, "val_tasks": 2, "tasks": 2, "iterations": 2}
    assert read_run(folder).config == from_flat(flat)
    path.write_text(json.dumps({**description, "format": "innerloop-run-1", "config": flat}))
    assert main(["evaluate", str(folder), "--tasks", "2"]) == 0
    assert main([*train, "--iterations", "4", "--out", str(folder), "--resume"]) == 0
    assert read_run(folder).config == recipe("sinusoid-maml").override(tasks=2, iterations=4, val_every=2, val_tasks=2)
    assert json.loads(path.read_text())["format"] == "innerloop-run-2"
    path.write_text(json.dumps({**description, "format": "innerloop-run-1", "config": {**flat, "method": "gone"}}))
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--tasks", "2"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["train", name, "--help"])
    assert not stop.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("method", METHODS)
def test_help_has_the_options_of_the_method_alone(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(next(iter(recipes_of(method))), capsys)
    shown = {word.rstrip(",") for word in text.split() if word.startswith("--method.")}
    assert all(f"--{name.removeprefix('--method.')}" in text.replace("--method.", "") for name in shown)
    switches = {name for name, option in method_options(method).items() if option.default is True}
    assert shown == {
        f"--method.{'no-' if name in switches else ''}{name.replace('_', '-')}" for name in method_options(method)
    }


def test_help_is_what_the_docstring_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(help_of("sinusoid-cavia", capsys).replace("│", " ").split())
    assert "Name patterns of the context parameters" in text
    assert "Context parameters; further inputs in regression" in text
    assert "--scheme" not in text
    assert "--network.hidden" in text
    for options in (method_options(method) for method in METHODS):
        assert all(option.help for option in options.values())


@pytest.mark.parametrize("flag", ["--inner-lr", "--method.inner-lr"])
def test_an_option_has_a_long_and_a_short_name(flag: str, tmp_path: Path) -> None:
    assert main(["train", "sinusoid-maml", *SHORT, flag, "0.02", "--out", str(tmp_path / "run")]) == 0
    assert read_run(tmp_path / "run").config.method_settings["inner_lr"] == 0.02


@pytest.mark.parametrize("flag", ["--no-learn-rates", "--method.no-learn-rates"])
def test_a_switch_that_is_on_is_turned_off_by_both_names(flag: str) -> None:
    config = recipe("omniglot-5w1s-maml-plus-plus")
    for arguments, learns in (([], True), ([flag], False)):
        read = train_arguments("omniglot-5w1s-maml-plus-plus", config, arguments)
        assert read.config.method_settings["learn_rates"] is learns


def test_another_method_of_a_recipe_keeps_what_both_have(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = ["train", "sinusoid-maml", "--method", "reptile", *SHORT, "--inner-batch", "5", "--out", str(folder)]
    assert main(command) == 0
    config = read_run(folder).config
    assert config.method == "reptile"
    assert (config.method_settings["inner_lr"], config.method_settings["inner_batch"]) == (0.01, 5)
    assert main(["train", "sinusoid-maml", *SHORT, "--resume", "--out", str(folder)]) == 2


def test_what_has_no_meaning_for_another_method_is_dropped() -> None:
    config = recipe("omniglot-5w1s-prototypical")
    arguments = ["--method", "reptile", "--method", "maml", "--inner-lr", "0.3"]
    other = train_arguments("omniglot-5w1s-prototypical", config, arguments).config
    assert (config.train_ways, other.train_ways, other.method, other.queries) == (60, None, "maml", 5)
    assert other.method_settings.keys() == recipe("omniglot-5w1s-maml").method_settings.keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["glyphs-5w1s-maml", "--scheme", "maml"], "--scheme belongs to omniglot; the data set here is glyphs"),
        (["sinusoid-maml", "--filters", "3"], "--filters belongs to the network conv4; here it is mlp"),
        (["sinusoid-maml", "--solver", "cg"], "--solver belongs to iMAML; the method here is maml"),
        (["sinusoid-maml", "--particles", "3"], "--particles belongs to Bayesian MAML; the method here is maml"),
        (["sinusoid-maml", "--method", "mmal"], "--method is 'mmal'; choose one of"),
        (["sinusoid-maml", "--dataset=moons"], "--dataset is 'moons'; choose one of omniglot, "),
        (["sinusoid-maml", "--inner-steps", "-1"], "--inner-steps is -1; it must be a whole number of at least 0"),
        (["sinusoid-maml", "--hidden", "0"], "it must be a whole number of at least 1"),
        (["sinusoid-imaml"], "no recipe 'sinusoid-imaml'"),
        (["omniglot-5w1s-imaml", "--strength", "0"], "strength is 0"),
        (["omniglot-5w1s-maml", "--train-ways", "9"], "--train-ways belongs to"),
        (["omniglot-5w1s-foml", "--tail"], "--queries is 0; it must be a whole number of at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_settings_have_the_types_of_the_signature() -> None:
    assert Config.of(inner_lr=1).method_settings["inner_lr"] == 1.0
    assert Config.of(dataset="sinusoids", hidden=[3, 4]).network_settings["hidden"] == (3, 4)
    for wrong in (
        {"inner_lr": "fast"},
        {"inner_steps": 1.5},
        {"inner_steps": True},
        {"adapt": None},
        {"iterations": "many"},
        {"norm": "instance"},
        {"scheme": "mine"},
        {"pace": 1},
    ):
        with pytest.raises(ConfigError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
            Config.of(**wrong)
    with pytest.raises(ConfigError, match="dataset_settings has nothing; expected: scheme"):
        Config()
    choice = Option("form", Literal["svd", "diagonal"], "svd")
    assert choice.checked("diagonal") == "diagonal"


def test_a_configuration_survives_json() -> None:
    for config in RECIPES.values():
        assert Config.from_json(json.loads(json.dumps(config.as_json()))) == config


@pytest.fixture
def toy() -> Iterator[str]:
    """A data set of 40 classes of noise, made known in the way that one's own would be."""

    @registered_data("toy", kind="classification", network="conv4")
    def opened(split: Literal["train", "val", "test"], place: Location, *, grey: int = 128) -> ImageClasses:
        """Noise.

        Args:
            split: which classes.
            place: where it is.
            grey: the darkest grey.
        """
        made = torch.Generator().manual_seed(["train", "val", "test"].index(split))
        return ImageClasses.from_classes(torch.randint(grey, (40, 20, 28, 28), dtype=torch.uint8, generator=made))

    yield "toy"
    del DATASETS["toy"]


def test_a_data_set_is_one_file(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    command = ["train", "omniglot-5w1s-maml", "--dataset", toy, *SHORT, "--filters", "4", "--grey", "90"]
    assert main([*command, "--out", str(folder)]) == 0
    assert read_run(folder).config.dataset_settings == {"grey": 90}
    assert main(["evaluate", str(folder), "--tasks", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["dataset"] == "toy"
    with pytest.raises(SystemExit):
        main(["train", "omniglot-5w1s-maml", "--dataset", toy, "--help"])
    text = capsys.readouterr().out
    assert "The darkest grey." in text
    assert "--scheme" not in text
    with pytest.raises(ValueError, match="already"):
        registered_data("toy", kind="regression", network="mlp")(lambda split, place: None)


def test_a_method_is_one_file(tmp_path: Path) -> None:
    try:

        @registered(title="Two steps", like="maml", recipes={"sinusoid": {"inner_lr": 0.05}})
        def two_steps(inner_lr: float = 0.1, *, boldly: bool = False) -> il.Method:
            """Two steps of MAML.

            Args:
                inner_lr: the rate.
                boldly: with twice the rate.
            """
            return il.maml(inner_lr * (1 + boldly), 2)

        config = recipes_of("two_steps")["sinusoid-two-steps"]
        assert config.method_settings == {"inner_lr": 0.05, "boldly": False}
        assert config.tasks == recipe("sinusoid-maml").tasks
        folder = tmp_path / "run"
        command = ["train", "sinusoid-maml", "--method", "two_steps", *SHORT, "--boldly", "--out", str(folder)]
        assert main(command) == 0
        assert il.Learner.load(folder).method == il.maml(0.02, 2)
        with pytest.raises(ValueError, match="already"):
            registered(title="Again")(two_steps)
    finally:
        METHODS.pop("two_steps", None)
        CARDS.pop("two_steps", None)


def test_a_recipe_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for recipes, said in (({"moon": {}}, "'moon'"), ({"sinusoid": {"pace": 1}}, "no setting --pace")):
        monkeypatch.setitem(CARDS, "maml", il.methods.base.Card("maml", "MAML", recipes=recipes))
        with pytest.raises(ConfigError, match=said):
            recipes_of("maml")
