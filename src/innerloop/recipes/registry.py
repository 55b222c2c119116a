"""The named recipes: the papers' hyperparameters and protocols.

Sources: Finn et al., 2017 (MAML), section 5 and appendix A, and its published code; Nichol et al., 2018 (Reptile),
appendix A, and its published code; for the rest of the family, ``docs/methods/``. There and in ``docs/recipes.md`` is
where a recipe departs from them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from innerloop.recipes.config import Config, ConfigError

__all__ = ["RECIPES", "recipe"]

# MAML on Omniglot. Batch norm's weights are meta-learned but not adapted, and the head starts from N(0, 1).
_MAML_5W = Config(head_std=1.0, adapt="* !*.norm.*", test_steps=3)
_MAML_20W = replace(_MAML_5W, ways=20, tasks=16, inner_lr=0.1, inner_steps=5, test_steps=5)

# Reptile on Omniglot: no queries in meta-training, one for each class in evaluation, over 10,000 tasks.
_REPTILE_5W = Config(
    scheme="reptile",
    method="reptile",
    pool="flatten",
    norm="inductive",
    train_shots=10,
    queries=0,
    inner_lr=1e-3,
    inner_steps=5,
    inner_batch=10,
    test_steps=50,
    test_batch=5,
    tasks=5,
    outer_optimizer="sgd",
    outer_lr=1.0,
    outer_schedule="linear",
    iterations=100_000,
    val_every=2000,
    val_tasks=100,
    test_tasks=10_000,
)
_REPTILE_20W = replace(
    _REPTILE_5W, ways=20, inner_lr=5e-4, inner_steps=10, inner_batch=20, test_batch=10, iterations=200_000
)

_SINUSOID = Config(
    dataset="sinusoids",
    shots=10,
    queries=10,
    test_queries=100,
    inner_lr=0.01,
    test_steps=10,
    tasks=25,
    iterations=70_000,
    val_every=5000,
)

# Glyphs are this project's own; the schedules are short enough for a laptop.
_GLYPHS = Config(dataset="glyphs", queries=5, test_queries=5, tasks=16, iterations=1500, outer_schedule="cosine")

_FAMILY: dict[str, dict[str, Any]] = {
    "anil": {"method": "anil"},
    "boil": {"method": "boil", "inner_lr": 0.5, "inner_steps": 1, "test_steps": 1},
    "meta-sgd": {"method": "meta_sgd", "inner_lr": 0.05, "inner_steps": 1, "test_steps": 1},
    # 100 epochs of 500 iterations; batch norm's weights have a value for each step, and do not follow the gradient.
    "maml-plus-plus": {
        "method": "maml_plus_plus",
        "inner_lr": 0.1,
        "inner_steps": 5,
        "test_steps": 5,
        "adapt": "*",
        "per_step": "*.norm.*",
        "tasks": 8,
        "iterations": 50_000,
        "outer_schedule": "cosine",
        "statistics_tasks": 100,
    },
    "protomaml": {"method": "protomaml"},
    # An episode at a time, of more classes than in test.
    "prototypical": {
        "method": "prototypical",
        "train_ways": 60,
        "queries": 5,
        "tasks": 1,
        "test_steps": 0,
        "iterations": 20_000,
        "outer_schedule": "halving",
    },
    # A classifier of 1,100 characters at four angles.
    "finetune": {
        "method": "finetune",
        "train_ways": 4400,
        "joint_batch": 128,
        "tasks": 1,
        "iterations": 20_000,
        "inner_lr": 0.1,
        "test_steps": 20,
        "adapt": "@last",
        "head_std": None,
    },
    "nearest-neighbour": {"method": "nearest_neighbour", "test_steps": 0, "iterations": 0},
    "scratch": {
        "method": "scratch",
        "inner_lr": 0.5,
        "test_steps": 20,
        "adapt": "*",
        "iterations": 0,
        "head_std": None,
    },
    "cavia": {"method": "cavia", "inner_lr": 10.0, "inner_steps": 2, "test_steps": 2, "context_size": 100},
    "imaml": {"method": "imaml", "inner_lr": 0.1, "inner_steps": 16, "test_steps": 16, "iterations": 20_000},
    "meta-curvature": {"method": "meta_curvature"},
    "t-net": {"method": "t_net", "warps": "*warp.* *.norm.*", "iterations": 40_000},
    "warpgrad": {
        "method": "warpgrad",
        "warp": "residual",
        "warps": "*warp.* *.norm.*",
        "inner_lr": 0.1,
        "inner_steps": 5,
        "test_steps": 5,
    },
    "alfa": {"method": "alfa"},
    "gap": {"method": "gap", "precondition": "*.conv.weight"},
    # The loss is a mean over the support examples, one of each class: 1 in ways is the posterior.
    "bmaml": {"method": "bmaml", "particles": 5, "repulsion": 0.2},
}
_FAMILY_20W: dict[str, dict[str, Any]] = {
    "imaml": {"inner_steps": 25, "test_steps": 25},
    "bmaml": {"repulsion": 0.05},
    "t-net": {"inner_steps": 1, "test_steps": 3},
}


def _omniglot() -> dict[str, Config]:
    cells: dict[str, Config] = {}
    for ways, maml, reptile in ((5, _MAML_5W, _REPTILE_5W), (20, _MAML_20W, _REPTILE_20W)):
        for shots in (1, 5):
            cell = f"omniglot-{ways}w{shots}s"
            # K query images for each class, in meta-training and in test.
            cells[f"{cell}-maml"] = replace(maml, shots=shots, queries=shots, test_queries=shots)
            cells[f"{cell}-fomaml"] = replace(cells[f"{cell}-maml"], method="fomaml")
            cells[f"{cell}-reptile"] = replace(reptile, shots=shots)
        cells[f"omniglot-{ways}w1s-foml"] = replace(reptile, method="foml")
        # The rest of the family, where it says nothing else, has MAML's settings.
        for name, settings in _FAMILY.items():
            more = _FAMILY_20W.get(name, {}) if ways == 20 else {}
            cells[f"omniglot-{ways}w1s-{name}"] = replace(maml, **{**settings, **more})
    return cells


RECIPES: dict[str, Config] = {
    **_omniglot(),
    "sinusoid-maml": _SINUSOID,
    "sinusoid-fomaml": replace(_SINUSOID, method="fomaml"),
    "sinusoid-meta-sgd": replace(_SINUSOID, method="meta_sgd", inner_lr=0.05, test_steps=1),
    "sinusoid-cavia": replace(_SINUSOID, method="cavia", inner_lr=1.0, test_steps=1, iterations=50_000),
    "sinusoid-t-net": replace(_SINUSOID, method="t_net", tasks=4, iterations=60_000),
    "sinusoid-alfa": replace(_SINUSOID, method="alfa", inner_steps=5, test_steps=5),
    "sinusoid-gap": replace(_SINUSOID, method="gap"),
    # By the published code: its first noise of 0.01 and prior of N(0, 1), as weights of a mean squared error.
    "sinusoid-bmaml": replace(
        _SINUSOID,
        method="bmaml",
        hidden=(40, 40, 40),
        particles=10,
        inner_lr=0.1,
        repulsion=0.002,
        weight_decay=0.002,
        leader_steps=1,
        tasks=10,
    ),
    # The settings of the sinusoid experiment published with Reptile: its network, and one task at a time.
    "sinusoid-reptile": replace(
        _SINUSOID,
        method="reptile",
        hidden=(64, 64),
        activation="tanh",
        train_shots=50,
        queries=0,
        inner_optimizer="sgd",
        inner_lr=0.02,
        inner_steps=5,
        inner_batch=10,
        test_steps=32,
        tasks=1,
        outer_optimizer="sgd",
        outer_lr=0.1,
        outer_schedule="linear",
        iterations=30_000,
    ),
    "glyphs-5w1s-maml": _GLYPHS,
    "glyphs-20w1s-maml": replace(
        _GLYPHS, ways=20, tasks=4, queries=2, test_queries=2, inner_lr=0.1, inner_steps=5, test_steps=5
    ),
    "glyphs-5w1s-reptile": replace(
        _REPTILE_5W, dataset="glyphs", scheme="maml", iterations=3000, val_every=500, test_tasks=600
    ),
    "glyphs-20w1s-reptile": replace(
        _REPTILE_20W, dataset="glyphs", scheme="maml", iterations=1500, val_every=500, test_tasks=600
    ),
}
"""Every named recipe."""


def recipe(name: str) -> Config:
    """The configuration of a named recipe.

    Raises:
        ConfigError: there is no such recipe.

    Example:
        >>> recipe("omniglot-5w1s-maml").inner_lr
        0.4
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe {name!r}; 'innerloop recipes' lists them: {', '.join(RECIPES)}")
    return RECIPES[name]
