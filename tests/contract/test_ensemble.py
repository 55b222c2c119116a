"""Ensembles of the best checkpoints: what they say, and which are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same, rng, smooth_net, vector_episode
from torch import nn

import innerloop as il
from innerloop.cli.main import main
from innerloop.evaluation.evaluate import Member, evaluate_together
from innerloop.learner.files import load_state
from innerloop.training.best import BestLearners, best_learners
from innerloop.training.checkpoint import CHECKPOINT_FILE
from innerloop.training.metrics import read_metrics


def member(net: nn.Module, method: il.Method) -> Member:
    return Member(net, method, method.meta(dict(net.named_parameters())))


def sampler(tasks: int = 3):
    """Draws anew at every call."""

    def draw(generator: torch.Generator) -> il.Episode:
        x = torch.randn(tasks, 10, 4, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (tasks, 10), generator=generator)
        return il.Episode(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:])

    return draw


@pytest.mark.parametrize("execution", ["serial", "batched", 2])
def test_the_logits_of_the_members_are_averaged(execution: str) -> None:
    method, episode = il.maml(0.5, 2), vector_episode(4)
    nets = [smooth_net() for _ in range(3)]
    result = evaluate_together(
        [member(net, method) for net in nets], lambda generator: episode, tasks=4, execution=execution
    )
    assert result.members == 3
    for i in range(4):
        x, y = episode.support_x[i], episode.support_y[i]
        logits = sum(il.Learner(net, method).adapt(x, y).outputs(episode.query_x[i]) for net in nets) / 3
        torch.testing.assert_close(result.loss[i, -1], F.cross_entropy(logits, episode.query_y[i]))
        assert float(result.accuracy[i, -1]) == pytest.approx(
            float((logits.argmax(1) == episode.query_y[i]).double().mean())
        )
        before = sum(net(episode.query_x[i]) for net in nets) / 3
        torch.testing.assert_close(result.loss[i, 0], F.cross_entropy(before, episode.query_y[i]).detach())
    assert result.loss.shape == result.accuracy.shape == (4, 3)
    assert result.calibration.nll == pytest.approx(float(result.loss[:, -1].mean()))


@pytest.mark.parametrize(
    "method", [il.maml(0.5, 2), il.reptile(0.02, 3, 2, test_batch=2, test_steps=3)], ids=["maml", "reptile"]
)
def test_members_alike_are_one(method: il.Method) -> None:
    """On the same tasks and with the same mini-batches as one alone."""
    net = smooth_net()
    alone = il.evaluate(net, method, sampler(), tasks=7)
    together = evaluate_together([member(net, method)] * 3, sampler(), tasks=7)
    torch.testing.assert_close(together.loss, alone.loss)
    assert torch.equal(together.accuracy, alone.accuracy)
    assert (alone.members, together.members) == (1, 3)


def test_in_regression_outputs_are_averaged() -> None:
    nets = [il.nets.mlp(hidden=(8,)) for _ in range(2)]
    episode = il.data.sinusoids().episodes(5, 5, 4)(rng())
    learners = [il.Learner(net, il.maml(0.01), loss_fn=F.mse_loss) for net in nets]
    result = learners[0].evaluate(lambda generator: episode, tasks=4, others=learners[1:])
    outputs = [
        learner.adapt(episode.support_x[0], episode.support_y[0]).outputs(episode.query_x[0]) for learner in learners
    ]
    torch.testing.assert_close(result.loss[0, -1], F.mse_loss(sum(outputs) / 2, episode.query_y[0]))
    assert result.accuracy is result.calibration is None


def test_members_of_different_lengths_are_scored_at_their_ends() -> None:
    net, episode = smooth_net(), vector_episode(2)
    members = [member(net, il.maml(0.5, 1)), member(net, il.maml(0.5, 2))]
    with pytest.raises(ValueError, match=r"give at least one member.*every_step=False"):
        evaluate_together(members, lambda generator: episode, tasks=2)
    assert evaluate_together(members, lambda generator: episode, tasks=2, every_step=False).loss.shape == (2, 1)
    with pytest.raises(ValueError, match="ensemble has 0 members"):
        evaluate_together([], lambda generator: episode, tasks=2)


# Which are kept


def scored(value: float, *, accuracy: bool = False) -> il.Evaluation:
    scores = torch.full((2, 1), value)
    return il.Evaluation(scores, scores if accuracy else None, "inductive")


@pytest.mark.parametrize(("accuracy", "kept"), [(True, [3, 1, 4]), (False, [2, 5, 0])])
def test_the_best_are_entered_in_their_order(accuracy: bool, kept: list[int]) -> None:
    best = BestLearners(3)
    values = [0.4, 0.6, 0.1, 0.8, 0.5, 0.3, 0.5, float("nan")]
    said = [best.note(i, scored(value, accuracy=accuracy)) for i, value in enumerate(values)]
    assert [entry.iteration for entry in best.entries] == kept
    assert "".join("-+"[yes] for yes in said) == ("+++++---" if accuracy else "+++-++--")
    assert best.of(kept[1]).score == pytest.approx(values[kept[1]])
    assert best.of(99) is None
    assert not BestLearners(0).note(1, scored(0.1))


def trainer() -> il.MetaTrainer:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    return il.MetaTrainer(net, il.maml(0.05), lambda p: torch.optim.Adam(p, lr=3e-2), loss_fn=F.mse_loss)


TASKS = il.data.sinusoids().episodes(tasks=4)
SPEC = {"name": "mlp", "arguments": {"hidden": [8], "activation": "tanh"}}


def fit(folder: Path, iterations: int = 24, **options: object) -> il.MetaTrainer:
    made = trainer()
    validation = il.Validation(TASKS, tasks=8, every=2, **options)
    made.fit(TASKS, iterations, validation=validation, folder=folder, resume=True, progress=False, net_spec=SPEC)
    return made


def test_a_run_keeps_the_learners_of_its_best_validations(tmp_path: Path) -> None:
    fit(tmp_path, keep=3)
    scores = {int(r["iteration"]): r["val_loss"] for r in read_metrics(tmp_path) if "val_loss" in r}
    assert len(scores) == 12
    best = sorted(scores, key=scores.__getitem__)[:3]
    assert sorted(int(path.name) for path in (tmp_path / "best").iterdir()) == sorted(best)
    learners = best_learners(tmp_path, 3)
    assert [learner.about["iteration"] for learner in learners] == best
    assert [learner.about["val_loss"] for learner in learners] == [scores[i] for i in best]
    x, y = torch.rand(5, 1), torch.rand(5, 1)
    first = il.Learner.load(tmp_path).adapt(x, y).outputs(x)
    assert torch.equal(learners[0].adapt(x, y).outputs(x), first)
    assert not torch.equal(learners[1].adapt(x, y).outputs(x), first)
    with pytest.raises(il.CheckpointError, match="learners of 3 validations, and an ensemble of 4"):
        best_learners(tmp_path, 4)


@pytest.mark.parametrize("killed_in", ["save", "drop_others"])
def test_a_run_killed_between_the_files_goes_on_to_the_same(
    killed_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the learner and before the checkpoint, or after that and before the deletions; at every turn."""
    fit(tmp_path / "whole", 12, keep=2)
    owner = il.MetaTrainer if killed_in == "save" else BestLearners
    original = getattr(owner, killed_in)
    folder, turns = tmp_path / "killed", 0

    def kill(*arguments: object) -> None:
        raise KeyboardInterrupt

    def state() -> dict[str, object]:
        path = folder / CHECKPOINT_FILE
        return load_state(path) if path.is_file() else {"iteration": 0, "best_learners": []}

    while state()["iteration"] < 12:
        monkeypatch.setattr(owner, killed_in, kill)
        with pytest.raises(KeyboardInterrupt):
            fit(folder, 12, keep=2)
        turns += 1
        for iteration, _, _ in state()["best_learners"]:  # all that the checkpoint speaks of is there
            il.Learner.load(folder / "best" / str(iteration))
        monkeypatch.setattr(owner, killed_in, original)
        fit(folder, min(12, state()["iteration"] + 2), keep=2)
    assert turns > 2
    fit(folder, 12, keep=2)
    names = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("best/*/*")}
    assert names == {path.relative_to(folder) for path in folder.rglob("best/*/*")}
    assert len(names) == 4
    for name in names:
        here, there = folder / name, tmp_path / "whole" / name
        if name.suffix == ".json":
            assert here.read_text() == there.read_text()
        else:
            assert_same(load_state(here)["net"], load_state(there)["net"], 0, 0)


@pytest.mark.parametrize("options", [{"keep": 0}, {"keep_best": False}])
def test_nothing_is_kept_where_nothing_is_asked_for(options: dict[str, object], tmp_path: Path) -> None:
    fit(tmp_path, 4, **options)
    assert not (tmp_path / "best").exists()


# On the command line


def test_an_ensemble_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    settings = ["--iterations", "60", "--val-every", "10", "--val-tasks", "10", "--tasks", "4", "--quiet"]
    assert main(["train", "sinusoid-maml", *settings, "--out", run]) == 0
    found = {}
    for members in (None, 1, 3):
        extra = [] if members is None else ["--ensemble", str(members)]
        assert main(["evaluate", run, "--tasks", "40", "--json", *extra]) == 0
        *said, last = capsys.readouterr().out.splitlines()
        found[members] = json.loads(last)
        assert any("ensemble of 3 checkpoints" in line for line in said) is (members == 3)
    assert found[1]["loss"] == found[None]["loss"] != found[3]["loss"]
    assert [result["ensemble"] for result in found.values()] == [None, None, 3]
    for bad, words in (("0", "--ensemble is 0"), ("9", "ensemble of 9")):
        assert main(["evaluate", run, "--ensemble", bad]) == 2
        assert words in capsys.readouterr().err
