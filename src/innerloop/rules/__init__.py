"""Inner-loop update rules: frozen dataclasses of pure functions over named tensors.

Every rule has two names: its class, such as ``SGD``, and the same word in small letters, ``sgd``. Compositions use the
small one.
"""

from innerloop.rules.adagrad import Adagrad, adagrad
from innerloop.rules.adam import Adam, AdamW, adam, adamw
from innerloop.rules.alfa import ALFA, alfa
from innerloop.rules.base import InnerRule, Rule, RuleState
from innerloop.rules.by_step import ByStep, by_step
from innerloop.rules.from_torch import from_torch
from innerloop.rules.kronecker import Kronecker, kronecker
from innerloop.rules.learned import LearnedRates, learned_rates, learned_sgd
from innerloop.rules.proximal import Proximal, proximal
from innerloop.rules.rmsprop import RMSprop, rmsprop
from innerloop.rules.settings import LearnedSettings, learned_settings
from innerloop.rules.sgd import SGD, sgd
from innerloop.rules.singular import Singular, singular
from innerloop.rules.svgd import SVGD, svgd
from innerloop.rules.transforms import Clipped, Scheduled, clipped, scheduled

__all__ = [
    "ALFA",
    "SGD",
    "SVGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "ByStep",
    "Clipped",
    "InnerRule",
    "Kronecker",
    "LearnedRates",
    "LearnedSettings",
    "Proximal",
    "RMSprop",
    "Rule",
    "RuleState",
    "Scheduled",
    "Singular",
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
