"""Gradient-based meta-learning: MAML, Reptile and their family."""

from innerloop import data, nets, rules
from innerloop.adaptation import Adaptation
from innerloop.checkpoint import CheckpointError
from innerloop.episode import Episode
from innerloop.evaluation import Evaluation, evaluate
from innerloop.execute import adapt, meta_gradient
from innerloop.learner import Learner, Predictor
from innerloop.metagrad import displacement, first_order, unrolled
from innerloop.method import METHODS, Method
from innerloop.methods import fomaml, maml, reptile
from innerloop.trainer import DivergedError, MetaTrainer, TrainingStopped, Validation

__all__ = [
    "METHODS",
    "Adaptation",
    "CheckpointError",
    "DivergedError",
    "Episode",
    "Evaluation",
    "Learner",
    "MetaTrainer",
    "Method",
    "Predictor",
    "TrainingStopped",
    "Validation",
    "adapt",
    "data",
    "displacement",
    "evaluate",
    "first_order",
    "fomaml",
    "maml",
    "meta_gradient",
    "nets",
    "reptile",
    "rules",
    "unrolled",
]
