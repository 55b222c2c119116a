"""The typed configuration of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Config", "ConfigError"]


class ConfigError(ValueError):
    """A setting is out of range, or settings do not fit together."""


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes. Each recipe is one of these."""

    # Task
    dataset: Literal["omniglot", "glyphs", "sinusoids"] = "omniglot"
    """Data set."""
    scheme: Literal["maml", "reptile", "vinyals", "lake"] = "maml"
    """Omniglot: which split into training, validation and test characters, with its authors' preprocessing."""
    test_rotations: Literal["none", "classes", "episode"] | None = None
    """Omniglot: rotated characters in validation and test; as the split's authors did if not given."""
    ways: int = 5
    """Classes in a task."""
    shots: int = 1
    """Support examples of each class, in validation and test; of a task in regression."""
    train_ways: int | None = None
    """Prototypical networks: classes in a task of meta-training; as many as ways if not given. Fine-tuning: classes of
    joint training, which must be all there are."""
    train_shots: int | None = None
    """Support examples of each class in meta-training; as many as shots if not given."""
    joint_batch: int = 64
    """Fine-tuning: images in a mini-batch of joint training."""
    queries: int = 1
    """Query examples of each class in meta-training; of a task in regression."""
    test_queries: int = 1
    """Query examples of each class in validation and test; of a task in regression."""

    # Model
    pool: Literal["mean", "flatten"] = "mean"
    """What the classifier's head sees: the spatial mean of the last features, or all of them."""
    filters: int = 64
    """Filters of each convolution."""
    head_std: float | None = None
    """Standard deviation of the head's initial weights; PyTorch's default if not given."""
    hidden: tuple[int, ...] = (40, 40)
    """Regression: width of each hidden layer."""
    activation: Literal["relu", "tanh"] = "relu"
    """Regression: activation function."""

    # Method: the inner loop
    method: Literal[
        "maml",
        "fomaml",
        "reptile",
        "foml",
        "prototypical",
        "scratch",
        "finetune",
        "nearest_neighbour",
        "anil",
        "boil",
        "meta_sgd",
        "maml_plus_plus",
        "protomaml",
        "cavia",
        "imaml",
        "meta_curvature",
        "gap",
        "alfa",
        "bmaml",
        "t_net",
        "warpgrad",
    ] = "maml"
    """Meta-learning method."""
    inner_lr: float = 0.4
    """Inner learning rate, alpha."""
    inner_steps: int = 1
    """Inner steps in meta-training."""
    inner_batch: int | None = None
    """Reptile, FOML: support examples of each inner step; all of them if not given."""
    inner_optimizer: Literal["adam", "sgd"] = "adam"
    """Reptile, FOML: inner optimizer; Adam has beta1 = 0 and carries its second moments from task to task."""
    test_steps: int = 3
    """Inner steps in validation and test."""
    test_batch: int | None = None
    """Reptile, FOML: support examples of each inner step in validation and test; all of them if not given."""
    tail: bool = False
    """FOML: take the query set as the last mini-batch."""
    adapt: str = "*"
    """Name patterns of the parameters that the inner loop adapts; "* !*.norm.*" leaves out batch norm."""
    head: str = "@last"
    """ANIL, BOIL: name patterns of the head's parameters. Others: the name of its layer. @last is the last layer."""
    multi_step_iterations: int = 5000
    """MAML++: iterations until only the last inner step is scored."""
    first_order_iterations: int = 0
    """MAML++: iterations of first-order gradients at the beginning."""
    per_step: str = ""
    """MAML++: name patterns of the parameters with a learned value for each inner step; "*.norm.*" is batch norm."""
    context_size: int = 5
    """CAVIA: context parameters; further inputs in regression, a modulation of the third block in classification."""
    strength: float = 2.0
    """iMAML: pull back to the initialisation, lambda."""
    particles: int = 5
    """Bayesian MAML: networks that stand for the posterior."""
    repulsion: float = 1.0
    """Bayesian MAML: how strongly particles drive each other apart."""
    weight_decay: float = 0.0
    """Bayesian MAML: how strongly the prior pulls each particle to zero."""
    leader_steps: int = 0
    """Bayesian MAML: steps of the leader in the chaser loss; 0 for the loss of the predictions."""
    solver: Literal["cg", "neumann", "nystrom"] = "cg"
    """iMAML: how the linear system is solved."""
    solver_iterations: int = 5
    """iMAML: products with the Hessian that the solver takes."""
    damping: float = 1.0
    """iMAML: what is added to lambda in the linear system."""
    precondition: str = "*"
    """GAP: name patterns of the matrices and kernels whose gradients have learned factors."""
    form: Literal["svd", "exact_svd", "diagonal"] = "svd"
    """GAP: factors of singular values, with their vectors as constants of the meta-gradient or not; or of rows."""
    inner_decay: float = 5e-4
    """ALFA: weight decay of the inner loop, before it is learned."""
    warp: Literal["linear", "residual"] = "linear"
    """T-Net, WarpGrad: a square matrix after each layer, or a non-linear layer beside an identity."""
    warps: str = "*warp.*"
    """T-Net, WarpGrad: name patterns of the parameters that the inner loop leaves alone, the warp layers' too."""
    norm: Literal["transductive", "inductive"] = "transductive"
    """Batch-norm statistics: of the whole query set, or of each query with the support set."""

    # The outer loop
    iterations: int = 60_000
    """Outer updates."""
    tasks: int = 32
    """Tasks in a meta-batch."""
    outer_optimizer: Literal["adam", "sgd"] = "adam"
    """Outer optimizer; sgd makes the step theta + outer_lr * displacement in Reptile."""
    outer_lr: float = 1e-3
    """Outer learning rate, beta."""
    outer_schedule: Literal["constant", "linear", "cosine", "halving"] = "constant"
    """How the outer learning rate goes down over training, if it does: to zero, or by half every 2000 iterations."""

    # Protocol
    val_tasks: int = 200
    """Tasks of each validation."""
    val_every: int = 500
    """Iterations between validations."""
    test_tasks: int = 600
    """Tasks of an evaluation."""
    statistics_tasks: int = 0
    """Tasks to gather batch-norm statistics for each inner step from, once trained, for evaluate --norm per_step; 0 for
    none."""
    seed: int = 0
    """Seed of the initial weights and of all tasks."""

    def __post_init__(self) -> None:
        for name in (
            *("shots", "queries", "test_queries", "filters", "tasks", "val_tasks", "val_every", "test_tasks"),
            *("context_size", "solver_iterations", "particles", "joint_batch"),
        ):
            least = 0 if name == "queries" and self.mini_batched and not self.tail else 1
            self._check(name, getattr(self, name) >= least, f"a whole number of at least {least}")
        for name in (
            *("iterations", "inner_steps", "test_steps", "multi_step_iterations", "first_order_iterations", "seed"),
            *("leader_steps", "statistics_tasks"),
        ):
            self._check(name, getattr(self, name) >= 0, "a whole number of at least 0")
        for name in ("train_shots", "inner_batch", "test_batch"):
            self._check(name, getattr(self, name) is None or getattr(self, name) >= 1, "a whole number of at least 1")
        for name in ("damping", "inner_decay", "repulsion", "weight_decay"):
            self._check(name, 0 <= getattr(self, name) < math.inf, "a number of at least 0")
        for name in ("inner_lr", "outer_lr", "strength"):
            value = getattr(self, name)
            self._check(name, math.isfinite(value) and value > 0, "a positive number")
        self._check("head_std", self.head_std is None or 0 <= self.head_std < math.inf, "a number of at least 0")
        self._check("ways", self.ways >= 2 or self.dataset == "sinusoids", "a whole number of at least 2")
        self._check("train_ways", self.train_ways is None or self.train_ways >= 2, "a whole number of at least 2")
        if self.train_ways is not None and self.method not in ("prototypical", "finetune"):
            raise ConfigError(
                f"--train-ways belongs to prototypical networks and fine-tuning; the method here is {self.method}"
            )
        self._check("hidden", all(width >= 1 for width in self.hidden), "one or more widths of at least 1")
        if not self.mini_batched and (self.inner_batch is not None or self.test_batch is not None):
            raise ConfigError(
                f"--inner-batch and --test-batch belong to Reptile and FOML; the method here is {self.method}"
            )
        if self.tail and self.method != "foml":
            raise ConfigError(f"--tail belongs to FOML; the method here is {self.method}")
        if self.mini_batched and self.outer_optimizer == "sgd" and self.outer_lr > 1:
            raise ConfigError(f"--outer-lr is {self.outer_lr:g}; Reptile's outer step is a fraction from 0 to 1")

    @property
    def mini_batched(self) -> bool:
        """Whether the method is of Reptile's kind: mini-batches inside, and no query set needed."""
        return self.method in ("reptile", "foml")

    @property
    def regression(self) -> bool:
        """Whether the tasks are of regression."""
        return self.dataset == "sinusoids"

    def _check(self, name: str, good: bool, expected: str) -> None:
        if not good:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be {expected}")
