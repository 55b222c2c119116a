"""The example that searches with Optuna, at a tiny size."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import innerloop as il

optuna = pytest.importorskip("optuna")

EXAMPLE = Path(__file__).parents[2] / "examples" / "optuna_search.py"


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_search_reports_every_validation_and_gives_trials_up() -> None:
    spec = importlib.util.spec_from_file_location("optuna_search", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    study = example.search(trials=2, iterations=5)
    assert len(study.trials) == 2
    assert all(sorted(trial.intermediate_values) == [1, 2, 3, 4, 5] for trial in study.trials)
    assert study.best_value == min(min(trial.intermediate_values.values()) for trial in study.trials)

    class GivesUp:
        def report(self, value: float, step: int) -> None: ...

        def should_prune(self) -> bool:
            return True

    tasks = il.data.sinusoids().episodes(tasks=2)
    net = il.nets.mlp(hidden=(4,))
    trainer = il.MetaTrainer(net, il.maml(0.01), example.torch.optim.Adam, loss_fn=example.F.mse_loss)
    validation = il.Validation(tasks, tasks=2, every=1)
    with pytest.raises(optuna.TrialPruned):
        trainer.fit(tasks, 9, validation=validation, callbacks=[example.Report(GivesUp())], progress=False)
    assert trainer.iteration == 1
