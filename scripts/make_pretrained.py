"""Train the learners that the package brings along, and write them to src/innerloop/learner/weights.

    python scripts/make_pretrained.py [NAME ...] [--data-dir D] [--out FOLDER]

Without names it makes all of them. Each is trained on one thread within 20 minutes of processor time, tested on classes
that it has not seen, and saved. Its settings, the command, the time and the accuracies are in ``about`` of its
``learner.json``.

Every learner is the same small network with the same inner loop: gradient descent on all layers, from a linear head
of zeros. Since the head has nothing to meta-learn, it may have as many outputs as a task has classes, and the order of
the classes does not matter. Only the initial weights of the body differ: MAML's, Reptile's, or random ones.
Meta-training mixes tasks of several numbers of classes and examples.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import innerloop as il
from innerloop.data.images import ImageClasses
from innerloop.inner.starts import NewHead
from innerloop.randomness import Stream, generator_at

WEIGHTS = Path(il.__file__).parent / "learner" / "weights"
TEST_STEPS, MOST_WAYS, SEED = 10, 20, 0
NET = {"name": "conv4", "arguments": {"ways": MOST_WAYS, "filters": 32, "pool": "flatten"}}


@dataclass(frozen=True)
class Kind:
    """A kind of meta-training tasks: classes, support and query examples of each, inner steps, tasks at a time."""

    ways: int
    shots: int
    queries: int
    steps: int
    tasks: int
    batch: int | None = None


@dataclass(frozen=True)
class Settings:
    """How one method is meta-trained. The kinds of tasks take turns. The outer rate falls to zero."""

    meta_gradient: il.MetaGradient
    inner_lr: float
    outer: type[torch.optim.Optimizer]
    outer_lr: float
    cosine: bool
    iterations: int
    kinds: tuple[Kind, ...]


SETTINGS = {
    "maml": Settings(
        il.unrolled(),
        0.1,
        torch.optim.Adam,
        2e-3,
        True,
        1600,
        (Kind(5, 1, 3, 5, 8), Kind(20, 1, 2, 5, 4), Kind(10, 2, 2, 5, 4)),
    ),
    "reptile": Settings(
        il.displacement(),
        0.4,
        torch.optim.SGD,
        1.0,
        False,
        3000,
        (Kind(20, 5, 0, 8, 4, 20),),
    ),
}


def method(settings: Settings, kind: Kind) -> il.Method:
    """The method for one kind of tasks: in meta-training as the kind says, and on new tasks as the page shows it."""
    adaptation = il.Adaptation(il.rules.sgd(settings.inner_lr), kind.steps, kind.batch, start=NewHead(ways=kind.ways))
    return il.Method(adaptation, settings.meta_gradient, replace(adaptation, steps=TEST_STEPS, batch_size=None))


def train(settings: Settings, data: ImageClasses) -> Iterator[tuple[int, torch.nn.Module]]:
    """Meta-train, and yield the number of iterations and the network as it goes."""
    torch.manual_seed(SEED)
    net = il.nets.NETS[NET["name"]](**NET["arguments"])
    body = {name: p for name, p in net.named_parameters() if not name.startswith("head.")}
    optimizer = settings.outer(body.values(), lr=settings.outer_lr)
    engine = il.Engine(net)
    for iteration in range(settings.iterations):
        done = iteration / settings.iterations
        for group in optimizer.param_groups:
            group["lr"] = settings.outer_lr * ((1 + math.cos(math.pi * done)) / 2 if settings.cosine else 1 - done)
        kind = settings.kinds[iteration % len(settings.kinds)]
        generator = generator_at(SEED, Stream.TRAINING, iteration)
        episode = data.episodes(kind.ways, kind.shots, kind.queries, kind.tasks)(generator)
        grads, _ = engine.meta_gradient(method(settings, kind), episode, generator=generator)
        for name, p in body.items():
            p.grad = grads[name]
        optimizer.step()
        yield iteration + 1, net


def learner(net: torch.nn.Module, settings: Settings, ways: int | None, about: dict[str, Any]) -> il.Learner:
    """The learner for tasks of this many classes. None means up to as many as the network has outputs."""
    with torch.no_grad():  # the head's own values are never used
        for name, p in net.named_parameters():
            if name.startswith("head."):
                p.zero_()
    made = method(settings, settings.kinds[0])
    adaptation = replace(made.adaptation, start=NewHead(ways=ways))
    test = replace(made.test, start=NewHead(ways=ways))
    return il.Learner(net, replace(made, adaptation=adaptation, test_adaptation=test), net_spec=NET, about=about)


def measure(net: torch.nn.Module, settings: Settings, data: ImageClasses) -> list[dict[str, Any]]:
    """The accuracy on tasks of new classes, one query of each class, where no prediction depends on other queries."""
    rows = []
    for ways, shots, tasks in ((5, 1, 600), (5, 5, 200), (20, 1, 100)):
        made = learner(net, settings, ways, {})
        result = made.evaluate(data.episodes(ways, shots, 1, 20), tasks=tasks, every_step=False)
        rows.append(
            {
                "ways": ways,
                "shots": shots,
                "tasks": tasks,
                "norm": result.norm,
                "accuracy": round(result.mean, 4),
                "ci95": round(result.ci95, 4),
            }
        )
    return rows


def make(name: str, data_dir: Path | None, out: Path) -> None:
    """Train, test and save one learner."""
    dataset, _, kind = name.partition("-")
    if dataset == "omniglot":
        train_data, test_data = (
            il.data.omniglot(data_dir, split, "lake", rotations=turns)
            for split, turns in (("train", "classes"), ("test", "none"))
        )
        said = "Omniglot: 964 background characters and their quarter turns; tested on the 659 evaluation characters"
    else:
        train_data, test_data = il.data.glyphs("train", rotations="classes"), il.data.glyphs("test")
        said = "glyphs: 2000 generated characters and their quarter turns; tested on 700 others"
    settings = SETTINGS[kind]
    if dataset == "glyphs":  # they are easier
        settings = replace(settings, iterations=settings.iterations // 2)
    started = time.process_time()
    for iteration, net in train(settings, train_data):
        if iteration % 500 == 0 or iteration == settings.iterations:
            result = learner(net, settings, 5, {}).evaluate(train_data.episodes(5, 1, 1, 20), tasks=100)
            seconds = time.process_time() - started
            print(f"{name} {iteration} {seconds:.0f} s, training classes: {100 * result.mean:.1f} %", flush=True)  # noqa: T201
    seconds = time.process_time() - started
    about = {
        "name": name,
        "title": {"maml": "MAML", "reptile": "Reptile"}[kind],
        "data": said,
        "ink": 1,
        "command": f"python scripts/make_pretrained.py {name}",
        "iterations": settings.iterations,
        "cpu_minutes": round(seconds / 60, 1),
        "machine": f"{platform.machine()}, one thread, PyTorch {torch.__version__.partition('+')[0]}",
    }
    learner(net, settings, None, about).save(out / name)  # before the test, which takes minutes
    rows = measure(net, settings, test_data)
    learner(net, settings, None, {**about, "accuracy": rows}).save(out / name)
    print(name, [(row["ways"], row["shots"], row["accuracy"]) for row in rows], flush=True)  # noqa: T201


def main() -> None:
    """Make the learners that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [f"{dataset}-{kind}" for dataset in ("omniglot", "glyphs") for kind in SETTINGS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(names)}; all if none is given")
    parser.add_argument("--data-dir", type=Path, help="the folder of Omniglot")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="the folder to write to")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"there is no {', '.join(unknown)}; choose any of {', '.join(names)}")
    torch.set_num_threads(1)
    for name in arguments.names or names:
        make(name, arguments.data_dir, arguments.out)


if __name__ == "__main__":
    main()
