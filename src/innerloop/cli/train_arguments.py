"""The arguments of ``innerloop train``. They include only the options of the recipe's data set, network and method."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, arg

from innerloop.cli.arguments import DataArguments, RunArguments, parse
from innerloop.data import DATASETS
from innerloop.methods.base import METHODS
from innerloop.nets.own import OwnNetworkError, is_own, own_network
from innerloop.recipes import Config
from innerloop.recipes.build import Running
from innerloop.recipes.config import all_options, common_options, elsewhere
from innerloop.recipes.options import ConfigError, Option, flag
from innerloop.recipes.watching import Watching

__all__ = ["TrainArguments", "given", "spread", "train_arguments"]

PARTS = ("dataset", "network", "method")
"""The prefixes of the long names of options, such as ``--method.inner-lr``."""


@dataclass(frozen=True)
class TrainArguments:
    """The arguments of ``innerloop train``, as read from the command line."""

    run: RunArguments
    data: DataArguments
    running: Running
    watching: Watching
    config: Config


def train_arguments(recipe: str, config: Config, argv: Sequence[str]) -> TrainArguments:
    """Read the arguments of ``innerloop train RECIPE``.

    Args:
        recipe: the name of the recipe, for messages.
        config: the recipe.
        argv: the arguments after the recipe's name.

    Raises:
        UsageError: the arguments have a mistake. The message is one line.
        ConfigError: a setting is unknown, belongs to another data set or method, or is out of range.
        SystemExit: help was asked for and printed.
    """
    chosen: dict[str, Any] = {
        name: value for name in ("dataset", "method", "network") if (value := given(name, argv)) is not None
    }
    if chosen.get("network") in ("None", "none"):
        chosen["network"] = None
    if is_own(network := chosen.get("network") or ""):
        try:
            own_network(network, trusted=True)  # the user names it here
        except OwnNetworkError as error:
            raise ConfigError(f"--network: {error}") from error
    config = config.override(**chosen)
    argv = spread(config, argv)
    _refuse_others(config, argv)
    parts = all_options(*config.parts)
    values = config.flat()
    groups: dict[str, tuple[str, type]] = {
        "settings": ("Task, outer loop and protocol.", _group("Settings", _shown(config), values)),
        **{
            part: (f"Options of {title}.", _group(part.capitalize(), options, values, prefix=part))
            for part, title, options in zip(PARTS, _titles(config), parts, strict=True)
            if options
        },
    }
    for title, group in groups.values():
        group.__doc__ = title
    command = make_dataclass(
        "Train",
        [
            (name, Annotated[kind, OmitArgPrefixes], field(default_factory=kind))
            for name, kind in [
                *(("run", RunArguments), ("data", DataArguments), ("running", Running), ("watching", Watching)),
                *((name, group) for name, (_, group) in groups.items()),
            ]
        ],
        frozen=True,
    )
    command.__doc__ = "Train with a recipe. Every setting of the recipe can be overridden."
    found: Any = parse(command, f"train {recipe}", argv)
    values = {name: value for group in groups for name, value in vars(getattr(found, group)).items()}
    return TrainArguments(found.run, found.data, found.running, found.watching, config.override(**values))


_SEVERAL = re.compile(r"(\d+)-(\d+)|\d+(?:,\d+)+")


def spread(config: Config, argv: Sequence[str]) -> list[str]:
    """Arguments in which several numbers of classes or examples are written out.

    ``--ways 3-8`` and ``--shots 1,5`` become the numbers that meta-batches of meta-training draw from. Validation and
    test keep the recipe's number if it is among them, and take the largest if it is not.

    Raises:
        ConfigError: a range is empty.

    Example:
        >>> from innerloop.recipes import recipe
        >>> spread(recipe("glyphs-5w1s-maml"), ["--shots", "2,5", "--ways=4-6", "--seed", "1"])
        ['--seed', '1', '--shots', '5', '--varied-shots', '2', '5', '--varied-ways', '4', '5', '6']
    """
    words: list[str] = []
    for word in argv:
        name, equals, value = word.partition("=")
        words += [name, value] if equals and name.removeprefix("--") in _VARIABLE else [word]
    rest, found = [], []
    place = 0
    while place < len(words):
        name, value = words[place].removeprefix("--"), words[place + 1] if place + 1 < len(words) else ""
        match = _SEVERAL.fullmatch(value) if words[place].startswith("--") and name in _VARIABLE else None
        if match is None:
            rest.append(words[place])
            place += 1
            continue
        low, high = match.group(1), match.group(2)
        numbers = list(range(int(low), int(high) + 1)) if low else sorted({int(each) for each in value.split(",")})
        if not numbers:
            raise ConfigError(f"--{name} is {value}; write the lower number first")
        if name.startswith("train-"):
            found += [f"--{name}", "None"]
        elif name != "queries" and getattr(config, name) not in numbers:
            found += [f"--{name}", str(numbers[-1])]
        found += [f"--varied-{name.removeprefix('train-')}", *map(str, numbers)]
        place += 2
    return rest + found


_VARIABLE = ("ways", "shots", "queries", "train-ways", "train-shots")


def _group(name: str, options: Mapping[str, Option], values: Mapping[str, Any], *, prefix: str = "") -> type:
    """A dataclass of options, with the recipe's values as defaults."""
    fields = []
    for option in options.values():
        # A switch that is on by default gets names that turn it off.
        no = "no-" if option.type is bool and values[option.name] else ""
        long = f"--{prefix}.{no}{option.name.replace('_', '-')}"
        config = arg(help=option.help, aliases=[long] if prefix else None)
        fields.append((option.name, Annotated[option.type, config], field(default=values[option.name])))
    return make_dataclass(name, fields, frozen=True)


def _shown(config: Config) -> dict[str, Option]:
    """The settings that do not depend on the method, without those that this method does not use."""
    shown = {}
    for name, option in common_options().items():
        kind = {"dataset": Literal[tuple(DATASETS)], "method": Literal[tuple(METHODS)]}.get(name, option.type)
        if not elsewhere(name, *config.parts):
            shown[name] = Option(name, kind, option.default, _field_help()[name])
    return shown


def _titles(config: Config) -> tuple[str, str, str]:
    return f"the data set {config.dataset}", "the network", config.card.title


def _field_help() -> dict[str, str]:
    """The docstrings of the fields of :class:`Config`."""
    tree = ast.parse(Path(inspect.getfile(Config)).read_text())
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config")
    found = {}
    for before, node in pairwise(body):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(node, ast.Expr):
            found[before.target.id] = " ".join(str(ast.literal_eval(node.value)).split())
    return found


def given(name: str, argv: Sequence[str]) -> str | None:
    """The value of an option on the command line; None if it is not given."""
    found = None  # of several, the last counts
    for word, after in zip(argv, [*argv[1:], None], strict=False):
        if word == flag(name):
            found = after
        elif word.startswith(f"{flag(name)}="):
            found = word.partition("=")[2]
    return found


def _refuse_others(config: Config, argv: Sequence[str]) -> None:
    """Raise ``ConfigError`` for an option of another data set or method. The message names its owner."""
    for word in argv:
        name = word.partition("=")[0].removeprefix("--").rpartition(".")[2].replace("-", "_")
        if word.startswith("--") and (owner := elsewhere(name, *config.parts)):
            raise ConfigError(owner)
