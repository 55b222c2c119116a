"""The logger for Weights & Biases, with the package itself and without a network."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import innerloop as il

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own dependencies warn while they are imported
    wandb = pytest.importorskip("wandb")


@pytest.mark.filterwarnings("ignore")  # those of the package
def test_an_offline_run_holds_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    tasks = il.data.sinusoids().episodes(shots=2, queries=2, tasks=2)
    trainer = il.MetaTrainer(il.nets.mlp(hidden=(4,)), il.maml(0.01), torch.optim.Adam, loss_fn=F.mse_loss)
    logger = il.WandbLogger("project", mode="offline", dir=str(tmp_path))
    validation = il.Validation(tasks, tasks=2, every=2)
    trainer.fit(tasks, 4, validation=validation, callbacks=[logger], folder=tmp_path / "run", log_every=2)
    written = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert [path.stem for path in written] == [f"run-{logger.run_id}"]
    content = written[0].read_bytes()
    for name in ("train/loss", "validation/loss", "iteration"):
        assert name.encode() in content
