"""Calibration scores by hand, and what a predictor says of its own doubt."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from core_helpers import rng, smooth_net, vector_episode
from torch import Tensor, nn

import innerloop as il
from innerloop.cli.main import main

# Predictions (of three classes) and what is true. Confidences 0.5, 0.6, 0.9, 1.0; right, wrong, right, right.
PROBABILITIES = [[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.05, 0.05, 0.9], [1.0, 0.0, 0.0]]
TRUTH = [0, 2, 2, 0]


def logits(rows: list[list[float]] = PROBABILITIES) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).clamp(min=1e-300).log()


def test_the_scores_are_those_by_hand() -> None:
    seen = il.Calibration.of(logits(), torch.tensor(TRUTH), bins=2)
    # (0, 0.5] holds the first, (0.5, 1] the others.
    assert seen.counts.tolist() == [1, 3]
    assert seen.right.tolist() == [1, 2]
    assert seen.confidence.tolist() == pytest.approx([0.5, 2.5 / 3])
    assert seen.accuracy.tolist() == pytest.approx([1.0, 2 / 3])
    assert seen.ece == pytest.approx(1 / 4 * 0.5 + 3 / 4 * (2.5 / 3 - 2 / 3))
    assert seen.nll == pytest.approx(-(math.log(0.5) + math.log(0.2) + math.log(0.9) + math.log(1)) / 4)
    brier = (0.25 + 0.09 + 0.04) + (0.04 + 0.36 + 0.64) + (0.0025 + 0.0025 + 0.01) + 0
    assert seen.brier == pytest.approx(brier / 4)


@pytest.mark.parametrize(("confidence", "expected"), [(0.5, 4), (0.5001, 5), (0.55, 5), (0.89, 8), (0.91, 9), (1.0, 9)])
def test_a_bin_holds_its_upper_border(confidence: float, expected: int) -> None:
    seen = il.Calibration.of(logits([[confidence, 1 - confidence]]), torch.tensor([0]), bins=10)
    assert seen.counts.tolist() == [float(b == expected) for b in range(10)]


def test_parts_together_are_the_whole() -> None:
    g = rng()
    outputs, truth = torch.randn(6, 7, 3, generator=g), torch.randint(3, (6, 7), generator=g)
    whole = il.Calibration.of(outputs, truth)
    parts = il.Calibration.together([il.Calibration.of(outputs[i : i + 2], truth[i : i + 2]) for i in (0, 2, 4)])
    assert torch.equal(parts.counts, whole.counts)
    assert torch.equal(parts.right, whole.right)
    assert len(whole.counts) == 15
    for name in ("ece", "nll", "brier"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name))
    assert whole.nll == pytest.approx(float(F.cross_entropy(outputs.flatten(0, 1), truth.flatten())), rel=1e-6)


def test_probabilities_that_fit_have_a_small_error_and_others_have_not() -> None:
    g = rng()
    outputs = torch.randn(20_000, 4, generator=g, dtype=torch.float64)
    truth = torch.multinomial(outputs.softmax(-1), 1, generator=g)[:, 0]
    assert il.Calibration.of(outputs, truth).ece < 0.02
    assert il.Calibration.of(4 * outputs, truth).ece > 0.2


@pytest.mark.parametrize("execution", ["serial", "batched", 2])
def test_an_evaluation_has_the_calibration_of_its_last_step(execution: str) -> None:
    net, method, episode = smooth_net(), il.maml(0.3, 2), vector_episode(5)
    result = il.evaluate(net, method, lambda generator: episode, tasks=5, execution=execution)
    learner = il.Learner(net, method)
    outputs = [learner.adapt(episode.support_x[i], episode.support_y[i]).outputs(episode.query_x[i]) for i in range(5)]
    expected = il.Calibration.of(torch.stack(outputs), episode.query_y)
    found = result.calibration
    assert torch.equal(found.counts, expected.counts)
    assert found.predictions == episode.query_y.numel()
    for name in ("ece", "nll", "brier"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name))
    assert found.nll == pytest.approx(float(result.loss[:, -1].mean()))
    assert float(found.right.sum() / found.predictions) == pytest.approx(result.mean)


def test_regression_has_no_calibration() -> None:
    tasks = il.data.sinusoids().episodes(5, 5, 4)
    assert il.evaluate(il.nets.mlp(), il.maml(0.01), tasks, tasks=4, loss_fn=F.mse_loss).calibration is None


# What a predictor says of its own doubt


class Fixed(nn.Module):
    """Says the same of every input."""

    def __init__(self, outputs: list[float]) -> None:
        super().__init__()
        self.outputs = nn.Parameter(torch.tensor(outputs, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs.expand(len(x), -1)


def predictor(*opinions: list[float], outputs: str = "logits") -> il.Predictor:
    """Of particles with these outputs, which do not adapt; of a plain network where there is one."""
    made = iter([Fixed(opinion) for opinion in opinions])
    net = (
        next(made) if len(opinions) == 1 else il.nets.with_particles(lambda: next(made), len(opinions), outputs=outputs)
    )
    x = torch.zeros(3, 2, dtype=torch.float64)
    if outputs == "values":
        return il.Learner(net, il.bmaml(0.0), loss_fn=F.mse_loss).adapt(x, torch.zeros(3, 1, dtype=torch.float64))
    return il.Learner(net, il.bmaml(0.0)).adapt(x, torch.arange(len(opinions[0])))


X = torch.zeros(2, 2, dtype=torch.float64)
SURE, OTHER, TORN = [200.0, 0.0, 0.0], [0.0, 200.0, 0.0], [100.0, 100.0, 0.0]


@pytest.mark.parametrize(
    ("opinions", "entropy", "information"),
    [
        ([SURE], 0.0, None),
        ([TORN], math.log(2), None),
        ([SURE, SURE], 0.0, 0.0),
        ([SURE, OTHER], math.log(2), math.log(2)),  # each is sure, and they disagree
        ([TORN, TORN], math.log(2), 0.0),  # they agree that it could be either
        ([[0.0] * 3] * 4, math.log(3), 0.0),
    ],
)
def test_doubt_is_told_apart(opinions: list[list[float]], entropy: float, information: float | None) -> None:
    doubt = predictor(*opinions).uncertainty(X)
    assert doubt.entropy.tolist() == pytest.approx([entropy] * 2)
    assert doubt.std is None
    if information is None:
        assert doubt.mutual_information is None
    else:
        assert doubt.mutual_information.tolist() == pytest.approx([information] * 2)


def test_probabilities_are_the_mean_of_the_particles() -> None:
    sure = predictor(SURE, OTHER, TORN)
    assert sure.predict_proba(X)[0].tolist() == pytest.approx([0.5, 0.5, 0.0])
    # Where the support set shows two classes only, each particle chooses between these.
    learner = il.Learner(il.nets.with_particles(smooth_net, 3), il.bmaml(0.3))
    episode = vector_episode(1)
    shown = learner.adapt(episode.support_x[0], episode.support_y[0] % 2)
    p, outputs = shown.predict_proba(episode.query_x[0]), shown._run(episode.query_x[0], "mixture")
    torch.testing.assert_close(p[:, :2], outputs[..., :2].softmax(-1).mean(1))
    assert not p[:, 2].any()


def test_in_regression_the_doubt_is_how_far_particles_differ() -> None:
    doubt = predictor([1.0], [3.0], [5.0], outputs="values").uncertainty(X)
    assert doubt.entropy is None
    assert doubt.mutual_information is None
    assert doubt.std.flatten().tolist() == pytest.approx([math.sqrt(8 / 3)] * 2)
    plain = il.Learner(il.nets.mlp(2), il.maml(0.01), loss_fn=F.mse_loss).adapt(X.float(), torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"without a spread.*mlp_with_particles"):
        plain.uncertainty(X)


@pytest.mark.parametrize("norm", ["transductive", "inductive"])
def test_doubt_is_in_the_learners_norm_mode(norm: str) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()

    episode = vector_episode(1)
    learner = il.Learner(il.nets.with_particles(make, 2), il.bmaml(0.3), norm=norm)
    adapted = learner.adapt(episode.support_x[0], episode.support_y[0])
    adapted = replace(adapted, classes=torch.arange(3))
    together, alone = adapted.uncertainty(episode.query_x[0]), adapted.uncertainty(episode.query_x[0][:2])
    same = torch.allclose(together.entropy[:2], alone.entropy)
    assert same is (norm == "inductive")
    torch.testing.assert_close(together.entropy, torch.special.entr(adapted.outputs(episode.query_x[0]).exp()).sum(1))


# On the command line


def test_the_diagram_is_drawn_and_its_numbers_are_in_the_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    settings = [
        "--iterations",
        "1",
        "--val-every",
        "1",
        "--val-tasks",
        "1",
        "--filters",
        "4",
        "--tasks",
        "1",
        "--quiet",
    ]
    assert main(["train", "glyphs-5w1s-maml", *settings, "--out", run]) == 0
    picture = tmp_path / "reliability.png"
    assert main(["evaluate", run, "--tasks", "6", "--calibration", str(picture), "--json"]) == 0
    *said, last = capsys.readouterr().out.splitlines()
    assert picture.read_bytes().startswith(b"\x89PNG")
    found, result = json.loads(last)["calibration"], json.loads(last)
    bins = found["bins"]
    assert sum(b["predictions"] for b in bins) == 6 * 25
    assert sum(b["predictions"] * b["accuracy"] for b in bins) / 150 == pytest.approx(result["accuracy"])
    ece = sum(b["predictions"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / 150
    assert found["ece"] == pytest.approx(ece)
    assert any(f"expected error {100 * ece:.2f} %" in line and f"{found['nll']:.4f}" in line for line in said)
    assert main(["evaluate", run, "--calibration", str(tmp_path / "no" / "a.png")]) == 2
    assert "folder does not exist" in capsys.readouterr().err
