"""The estimators in scikit-learn's own checks, and in its tools."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import innerloop as il

pytest.importorskip("sklearn")

from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from innerloop.sklearn import FewShotClassifier, FewShotRegressor


@dataclass(frozen=True)
class Untrained:
    """A learner for any number of features, which the checks vary. Its ``repr``, a test's name, is always the same."""

    kind: Literal["classifier", "regressor"]

    def __call__(self, features: int) -> il.Learner:
        torch.manual_seed(0)
        if self.kind == "classifier":
            return il.Learner(il.nets.mlp(features, 2, (32,)), il.protomaml(0.05, 5))
        adaptation = il.Adaptation(il.rules.adam(0.02), steps=60)
        net = nn.Sequential(nn.Linear(features, 16), nn.Tanh(), nn.Linear(16, 1))
        return il.Learner(net, il.Method(adaptation, il.unrolled()), loss_fn=F.mse_loss)


CHECKS = [  # without any exception
    pair
    for estimator in (FewShotClassifier(Untrained("classifier")), FewShotRegressor(Untrained("regressor")))
    for pair in estimator_checks_generator(estimator)
]


@pytest.mark.parametrize(
    ("estimator", "check"), CHECKS, ids=[f"{type(one).__name__}-{check.func.__name__}" for one, check in CHECKS]
)
@pytest.mark.filterwarnings("ignore")  # the checks provoke warnings of scikit-learn's own
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def digits(path: Path | None = None) -> il.Learner:
    torch.manual_seed(0)
    spec = {"name": "mlp", "arguments": {"inputs": 4, "outputs": 3}}
    learner = il.Learner(il.nets.mlp(4, 3), il.protomaml(0.05, 2), net_spec=spec)
    if path is not None:
        learner.save(path)
    return learner


def task() -> tuple[Any, Any]:
    generator = np.random.default_rng(0)
    y = np.array(["ant", "bee", "cat", "dog"] * 6)
    return generator.normal(size=(24, 4)) + 4 * np.eye(4)[np.arange(24) % 4], y


def test_a_folder_a_pipeline_and_a_search(tmp_path: Path) -> None:
    digits(tmp_path)
    x, y = task()
    pipeline = make_pipeline(StandardScaler(), FewShotClassifier(str(tmp_path)))
    assert cross_val_score(pipeline, x, y, cv=2).mean() > 0.9
    search = GridSearchCV(FewShotClassifier(digits()), {"steps": [0, 3]}, cv=2).fit(x, y)
    assert search.best_estimator_.predictor_.labels.tolist() == ["ant", "bee", "cat", "dog"]


def test_a_pickled_estimator_predicts_the_same() -> None:
    x, y = task()
    fitted = FewShotClassifier(digits(), steps=1).fit(x, y)
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(x), fitted.predict_proba(x))


def test_images_go_through_the_preprocessing_of_the_learner() -> None:
    pytest.importorskip("PIL")
    prepare = il.data.ImagePreprocessing(size=(28, 28), channels=1)
    learner = il.Learner(il.nets.conv4(2, filters=2), il.maml(0.1), preprocessing=prepare)
    pictures = [np.full((20, 30), level, dtype=np.uint8) for level in (0, 255)]
    fitted = FewShotClassifier(learner).fit(pictures, ["dark", "light"])
    assert fitted.predict_proba(pictures).shape == (2, 2)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="FewShotClassifier needs a learner"):
        FewShotClassifier().fit(*task())
    with pytest.raises(ValueError, match="the task has 4 classes, and this learner was trained for 3 ways"):
        FewShotClassifier(il.Learner(il.nets.mlp(4, 3), il.maml(0.1))).fit(*task())
