"""Learners as scikit-learn estimators: ``fit`` adapts to a few examples, ``predict`` answers. Needs scikit-learn.

They work in pipelines, in cross-validation and in searches over ``steps``. The classes are those of scikit-learn's own
base classes, so that they have its usual methods: ``get_params``, ``set_params``, ``score`` and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from innerloop.data import ArrayPreprocessing
from innerloop.extras import extra
from innerloop.learner.learner import Learner
from innerloop.learner.predictor import Predictor

with extra("sklearn"):
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["FewShotClassifier", "FewShotRegressor"]

Source = Learner | str | Path | Callable[[int], Learner]
"""A learner, the folder of one, or a function that makes one for a number of features."""


class _FewShot(BaseEstimator):  # type: ignore[misc]
    """What both estimators share: the learner, and how inputs are checked."""

    learner: Source | None
    steps: int | None

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_task")

    def __getstate__(self) -> dict[str, Any]:
        # Adapting is deterministic. So the task is kept, and the predictor is made from it again.
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "predictor_"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_task" in state:
            self._adapt()

    def _adapt(self) -> None:
        self.predictor_: Predictor = self.learner_.adapt(*self._task, steps=self.steps)

    def _learner_for(self, inputs: Any) -> Learner:
        """The learner, read or made where it is given as a folder or a function."""
        if self.learner is None:
            raise ValueError(f"{type(self).__name__} needs a learner: give a Learner, or the folder of one")
        if isinstance(self.learner, Learner):
            return self.learner
        if isinstance(self.learner, str | Path):
            return Learner.load(self.learner)
        return self.learner(np.shape(inputs)[1])

    def _takes_arrays(self, learner: Learner) -> bool:
        return learner.preprocessing is None or isinstance(learner.preprocessing, ArrayPreprocessing)

    def _examples(self, inputs: Any, y: Any, **checks: Any) -> tuple[Any, Any, Learner]:
        """Examples as the learner takes them, and the learner."""
        given = self._learner_for(None) if isinstance(self.learner, Learner | str | Path) else None
        if given is not None and not self._takes_arrays(given):
            inputs, y = validate_data(self, inputs, y, skip_check_array=True)
            return inputs, np.asarray(y), given
        inputs, y = validate_data(self, inputs, y, allow_nd=True, dtype=np.float64, **checks)
        return inputs, y, given or self._learner_for(inputs)

    def _checked(self, inputs: Any) -> Any:
        """Queries as the predictor takes them."""
        check_is_fitted(self)
        if not self._takes_arrays(self.learner_):
            return validate_data(self, inputs, reset=False, skip_check_array=True)
        return validate_data(self, inputs, reset=False, allow_nd=True, dtype=np.float64)


class FewShotClassifier(ClassifierMixin, _FewShot):  # type: ignore[misc]
    """A classifier that learns from a few examples of each class, by a meta-learned start.

    Args:
        learner: a learner that was trained for classification, or the folder that holds one. It can also be a function
            that makes a learner for a number of features, for methods that need no meta-training.
        steps: the number of inner steps. None means the method's.

    Attributes:
        classes_: the labels, in the order of the columns of ``predict_proba``.
        learner_: the learner.
        predictor_: the learner adapted to the examples.

    Raises:
        ValueError: when fitted, no learner is given, or it cannot tell as many classes apart.

    Example:
        >>> import torch, innerloop as il
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.model_selection import train_test_split
        >>> x, y = load_iris(return_X_y=True)
        >>> few_x, x, few_y, y = train_test_split(x, y, train_size=30, stratify=y, random_state=0)
        >>> _ = torch.manual_seed(0)
        >>> learner = il.Learner(il.nets.mlp(4, 3), il.protomaml(0.01))
        >>> bool(FewShotClassifier(learner).fit(few_x, few_y).score(x, y) > 0.8)
        True
    """

    def __init__(self, learner: Source | None = None, *, steps: int | None = None) -> None:
        self.learner = learner
        self.steps = steps

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 - scikit-learn's name
        """Adapt the learner to examples.

        Args:
            X: the inputs, ``[N, ...]``: numbers, or what the learner's preprocessing takes.
            y: the label of each.

        Raises:
            ValueError: the examples or the learner do not fit.
        """
        inputs, y, learner = self._examples(X, y)
        check_classification_targets(y)
        self.classes_: NDArray[Any] = np.unique(y)
        self.learner_, self._task = learner, (inputs, y)
        self._adapt()
        return self

    def predict_proba(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """The class probabilities ``[N, len(classes_)]``."""
        queries = self._checked(X)
        probabilities: NDArray[Any] = self.predictor_.predict_proba(queries).cpu().numpy()
        return probabilities

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """The label of the most probable class of each input."""
        check_is_fitted(self)
        found: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(1)]
        return found


class FewShotRegressor(RegressorMixin, _FewShot):  # type: ignore[misc]
    """A regressor that learns from a few examples, by a meta-learned start.

    Args:
        learner: a learner that was trained for regression, or the folder that holds one, or a function that makes one
            for a number of features.
        steps: the number of inner steps. None means the method's.

    Attributes:
        learner_: the learner.
        predictor_: the learner adapted to the examples.

    Raises:
        ValueError: when fitted, no learner is given, or the targets are not one number for each of its outputs.

    Example:
        >>> import torch, innerloop as il
        >>> learner = il.Learner(il.nets.mlp(1, 1), il.maml(0.01, 5), loss_fn=torch.nn.functional.mse_loss)
        >>> FewShotRegressor(learner, steps=3).fit([[0.0], [1.0]], [1.0, 3.0]).predict([[0.5]]).shape
        (1,)
    """

    def __init__(self, learner: Source | None = None, *, steps: int | None = None) -> None:
        self.learner = learner
        self.steps = steps

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 - scikit-learn's name
        """Adapt the learner to examples.

        Args:
            X: the inputs, ``[N, ...]``: numbers, or what the learner's preprocessing takes.
            y: the target of each, ``[N]``.

        Raises:
            ValueError: the examples or the learner do not fit.
        """
        inputs, y, learner = self._examples(X, y, y_numeric=True)
        self.learner_, self._task = learner, (inputs, np.asarray(y, dtype=np.float64))
        self._adapt()
        return self

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """The predicted values."""
        queries = self._checked(X)
        return np.asarray(self.predictor_.predict(queries))
