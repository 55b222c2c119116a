"""Search the inner and the outer learning rate of MAML on sinusoids with Optuna.

    pip install innerloop optuna
    python examples/optuna_search.py [TRIALS] [ITERATIONS]

Each trial trains a network. A callback reports its validations to Optuna, which gives up trials that do worse than the
median of the others at the same iteration.
"""

from __future__ import annotations

import sys

import optuna
import torch
import torch.nn.functional as F

import innerloop as il


class Report(il.Callback):
    """Reports each validation to a trial, and ends training if Optuna gives the trial up."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_validation(self, training: il.Training, result: il.Evaluation) -> None:
        """Report the score."""
        self.trial.report(result.mean, training.iteration)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def search(trials: int = 20, iterations: int = 1000) -> optuna.Study:
    """Run the search and return Optuna's study."""
    tasks = il.data.sinusoids().episodes(shots=10, queries=10, tasks=25)
    validation = il.Validation(tasks, tasks=100, every=max(1, iterations // 5))

    def objective(trial: optuna.Trial) -> float:
        inner_lr = trial.suggest_float("inner_lr", 1e-3, 0.1, log=True)
        outer_lr = trial.suggest_float("outer_lr", 1e-4, 1e-2, log=True)
        torch.manual_seed(0)
        net = il.nets.mlp()
        trainer = il.MetaTrainer(net, il.maml(inner_lr), lambda p: torch.optim.Adam(p, outer_lr), loss_fn=F.mse_loss)
        try:
            trainer.fit(tasks, iterations, validation=validation, callbacks=[Report(trial)], progress=False)
        except il.DivergedError as error:
            raise optuna.TrialPruned from error
        return trainer.best

    study = optuna.create_study(
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
    )
    study.optimize(objective, n_trials=trials)
    return study


if __name__ == "__main__":
    best = search(*map(int, sys.argv[1:])).best_trial
    print(f"loss {best.value:.4f} with inner_lr {best.params['inner_lr']:.4g}, outer_lr {best.params['outer_lr']:.4g}")
