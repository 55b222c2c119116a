"""``innerloop export``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from innerloop.cli.adapt import adapted_to
from innerloop.cli.arguments import ExportArguments, UsageError, parse
from innerloop.export import Exported, adaptation, predictor, program
from innerloop.extras import need
from innerloop.learner.learner import Learner
from innerloop.recipes import Config, read_run

__all__ = ["export"]


def export(argv: Sequence[str]) -> int:
    """Write a run's learner to a file that needs no Python. Return 0.

    Raises:
        UsageError: the command line has a mistake.
        ExportError: the learner cannot be exported.
    """
    arguments = parse(ExportArguments, "export", argv)
    file = arguments.file
    if file.suffix not in (".onnx", ".pt2"):
        raise UsageError(f"FILE is {file}; its name must end with .onnx, or with .pt2 for a program of torch.export")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"FILE is {file}, whose folder does not exist; create it")
    if file.suffix == ".pt2" and arguments.support is None:
        raise UsageError("a program of torch.export holds an adapted predictor; add --support DIR with the task")
    if file.suffix == ".onnx":
        need("export")
    if arguments.support is None:
        config = read_run(arguments.run).config
        learner = Learner.load(arguments.run, norm=arguments.norm)
        exported = _adaptation(learner, config, arguments)
    else:
        learner = Learner.load(arguments.run, norm=arguments.norm)
        adapted = adapted_to(learner, arguments.support, steps=arguments.steps)
        if file.suffix == ".pt2":
            torch.export.save(program(adapted), file)
            print(f"{file}: the adapted predictor as a program of torch.export")
            return 0
        exported = predictor(adapted, file, tolerance=arguments.tolerance)
    print(_described(exported, learner))
    if arguments.json:
        print(json.dumps(_as_json(exported)))
    return 0


def _adaptation(learner: Learner, config: Config, arguments: ExportArguments) -> Exported:
    """Export adaptation itself. The example task is made of random numbers in the shape that the network takes."""
    settings, shots = (learner.net_spec or {}).get("arguments", {}), config.shots
    generator = torch.Generator().manual_seed(0)
    if config.regression:
        x = torch.randn(shots, settings.get("inputs", 1), generator=generator)
        y = torch.randn(shots, settings.get("outputs", 1), generator=generator)
    else:
        size, count = settings.get("size", 28), config.ways * shots
        x = torch.rand(count, settings.get("channels", 1), size, size, generator=generator)
        y = torch.arange(count) % config.ways
    return adaptation(
        learner,
        arguments.file,
        x,
        y,
        steps=arguments.steps,
        inner_lr=arguments.inner_lr,
        every_step=arguments.every_step,
        inputs=arguments.inputs,
        tolerance=arguments.tolerance,
    )


def _described(exported: Exported, learner: Learner) -> str:
    what = f"{exported.file}: {exported.size / 1e6:.2f} MB, {exported.nodes} nodes, batch norm {learner.norm}"
    names = f"takes {', '.join(exported.inputs)}; gives {', '.join(exported.outputs)}"
    return f"{what}\n{names}\nchecked in ONNX Runtime: at most {exported.difference:.1e} from PyTorch"


def _as_json(exported: Exported) -> dict[str, Any]:
    return {
        "file": str(exported.file),
        "inputs": exported.inputs,
        "outputs": exported.outputs,
        "difference": exported.difference,
        "nodes": exported.nodes,
        "size": exported.size,
    }
