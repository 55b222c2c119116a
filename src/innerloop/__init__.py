"""Gradient-based meta-learning: MAML, Reptile and their family."""

from innerloop import data, nets, rules
from innerloop.adaptation import Adaptation
from innerloop.calibration import Calibration
from innerloop.checkpoint import CheckpointError
from innerloop.episode import Episode
from innerloop.evaluation import Evaluation, evaluate
from innerloop.execute import adapt, meta_gradient
from innerloop.learner import Learner
from innerloop.metagrad import (
    chaser,
    checkpointed,
    displacement,
    first_order,
    implicit,
    mixed_mode,
    trajectory,
    unrolled,
    untrained,
)
from innerloop.method import METHODS, Method
from innerloop.methods import (
    alfa,
    anil,
    bmaml,
    boil,
    cavia,
    finetune,
    fomaml,
    foml,
    gap,
    imaml,
    maml,
    maml_plus_plus,
    meta_curvature,
    meta_sgd,
    nearest_neighbour,
    protomaml,
    prototypical,
    reptile,
    scratch,
    t_net,
    warpgrad,
)
from innerloop.predictor import Predictor, Uncertainty
from innerloop.trainer import DivergedError, MetaTrainer, TrainingStopped, Validation

__all__ = [
    "METHODS",
    "Adaptation",
    "Calibration",
    "CheckpointError",
    "DivergedError",
    "Episode",
    "Evaluation",
    "Learner",
    "MetaTrainer",
    "Method",
    "Predictor",
    "TrainingStopped",
    "Uncertainty",
    "Validation",
    "adapt",
    "alfa",
    "anil",
    "bmaml",
    "boil",
    "cavia",
    "chaser",
    "checkpointed",
    "data",
    "displacement",
    "evaluate",
    "finetune",
    "first_order",
    "fomaml",
    "foml",
    "gap",
    "imaml",
    "implicit",
    "maml",
    "maml_plus_plus",
    "meta_curvature",
    "meta_gradient",
    "meta_sgd",
    "mixed_mode",
    "nearest_neighbour",
    "nets",
    "protomaml",
    "prototypical",
    "reptile",
    "rules",
    "scratch",
    "t_net",
    "trajectory",
    "unrolled",
    "untrained",
    "warpgrad",
]
