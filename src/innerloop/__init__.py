"""Gradient-based meta-learning: MAML, Reptile and their family."""

from innerloop import data, export, hub, nets, plots, rules
from innerloop.engine.engine import Engine
from innerloop.engine.functions import adapt, meta_gradient
from innerloop.engine.runtime import Runtime, runtime
from innerloop.episode import Episode
from innerloop.evaluation.calibration import Calibration
from innerloop.evaluation.evaluate import Evaluation, evaluate
from innerloop.inner.adaptation import Adaptation
from innerloop.inner.loop import InnerLoop
from innerloop.inner.meta import Meta
from innerloop.learner.files import CheckpointError
from innerloop.learner.learner import Learner
from innerloop.learner.predictor import Predictor, Uncertainty
from innerloop.learner.pretrained import PRETRAINED, pretrained
from innerloop.learner.trace import Trace
from innerloop.metagrad import (
    Info,
    MetaGradient,
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
from innerloop.methods import (
    alfa,
    anil,
    bmaml,
    boil,
    cavia,
    clamped_meta_sgd,
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
    sharp_maml,
    t_net,
    warpgrad,
)
from innerloop.methods.base import METHODS, Method
from innerloop.training.callbacks import Callback, Training
from innerloop.training.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from innerloop.training.sharpness import SharpnessAware
from innerloop.training.stopping import EarlyStopping
from innerloop.training.trainer import DivergedError, MetaTrainer, TrainingStopped, Validation

__all__ = [
    "METHODS",
    "PRETRAINED",
    "Adaptation",
    "CSVLogger",
    "Calibration",
    "Callback",
    "CheckpointError",
    "DivergedError",
    "EarlyStopping",
    "Engine",
    "Episode",
    "Evaluation",
    "Info",
    "InnerLoop",
    "Learner",
    "Meta",
    "MetaGradient",
    "MetaTrainer",
    "Method",
    "Predictor",
    "Runtime",
    "SharpnessAware",
    "TensorBoardLogger",
    "Trace",
    "Training",
    "TrainingStopped",
    "Uncertainty",
    "Validation",
    "WandbLogger",
    "adapt",
    "alfa",
    "anil",
    "bmaml",
    "boil",
    "cavia",
    "chaser",
    "checkpointed",
    "clamped_meta_sgd",
    "data",
    "displacement",
    "evaluate",
    "export",
    "finetune",
    "first_order",
    "fomaml",
    "foml",
    "gap",
    "hub",
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
    "plots",
    "pretrained",
    "protomaml",
    "prototypical",
    "reptile",
    "rules",
    "runtime",
    "scratch",
    "sharp_maml",
    "t_net",
    "trajectory",
    "unrolled",
    "untrained",
    "warpgrad",
]
