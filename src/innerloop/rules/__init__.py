"""Inner-loop update rules: pairs of pure functions over named tensors."""

from innerloop.rules.adam import adam
from innerloop.rules.base import InnerRule, RuleState
from innerloop.rules.sgd import sgd

__all__ = ["InnerRule", "RuleState", "adam", "sgd"]
