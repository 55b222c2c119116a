"""The models that must just work: one table, that test_models.py tests row by row and docs/models.md shows.

``python tests/model_zoo.py`` prints the table of what runs together and what one by one.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import innerloop as il

os.environ["HF_HUB_OFFLINE"] = "1"

WAYS, WORDS, LENGTH = 3, 12, 5


@dataclass(frozen=True)
class Model:
    """A row of the table.

    Args:
        make: makes the module.
        inputs: the inputs of so many tasks and examples.
        adapt: what the inner loop adapts.
        norm: the normalisation mode.
        loss_fn: cross-entropy or the mean squared error.
        serial: what the warning says of a model that cannot be batched; None of one that can.
        needs: the package without which it is skipped.
        lr: of the inner loop.
        single: whether some of it computes in single precision whatever its parameters have.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int, int], Tensor]
    adapt: str = "*"
    norm: il.Norm = "transductive"
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    serial: str | None = None
    needs: str | None = None
    lr: float = 0.1
    single: bool = False

    def net(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().double()

    def method(self, name: str, steps: int = 2) -> il.Method:
        return {"maml": il.maml, "fomaml": il.fomaml}[name](self.lr, steps, adapt=self.adapt)

    def episode(self, tasks: int = 3, examples: int = 4, seed: int = 1) -> il.Episode:
        """Random tasks; the support and the query set of a task have the same rule in common, if any."""
        torch.manual_seed(seed)
        x = self.inputs(tasks, 2 * examples)
        if self.loss_fn is F.mse_loss:
            y = torch.randn(tasks, 2 * examples, 1, dtype=torch.float64)
        else:
            y = torch.randint(WAYS, (tasks, 2 * examples))
        return il.Episode(x[:, :examples], y[:, :examples], x[:, examples:], y[:, examples:])


def real(*shape: int) -> Callable[[int, int], Tensor]:
    return lambda tasks, examples: torch.randn(tasks, examples, *shape, dtype=torch.float64)


def words(tasks: int, examples: int) -> Tensor:
    """Sentences of words 1, 2, ...; some end early, with the padding 0."""
    tokens = torch.randint(1, WORDS, (tasks, examples, LENGTH))
    lengths = torch.randint(2, LENGTH + 1, (tasks, examples, 1))
    return tokens * (torch.arange(LENGTH) < lengths)


sequences, vectors, images = real(LENGTH, 3), real(4), real(1, 8, 8)


class Recurrent(nn.Module):
    """The last output of a recurrent layer, classified."""

    def __init__(self, kind: type[nn.RNNBase], hidden: int = 4, **options: object) -> None:
        super().__init__()
        self.rnn = kind(3, hidden, batch_first=True, **options)
        self.head = nn.Linear(self.rnn(torch.zeros(1, 1, 3))[0].shape[-1], WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Stepwise(nn.Module):
    """A recurrent cell, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(3, 4), nn.Linear(4, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0])


class Packed(nn.Module):
    """An LSTM over packed sequences of words, each of its own length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 3, padding_idx=0)
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        lengths = (x != 0).sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(self.embedding(x), lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.lstm(packed)[1][0][-1])


class Encoder(nn.Module):
    """PyTorch's Transformer encoder over words, with dropout and a padding mask."""

    def __init__(self, dropout: float = 0.1, **options: object) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 8, padding_idx=0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True, **options)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(x), src_key_padding_mask=x == 0)[:, 0])


class Attention(nn.Module):
    """Causal attention written with scaled_dot_product_attention."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(3, 24), nn.Linear(8, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.project(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1 if self.training else 0.0)
        return self.head(y.transpose(1, 2).flatten(2)[:, -1])


class Tied(nn.Module):
    """The embedding of words is the last layer's weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix = nn.Embedding(WORDS, 4), nn.Linear(4, 4)
        self.decoder = nn.Linear(4, WORDS, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.mix(self.embedding(x).mean(1))))


class InPlace(nn.Module):
    """A residual block that adds its shortcut in place, and pools to one pixel, as many published networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.pool, self.head = nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Linear(4, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        y = self.norm(self.conv2(x))
        y += x
        return self.head(self.pool(F.relu(y)).flatten(1))


class Logits(nn.Module):
    """A model of ``transformers``, from one tensor to its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


class Masked(Logits):
    """The same for words with padding, which the mask says."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(input_ids=x, attention_mask=x != 0).logits


class MaskedByPairs(Logits):
    """With the mask of every pair of words, for which the model does not look at the data."""

    def forward(self, x: Tensor) -> Tensor:
        mask = (x != 0)[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        return self.model(input_ids=x, attention_mask=mask).logits


SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
SIZES["initializer_range"] = 0.3  # so that what is not trained tells inputs apart


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(vocab_size=WORDS, max_position_embeddings=8, num_labels=WAYS, hidden_dropout_prob=0.02, **SIZES)
    )


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=WAYS, **SIZES))


def resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(
        ResNetConfig(num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=WAYS)
    )


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    return LlamaForSequenceClassification(
        LlamaConfig(vocab_size=WORDS, num_key_value_heads=1, num_labels=WAYS, pad_token_id=0, **SIZES)
    )


def lora(model: nn.Module) -> nn.Module:
    """LoRA weights on the queries and values; beside them only the head is trainable."""
    from peft import LoraConfig, get_peft_model

    targets = ["query", "value", "q_proj", "v_proj"]
    return get_peft_model(
        model, LoraConfig(r=2, lora_dropout=0.02, target_modules=targets, modules_to_save=["classifier"])
    )


def perturbed(net: nn.Module) -> nn.Module:
    """LoRA begins with a zero factor, at which half of its gradients are zero; this does not."""
    for name, p in net.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.3)
    return net


def unfrozen(net: nn.Module) -> nn.Module:
    """All is trainable but the head that peft keeps and does not use."""
    for name, p in net.named_parameters():
        p.requires_grad_("original_module" not in name)
    return net


def frozen() -> nn.Module:
    net = il.nets.mlp(4, WAYS, (5, 5), "tanh")
    net[0].requires_grad_(False)
    return net


def batch_norm(**options: object) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, **options), nn.Tanh(), nn.Linear(5, WAYS))


def seen(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """With statistics of some data stored."""

    def made() -> nn.Module:
        net = make()
        net.train()(torch.randn(32, 4) * 2 + 1)
        return net

    return made


def normalised(norm: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(4, 6), norm(), nn.Tanh(), nn.Linear(6, WAYS))


def classifier() -> nn.Module:
    return il.nets.mlp(4, WAYS, (6, 6), "tanh")


HF, PEFT = "transformers", "peft"
LOOKS = "data-dependent control flow"

MODELS: dict[str, Model] = {
    "`nn.LSTM`": Model(lambda: Recurrent(nn.LSTM), sequences),
    "`nn.GRU`": Model(lambda: Recurrent(nn.GRU), sequences),
    "`nn.RNN`": Model(lambda: Recurrent(nn.RNN), sequences),
    "`nn.LSTM`, two layers, two directions, dropout": Model(
        lambda: Recurrent(nn.LSTM, 3, num_layers=2, bidirectional=True, dropout=0.1), sequences
    ),
    "`nn.LSTMCell`": Model(Stepwise, sequences),
    "`nn.LSTM` on packed sequences": Model(Packed, words, serial="Packed"),
    "`nn.TransformerEncoder`, dropout, padding": Model(Encoder, words),
    "`F.scaled_dot_product_attention`, causal": Model(Attention, sequences),
    "`BertForSequenceClassification`": Model(lambda: Logits(bert()), words, needs=HF),
    "the same with a mask of words": Model(lambda: Masked(bert()), words, needs=HF, serial=LOOKS),
    "the same with a mask of pairs of words": Model(lambda: MaskedByPairs(bert()), words, needs=HF),
    "`LlamaForSequenceClassification`": Model(lambda: Logits(llama()), words, needs=HF, single=True),
    "`ViTForImageClassification`": Model(lambda: Logits(vit()), images, needs=HF),
    "`ResNetForImageClassification`": Model(lambda: Logits(resnet()), images, needs=HF),
    "LoRA by `peft` in a ViT, the body frozen": Model(
        lambda: perturbed(lora(Logits(vit()))), images, "*lora_*", needs=PEFT
    ),
    "LoRA by `peft` in a BERT, the body meta-learned": Model(
        lambda: unfrozen(perturbed(lora(Logits(bert())))), words, "*lora_*", needs=PEFT
    ),
    "tied weights": Model(Tied, words),
    "frozen layers": Model(frozen, vectors),
    "biases only": Model(classifier, vectors, "*.bias"),
    "norms only": Model(normalised(lambda: nn.LayerNorm(6)), vectors, "1.*"),
    "batch norm, transductive": Model(batch_norm(), vectors),
    "batch norm, inductive": Model(batch_norm(), vectors, norm="inductive"),
    "batch norm, running": Model(seen(batch_norm()), vectors, norm="running"),
    "batch norm, running, `momentum=None`": Model(seen(batch_norm(momentum=None)), vectors, norm="running"),
    "batch norm, `track_running_stats=False`": Model(batch_norm(track_running_stats=False), vectors),
    "batch norm, `affine=False`": Model(batch_norm(affine=False), vectors, norm="inductive"),
    "`nn.GroupNorm`": Model(normalised(lambda: nn.GroupNorm(2, 6)), vectors),
    "`nn.LayerNorm`": Model(normalised(lambda: nn.LayerNorm(6)), vectors),
    "`il.nets.conv4`": Model(lambda: il.nets.conv4(WAYS, filters=4), real(1, 28, 28)),
    "`il.nets.resnet12`": Model(
        lambda: il.nets.resnet12(WAYS, channels=1, widths=(3, 3, 4, 4)), real(1, 16, 16), lr=0.01
    ),
    "a shortcut added in place": Model(InPlace, images),
    "a table, classification": Model(classifier, vectors),
    "a table, regression": Model(lambda: il.nets.mlp(4, 1, (6, 6), "tanh"), vectors, loss_fn=F.mse_loss, lr=0.02),
}


def missing(model: Model) -> str | None:
    """The package that a model needs and that is not installed."""
    return model.needs if model.needs and importlib.util.find_spec(model.needs) is None else None


def table() -> str:
    """What runs together and what one by one, found by running it."""
    lines = ["| model | tasks run | because |", "|---|---|---|"]
    for name, model in MODELS.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            il.meta_gradient(model.net(), model.method("maml"), model.episode(), model.loss_fn, norm=model.norm)
        said = [str(w.message) for w in caught if str(w.message).startswith("tasks run one by one")]
        why = said[0].split("cannot batch ")[1].split(". The results")[0] if said else ""
        why = re.sub(r" \([\w.]+, line \d+\)$", "", why)
        lines.append(f"| {name} | {'one by one' if said else 'together'} | {why} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
