"""Inner-loop update rules: pairs of pure functions over named tensors."""

from innerloop.rules.adagrad import adagrad
from innerloop.rules.adam import adam, adamw
from innerloop.rules.alfa import alfa
from innerloop.rules.base import InnerRule, RuleState
from innerloop.rules.by_step import by_step
from innerloop.rules.from_torch import from_torch
from innerloop.rules.kronecker import kronecker
from innerloop.rules.learned import learned_rates, learned_sgd
from innerloop.rules.proximal import proximal
from innerloop.rules.rmsprop import rmsprop
from innerloop.rules.settings import learned_settings
from innerloop.rules.sgd import sgd
from innerloop.rules.singular import singular
from innerloop.rules.svgd import svgd
from innerloop.rules.transforms import clipped, scheduled

__all__ = [
    "InnerRule",
    "RuleState",
    "adagrad",
    "adam",
    "adamw",
    "alfa",
    "by_step",
    "clipped",
    "from_torch",
    "kronecker",
    "learned_rates",
    "learned_settings",
    "learned_sgd",
    "proximal",
    "rmsprop",
    "scheduled",
    "sgd",
    "singular",
    "svgd",
]
