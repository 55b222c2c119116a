"""Damaged files of a run: each is refused in one line that names the file and the field, and none with a traceback."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import innerloop as il
from innerloop.learner.files import CheckpointError, load_json, load_state, save_state
from innerloop.recipes import Config, ConfigError, DataSource, read_run, train_run
from innerloop.training.best import best_learners
from innerloop.training.metrics import read_metrics

CONFIG = Config.of(
    dataset="sinusoids",
    method="reptile",
    inner_optimizer="adam",
    shots=5,
    queries=0,
    test_queries=5,
    hidden=(4,),
    inner_lr=0.01,
    inner_steps=2,
    test_steps=2,
    tasks=2,
    outer_optimizer="adam",
    outer_lr=1e-3,
    outer_schedule="linear",
    iterations=4,
    val_every=2,
    val_tasks=2,
    test_tasks=2,
)
MORE = 6  # iterations, where a damaged run is to go on

Damage = Callable[[Path], None]


def train(folder: Path, **options: Any) -> None:
    train_run("one", CONFIG, folder, DataSource(), progress=False, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage") / "run"
    train(folder)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def resume(folder: Path) -> None:
    train(folder, resume=True)


def load(folder: Path) -> None:
    il.Learner.load(folder)


READERS: dict[str, Callable[[Path], object]] = {
    "checkpoint.safetensors": resume,
    "learner.json": load,
    "learner.safetensors": load,
    "config.json": read_run,
}
"""Who reads each file."""


# Ways to damage any file


def cut(share: float) -> Damage:
    def damage(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])

    return damage


def written(data: bytes) -> Damage:
    return lambda path: path.write_bytes(data) and None


def appended(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0\1\2\3")


def folder_in_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_another_program(path: Path) -> None:
    save_file({"weight": torch.ones(2)}, path)


def pickled(path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, path)


ANY: dict[str, Damage] = {
    "empty": written(b""),
    "cut at the first byte": cut(0.0001),
    "cut at a tenth": cut(0.1),
    "cut in the middle": cut(0.5),
    "cut at the end": cut(0.99),
    "zeros": written(bytes(1000)),
    "not UTF-8": written(b"\xff\xfe\x80{}\x81"),
    "NaN text": written(b"NaN"),
    "deep": written(b"[" * 100_000 + b"]" * 100_000),
    "huge header": written((2**60).to_bytes(8, "little") + b"{}"),
    "a folder in its place": folder_in_place,
    "of another program": of_another_program,
    "a pickle": pickled,
}


# Sound files with another structure


def edited(edit: Callable[[Any], Any]) -> Damage:
    """What the edit returns is saved, or if that is None, what it was given."""

    def damage(path: Path) -> None:
        if path.suffix == ".json":
            content = load_json(path)
            new = edit(content)
            path.write_text(json.dumps(content if new is None else new))
        else:
            content = load_state(path)
            new = edit(content)
            save_state(content if new is None else new, path)

    return damage


def put(*place: Any) -> Damage:
    """Put the last argument at the place that the others name."""
    *keys, last, value = place

    def edit(content: Any) -> None:
        for key in keys:
            content = content[key]
        content[last] = copy.deepcopy(value)

    return edited(edit)


def without(*place: Any) -> Damage:
    *keys, last = place

    def edit(content: Any) -> None:
        for key in keys:
            content = content[key]
        del content[last]

    return edited(edit)


def first(edit: Callable[[torch.Tensor], torch.Tensor], *place: Any) -> Damage:
    """Change the first tensor of a table."""

    def change(content: Any) -> None:
        for key in place:
            content = content[key]
        name = next(iter(content))
        content[name] = edit(content[name])

    return edited(change)


def structured(structure: str, **metadata: str) -> Damage:
    """A file with tensors that are sound and a header of its own."""

    def damage(path: Path) -> None:
        save_file({"000000": torch.ones(1)}, path, {"format": "innerloop-state-1", "structure": structure, **metadata})

    return damage


STATES: dict[str, Damage] = {
    "not an object": edited(lambda content: [1, 2]),
    "a number": edited(lambda content: 3),
    "nothing in it": edited(lambda content: {}),
    "one field more": put("surplus", 1),
    "a tensor it has not": structured('{"$tensor": "000007"}'),
    "a tensor without a name": structured('{"$tensor": ["x"]}'),
    "a dict of a number": structured('{"$dict": 3}'),
    "a dict with a list for a key": structured('{"$dict": [[[1], 2]]}'),
    "a tuple of a number": structured('{"$tuple": 3}'),
    "cut JSON in the header": structured('{"w": '),
    "deep JSON in the header": structured("[" * 100_000 + "]" * 100_000),
    "another digest": structured("[]", digest="0" * 32),
    "a header with other fields": structured("[]", digesT="0" * 32),
    "another format": lambda path: save_file({"w": torch.ones(1)}, path, {"format": "innerloop-state-99"}),
}

CHECKPOINT: dict[str, Damage] = {
    **{f"no {name}": without(name) for name in ("iteration", "best", "meta_params", "optimizer", "window", "random")},
    "negative iteration": put("iteration", -1),
    "fractional iteration": put("iteration", 2.5),
    "iteration of text": put("iteration", "2"),
    "iteration true": put("iteration", True),
    "best a list": put("best", [1]),
    "validated missing a number": put("validated", None),
    "unknown execution": put("execution", "sometimes"),
    "execution of zero": put("execution", 0),
    "plans a number": put("plans", 3),
    "plans of lists": put("plans", [[(5, 0, 4), 2, True, 1]]),
    "a plan for sizes in a list": put("plans", [([5, 0, 4], 2, True, 1)]),
    "a plan of no tasks": put("plans", [((5, 0, 4), 0, True, 1)]),
    "a plan on no threads": put("plans", [((5, 0, 4), 2, True, 0)]),
    "a plan cut": put("plans", [((5, 0, 4), 2, True)]),
    "best learners a number": put("best_learners", 3),
    "best learners of lists": put("best_learners", [[2, "loss", 1.0]]),
    "best learners of other things": put("best_learners", [("loss", 2, 1.0)]),
    "best learners cut": put("best_learners", [(2, "loss")]),
    "meta-parameters a list": put("meta_params", [torch.ones(1)]),
    "a parameter a number": put("meta_params", "layers.0.weight", 1.0),
    "no parameters": put("meta_params", {}),
    "a parameter more": put("meta_params", "other", torch.ones(1)),
    "a parameter of another shape": first(lambda t: t[:1], "meta_params"),
    "a parameter of another type": first(torch.Tensor.double, "meta_params"),
    "optimizer a list": put("optimizer", []),
    "optimizer without groups": without("optimizer", "param_groups"),
    "optimizer with no groups": put("optimizer", "param_groups", []),
    "optimizer without a rate": without("optimizer", "param_groups", 0, "lr"),
    "optimizer with a rate of text": put("optimizer", "param_groups", 0, "lr", "fast"),
    "optimizer with betas of one number": put("optimizer", "param_groups", 0, "betas", 0.9),
    "optimizer of other parameters": put("optimizer", "param_groups", 0, "params", [7]),
    "optimizer state of SGD": put("optimizer", "state", {0: {"momentum_buffer": torch.ones(4, 1)}}),
    "optimizer state of a parameter too many": put("optimizer", "state", 99, {"step": torch.ones(())}),
    "optimizer state by name": put("optimizer", "state", {"weight": {}}),
    "optimizer state of another shape": put("optimizer", "state", 0, "exp_avg", torch.ones(9)),
    "optimizer state a text": put("optimizer", "state", 0, "exp_avg", "none"),
    "optimizer state a list": put("optimizer", "state", 0, []),
    "groups of another optimizer": put(
        "optimizer", "param_groups", [{"lr": 0.1, "momentum": 0.9, "params": [0, 1, 2, 3]}]
    ),
    "no scheduler": put("scheduler", None),
    "scheduler a list": put("scheduler", [1]),
    "scheduler without an epoch": without("scheduler", "last_epoch"),
    "scheduler with an epoch of text": put("scheduler", "last_epoch", "two"),
    "scheduler of another kind": put("scheduler", {"T_max": 3, "last_epoch": 1}),
    "scheduler with a list too long": put("scheduler", "base_lrs", [0.1, 0.2]),
    "scheduler with a function": put("scheduler", "step", 3),
    "rule state a number": put("rule_state", 3),
    "rule state of another rule": put("rule_state", {"m": {}}),
    "rule state of other shapes": first(lambda t: torch.ones(9), "rule_state", "v"),
    "window a list": put("window", [1, 2]),
    "window of text": put("window", "iterations", "two"),
    "window with a matrix": put("window", "sums", {"loss": torch.ones(2, 2)}),
    "window one field more": put("window", "more", 1),
    "random numbers of nothing": put("random", {}),
    "random numbers too short": put("random", "cpu", torch.zeros(3, dtype=torch.uint8)),
    "random numbers of floats": put("random", "cpu", torch.zeros(5056)),
    "random numbers on no device": put("random", "cuda", 3),
}

DESCRIPTION: dict[str, Damage] = {
    "not an object": edited(lambda content: [1]),
    "null": written(b"null"),
    **{f"no {name}": without(name) for name in ("format", "net", "method", "loss", "norm", "about")},
    "another format": put("format", "innerloop-learner-99"),
    "format a list": put("format", [1]),
    "one field more": put("surplus", 1),
    "unknown loss": put("loss", "hinge"),
    "loss a list": put("loss", ["mse"]),
    "norm an object": put("norm", {}),
    "net a list": put("net", [1]),
    "net of a number": put("net", "name", 3),
    "unknown net": put("net", "name", "conv5"),
    "net without a name": without("net", "name"),
    "net with another argument": put("net", "arguments", {"depth": 3}),
    "net with an argument of text": put("net", "arguments", {"hidden": "wide"}),
    "net with arguments in a list": put("net", "arguments", [1]),
    "a smaller net": put("net", "arguments", "hidden", [3]),
    "method a number": put("method", 3),
    "method an unknown part": put("method", {"part": "innerloop.no.Such", "fields": {}}),
    "method a function of the system": put("method", {"function": "os.system"}),
    "method a rule": put("method", {"part": "innerloop.rules.sgd.SGD", "fields": {"lr": 0.1}}),
    "method with another field": put("method", "fields", "more", 1),
    "method with fields in a list": put("method", "fields", [1]),
    "method with a rate of text": put("method", "fields", "adaptation", "fields", "rule", "x"),
    "method by a name that is none": put("method", {"name": "mamal", "arguments": {}}),
    "method by a name with another argument": put("method", {"name": "maml", "arguments": {"outer_lr": 3}}),
    "about a list": put("about", [1]),
}

WEIGHTS: dict[str, Damage] = {
    **{f"no {name}": without(name) for name in ("net", "learned", "rule_state")},
    "weights a list": put("net", [torch.ones(1)]),
    "a weight a number": put("net", "more", 1),
    "no weights": put("net", {}),
    "a weight more": put("net", "more", torch.ones(1)),
    "a weight of another shape": first(lambda t: t[:1], "net"),
    "a weight of whole numbers": first(torch.Tensor.long, "net"),
    "learned a number": put("learned", 3),
    "learned what the method does not": put("learned", {"lr": torch.ones(1)}),
    "rule state a number": put("rule_state", 3),
    "rule state of other shapes": first(lambda t: torch.ones(9), "rule_state", "v"),
    "statistics a number": put("statistics", 3),
    "statistics of no layer": put("statistics", {"norm.running_mean": torch.ones(2, 4)}),
}

SETTINGS: dict[str, Damage] = {
    "not an object": edited(lambda content: [1]),
    "null": written(b"null"),
    **{f"no {name}": without(name) for name in ("format", "recipe", "config")},
    "another format": put("format", "innerloop-run-99"),
    "recipe a number": put("recipe", 3),
    "config a list": put("config", [1]),
    "no method": without("config", "method"),
    "no rate": without("config", "method_settings", "inner_lr"),
    "no settings of the method": without("config", "method_settings"),
    "another setting": put("config", "surplus", 1),
    "a setting of another method": put("config", "method_settings", "solver", "cg"),
    "unknown method": put("config", "method", "mamal"),
    "method a list": put("config", "method", ["maml"]),
    "another method": put("config", "method", "imaml"),
    "unknown data": put("config", "dataset", "omnigloss"),
    "shots of text": put("config", "shots", "five"),
    "shots a fraction": put("config", "shots", 1.5),
    "shots below one": put("config", "shots", -1),
    "rate NaN": put("config", "method_settings", "inner_lr", float("nan")),
    "rate a list": put("config", "method_settings", "inner_lr", [0.1]),
    "hidden a number": put("config", "network_settings", "hidden", 40),
    "hidden of text": put("config", "network_settings", "hidden", ["40"]),
    "settings in a list": put("config", "network_settings", [1]),
    "an earlier format": put("format", "innerloop-run-1"),
}

CORPUS = [
    *[(file, name) for file in READERS for name in ANY],
    *[(file, name) for file in ("checkpoint.safetensors", "learner.safetensors") for name in STATES],
    *[("checkpoint.safetensors", name) for name in CHECKPOINT],
    *[("learner.json", name) for name in DESCRIPTION],
    *[("learner.safetensors", name) for name in WEIGHTS],
    *[("config.json", name) for name in SETTINGS],
]
OWN = {
    "checkpoint.safetensors": {**ANY, **STATES, **CHECKPOINT},
    "learner.json": {**ANY, **DESCRIPTION},
    "learner.safetensors": {**ANY, **STATES, **WEIGHTS},
    "config.json": {**ANY, **SETTINGS},
}

BARE = [
    r"\(None\)",
    r"not supported between",
    r"KeyError|TypeError|AttributeError|IndexError|ValueError",
    r"object is not|object has no|has no attribute|unhashable|unexpected keyword argument 'step'",
    r"Traceback",
]
"""What Python says to those who write programs."""


def assert_one_clear_line(error: BaseException, path: Path) -> None:
    message = str(error)
    assert "\n" not in message
    assert path.name in message or str(path.parent) in message
    for pattern in BARE:
        assert not re.search(pattern, message), message
    assert re.search(r"; |give the folder|choose another", message), f"it does not say what to do: {message}"


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("file", "name"), CORPUS, ids=[f"{file}: {name}" for file, name in CORPUS])
def test_a_damaged_file_is_refused_in_one_line(file: str, name: str, run: Path) -> None:
    path = run / file
    OWN[file][name](path)
    before = {p.name for p in run.iterdir()}
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        READERS[file](run)
    assert_one_clear_line(caught.value, path)
    assert {p.name for p in run.iterdir()} >= before


def test_what_is_not_damaged_is_read(run: Path) -> None:
    for read in READERS.values():
        read(run)


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 60
    assert len({file for file, _ in CORPUS}) == 4


@pytest.mark.parametrize("file", ["checkpoint.safetensors", "learner.safetensors"])
def test_a_flipped_bit_is_found_wherever_it_is(file: str, whole: Path, tmp_path: Path) -> None:
    """Files of tensors have a digest, since a weight that is a little off would not be seen."""
    data = (whole / file).read_bytes()
    chance = random.Random(0)
    expected = load_state(whole / file)
    for _ in range(300):
        place = chance.randrange(len(data))
        flipped = bytearray(data)
        flipped[place] ^= 1 << chance.randrange(8)
        (tmp_path / file).write_bytes(flipped)
        try:
            found = load_state(tmp_path / file)
        except CheckpointError as error:
            assert_one_clear_line(error, tmp_path / file)
        else:  # what stands between the fields of the header is of no account
            assert repr(found) == repr(expected), place


@pytest.mark.parametrize("file", ["learner.json", "config.json"])
def test_a_flipped_bit_of_a_text_gives_no_other_error(file: str, run: Path) -> None:
    """A digit may become another, which only its owner can tell; whatever else comes of it is refused."""
    data = (run / file).read_bytes()
    chance = random.Random(0)
    for _ in range(150):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (run / file).write_bytes(flipped)
        try:
            READERS[file](run)
        except (CheckpointError, ConfigError) as error:
            assert_one_clear_line(error, run / file)


def test_a_refused_checkpoint_leaves_the_trainer_as_it_was(run: Path) -> None:
    def make() -> il.MetaTrainer:
        torch.manual_seed(1)
        return il.MetaTrainer(
            il.nets.mlp(hidden=(4,)), il.maml(0.1), torch.optim.Adam, loss_fn=torch.nn.functional.mse_loss
        )

    trainer, other = make(), make()
    trainer.save(run / "own")
    put("random", "cpu", torch.zeros(3, dtype=torch.uint8))(run / "own")
    random_before = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=r"random\.cpu|cpu is a tensor"):
        trainer.load(run / "own")
    assert torch.equal(torch.get_rng_state(), random_before)
    assert trainer.iteration == 0
    assert not trainer.optimizer.state_dict()["state"]
    for name, parameter in trainer.meta_params.items():
        assert torch.equal(parameter, other.meta_params[name])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (put("iteration", -3), "iteration is -3, and must be a whole number of at least 0"),
        (put("best", [1, 2]), "best is a list of 2 items, and must be a number; "),
        (without("random", "cpu"), "random.cpu is absent, and must be a tensor of uint8"),
        (
            put("optimizer", "param_groups", 0, "lr", "fast"),
            "optimizer.param_groups[0].lr is 'fast', and must be a number",
        ),
    ],
)
def test_the_message_names_the_field(damage: Damage, said: str, run: Path) -> None:
    damage(run / "checkpoint.safetensors")
    with pytest.raises(CheckpointError) as caught:
        resume(run)
    assert said in str(caught.value)
    assert str(run / "checkpoint.safetensors") in str(caught.value)


# The record of a run


LINES = {
    "not UTF-8": b"\xff\xfe\x80",
    "not JSON": b'{"iteration": 1, "loss"',
    "a list": b"[1, 2]",
    "no iteration": b'{"loss": 1.0}',
    "an iteration of text": b'{"iteration": "one", "loss": 1.0}',
    "a negative iteration": b'{"iteration": -1, "loss": 1.0}',
    "a loss in a list": b'{"iteration": 1, "loss": [1.0]}',
    "a null": b"null",
    "deep": b"[" * 100_000,
    "empty": b"",
}


@pytest.mark.parametrize("name", LINES)
def test_a_damaged_line_of_the_metrics_costs_no_other(
    name: str, run: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([lines[0], LINES[name] + b"\n", *lines[1:]])
    path.write_bytes(damaged)
    assert read_metrics(run) == read_metrics(whole)
    train_run("one", CONFIG, run, DataSource(), resume=True)
    said = capsys.readouterr().err
    assert f"{path} is damaged in line 2: the other lines are kept, and the whole file as metrics.jsonl.damaged" in said
    assert read_metrics(run) == read_metrics(whole)
    assert (run / "metrics.jsonl.damaged").read_bytes() == damaged


def test_a_last_line_that_was_cut_off_is_no_damage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 2')
    train_run("one", CONFIG, run, DataSource(), resume=True)
    assert "damaged" not in capsys.readouterr().err
    assert not (run / "metrics.jsonl.damaged").exists()


# The best learners


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (put("about", "val_loss", [1]), "about.val_loss is a list of 1 items"),
        (put("about", "iteration", [1]), "about.iteration is a list of 1 items"),
        (without("about", "iteration"), "about.iteration is absent"),
    ],
)
def test_an_ensemble_names_what_is_amiss_with_a_learner(damage: Damage, said: str, run: Path) -> None:
    assert len(best_learners(run, 2)) == 2
    damage(run / "best" / "2" / "learner.json")
    with pytest.raises(CheckpointError) as caught:
        best_learners(run, 2)
    assert said in str(caught.value)
    assert_one_clear_line(caught.value, run / "best" / "2" / "learner.json")
