"""Who watches a run: early stopping and loggers, by the callbacks of :mod:`innerloop.training`."""

from __future__ import annotations

from dataclasses import dataclass

from innerloop.extras import need
from innerloop.recipes.config import Config
from innerloop.recipes.options import ConfigError
from innerloop.training.callbacks import Callback
from innerloop.training.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from innerloop.training.stopping import EarlyStopping

__all__ = ["Watching"]


@dataclass(frozen=True)
class Watching:
    """Early stopping and loggers. ``metrics.jsonl`` is always written."""

    patience: int | None = None
    """End training after this many validations in a row without an improvement."""
    csv: bool = False
    """Write metrics.csv into the run's folder: a row for each record, a column for each number."""
    tensorboard: bool = False
    """Fail if TensorBoard is not installed. If it is installed, its events are written in any case."""
    wandb: str | None = None
    """Send the numbers to this project of Weights & Biases. WANDB_MODE=offline keeps them on the disk."""

    def callbacks(self, config: Config) -> list[Callback]:
        """New callbacks for a run.

        Raises:
            ConfigError: the patience is below 1.
            MissingExtraError: TensorBoard or wandb is not installed.
        """
        found: list[Callback] = []
        if self.patience is not None:
            if self.patience < 1:
                raise ConfigError(f"--patience is {self.patience}; it must be a whole number of at least 1")
            found.append(EarlyStopping(self.patience))
        if self.csv:
            found.append(CSVLogger())
        if self.tensorboard:
            need("tensorboard")
            found.append(TensorBoardLogger())
        if self.wandb is not None:
            need("wandb")
            found.append(WandbLogger(self.wandb, config=config.flat()))
        return found
