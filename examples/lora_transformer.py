"""Adapt only the LoRA weights of a transformer to a new language task.

    python examples/lora_transformer.py [ITERATIONS]

In each task two words are secret signs. A sentence holds one of them, and its class is which. MAML trains all weights
of a small transformer. The inner loop changes only the low-rank matrices ``lora_a`` and ``lora_b`` of its projections
(Hu et al. 2021), a sixth of the weights. For models of ``transformers`` and ``peft``, see docs/models.md.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import innerloop as il

# %% A transformer with low-rank changes
WORDS, LENGTH = 20, 6


class LowRank(nn.Module):
    """A linear layer with a low-rank change beside it: ``W x + B A x``."""

    def __init__(self, inputs: int, outputs: int, rank: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.lora_a = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output plus the change."""
        return self.linear(x) + x @ self.lora_a.mT @ self.lora_b.mT


class Block(nn.Module):
    """Attention of one head, and a small network, each added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (LowRank(width, width) for _ in range(3))
        self.up, self.down = LowRank(width, 2 * width), LowRank(2 * width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x: Tensor) -> Tensor:
        """Words in, words out: ``[batch, places, width]``."""
        y = self.norms[0](x)
        x = x + F.scaled_dot_product_attention(self.query(y), self.key(y), self.value(y))
        return x + self.down(F.relu(self.up(self.norms[1](x))))


class Transformer(nn.Module):
    """Two blocks over words. The mean over the places answers."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, width)
        self.places = nn.Parameter(torch.randn(LENGTH, width) / 10)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = LowRank(width, 2)

    def forward(self, sentences: Tensor) -> Tensor:
        """Scores of the two classes, ``[batch, 2]``."""
        return self.head(self.blocks(self.words(sentences) + self.places).mean(1))


# %% Tasks: two words are secret signs
def episodes(tasks: int = 8, shots: int = 5, queries: int = 10) -> il.EpisodeSampler:
    """Tasks with two signs each. The signs of a task are drawn anew; other words are noise."""

    def draw(generator: torch.Generator) -> il.Episode:
        signs = torch.stack([torch.randperm(WORDS, generator=generator)[:2] for _ in range(tasks)])

        def sentences(count: int) -> tuple[Tensor, Tensor]:
            classes = torch.arange(2).repeat_interleave(count).expand(tasks, -1)
            noise = torch.randint(WORDS - 2, (tasks, 2 * count, LENGTH), generator=generator)
            for sign in signs.sort(1).values.T:  # skip the signs
                noise += noise >= sign[:, None, None]
            place = torch.randint(LENGTH, (tasks, 2 * count, 1), generator=generator)
            return noise.scatter(2, place, signs.gather(1, classes)[..., None]), classes

        return il.Episode(*sentences(shots), *sentences(queries))

    return draw


# %% Training all weights, adapting a few
def train(iterations: int, width: int = 32) -> tuple[il.Evaluation, float]:
    """Train, and return the evaluation on new tasks and the share of weights that the inner loop adapts."""
    torch.manual_seed(0)
    net = Transformer(width)
    method = il.maml(inner_lr=0.3, inner_steps=3, adapt="*lora_*")
    trainer = il.MetaTrainer(net, method, lambda p: torch.optim.Adam(p, lr=2e-3))
    trainer.fit(episodes(), iterations)
    adapted = sum(p.numel() for name, p in net.named_parameters() if "lora_" in name)
    return trainer.evaluate(episodes(), tasks=200), adapted / sum(p.numel() for p in net.parameters())


# %% New tasks
def main(iterations: int = 1500) -> None:
    """Print the accuracy after each step."""
    result, share = train(iterations)
    print(f"the inner loop adapts {100 * share:.0f} % of the weights")
    print("accuracy on new tasks:", result)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
