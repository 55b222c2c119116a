"""Exported graphs give in ONNX Runtime what the learner gives in PyTorch, and what cannot be exported is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import innerloop as il
from innerloop.export import elementwise
from innerloop.export.check import compared, run_graph, session_of
from innerloop.export.graph import Graph
from innerloop.export.translate import TRANSLATIONS, Context, Value

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def examples(count: int, *shape: int, ways: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, *shape, generator=generator), torch.arange(count) % ways


def run(exported: il.export.Exported, **given: Any) -> dict[str, Tensor]:
    tensors = {name: torch.as_tensor(value) for name, value in given.items()}
    return run_graph(session_of(exported.file.read_bytes()), tensors)


def plain(ways: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return il.nets.mlp(2, ways, (8,), "tanh")


def test_any_numbers_of_examples_and_queries(tmp_path: Path) -> None:
    learner = il.Learner(plain(), il.maml(0.5, 3))
    exported = il.export.adaptation(learner, tmp_path / "a.onnx", *examples(6, 2))
    assert exported.difference < 1e-5
    for support, queries in ((1, 4), (9, 1), (6, 0)):
        (x, y), (query_x, _) = examples(support, 2), examples(queries, 2)
        found = run(exported, support_x=x, support_y=y, query_x=query_x)
        predictor = learner.adapt(x, y)
        assert compared(found, {"logits": predictor.outputs(query_x)}) < 1e-5
        assert compared(found, {"probabilities": predictor.predict_proba(query_x)}) < 1e-5


def test_every_step_is_the_trace_of_the_learner(tmp_path: Path) -> None:
    learner = il.Learner(plain(1), il.maml(0.1, 3), loss_fn=F.mse_loss)
    x, _ = examples(5, 2)
    y, (query_x, _) = x[:, :1].sin(), examples(4, 2)
    exported = il.export.adaptation(learner, tmp_path / "a.onnx", x, y, every_step=True, parameters=True)
    found = run(exported, support_x=x, support_y=y, query_x=query_x)
    trace = learner.trace(x, y, query_x)
    assert compared(found, {"step_outputs": trace.outputs, "step_losses": trace.support_loss}) < 1e-5
    assert compared(found, {f"parameters.{name}": tensor for name, tensor in trace.params.items()}) < 1e-5


def test_parameters_that_are_not_adapted_are_given_too(tmp_path: Path) -> None:
    learner = il.Learner(plain(), il.anil(0.1, 2))
    x, y = examples(6, 2)
    exported = il.export.adaptation(learner, tmp_path / "a.onnx", x, y, parameters=True)
    found = run(exported, support_x=x, support_y=y, query_x=x)
    assert (
        compared(found, {f"parameters.{name}": tensor for name, tensor in learner.trace(x, y, x).params.items()}) < 1e-5
    )


def test_settings_as_inputs(tmp_path: Path) -> None:
    net = plain(ways=4)
    (x, y), (query_x, _) = examples(6, 2, ways=2), examples(3, 2)
    learner = il.Learner(net, il.maml(0.5, 2))
    exported = il.export.adaptation(learner, tmp_path / "a.onnx", x, y, inputs=("steps", "inner_lr", "ways"))
    assert set(exported.inputs) == {"support_x", "support_y", "query_x", "steps", "inner_lr", "ways"}
    narrow = plain(ways=2)  # the same network with the first two rows of the head
    with torch.no_grad():
        for own, other in zip(narrow.parameters(), net.parameters(), strict=True):
            own.copy_(other[: len(own)])
    for steps, lr in ((0, 0.5), (1, 0.25), (4, 0.5)):
        predictor = il.Learner(narrow, il.maml(lr, steps)).adapt(x, y)
        found = run(exported, support_x=x, support_y=y, query_x=query_x, steps=steps, inner_lr=lr, ways=2)
        assert compared({"p": found["probabilities"][:, :2]}, {"p": predictor.predict_proba(query_x)}) < 1e-5
        assert found["logits"][:, 2:].eq(-torch.inf).all()


def test_mini_batches_are_those_of_the_learner(tmp_path: Path) -> None:
    learner = il.Learner(plain(), il.reptile(0.05, test_steps=7, test_batch=4))
    exported = il.export.adaptation(learner, tmp_path / "a.onnx", *examples(6, 2), max_support=13)
    for support in (2, 4, 13):
        x, y = examples(support, 2)
        found = run(exported, support_x=x, support_y=y, query_x=x)
        assert compared(found, {"logits": learner.adapt(x, y).outputs(x)}) < 1e-4


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        words = self.words(x)
        return self.head(self.norm(words + self.attention(words, words, words)[0])[:, 0])


NETS = {
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.GroupNorm(2, 4),
        nn.GELU(),
        nn.Conv2d(4, 4, (2, 3), groups=2, dilation=2, padding=2),
        nn.SiLU(inplace=True),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.LazyLinear(3),
    ),
    "max-pooling": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.LazyLinear(3)
    ),
    "one axis": lambda: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(2, 4, 5, stride=3), nn.ELU(), nn.Flatten(), nn.LazyLinear(3)
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_layers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, (x, y) = NETS[name](), examples(4, 2, 9, 8)
    net(x)  # makes the lazy layers
    exported = il.export.adaptation(il.Learner(net, il.maml(0.1)), tmp_path / "a.onnx", x, y)
    assert exported.difference < 1e-5


def test_attention_and_embeddings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randint(7, (5, 4), generator=torch.Generator().manual_seed(0))
    learner = il.Learner(Attending(), il.maml(0.1))
    assert il.export.adaptation(learner, tmp_path / "a.onnx", x, torch.arange(5) % 3).difference < 1e-5


@pytest.mark.parametrize("norm", ["running", "per_step"])
def test_stored_statistics(norm: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    learner = il.Learner(net, il.maml_plus_plus(0.1, 2), loss_fn=F.mse_loss)
    learner = learner.with_statistics(il.data.sinusoids().episodes(5, 5, 2), tasks=2, norm=norm)
    x = torch.linspace(-2, 2, 5)[:, None]
    exported = il.export.adaptation(learner, tmp_path / "a.onnx", x, x.sin(), every_step=True)
    assert exported.difference < 1e-5


@pytest.mark.parametrize("norm", ["transductive", "inductive"])
def test_an_adapted_predictor(norm: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    predictor = il.Learner(net, il.maml(0.1), norm=norm).adapt(*examples(5, 2, ways=2))
    query_x, _ = examples(4, 2)
    exported = il.export.predictor(predictor, tmp_path / "p.onnx")
    found = run(exported, query_x=query_x)
    assert compared(found, {"probabilities": predictor.predict_proba(query_x)}) < 1e-5
    torch.export.save(il.export.program(predictor), tmp_path / "p.pt2")
    program = torch.export.load(tmp_path / "p.pt2").module()
    rows = query_x[:1] if norm == "inductive" else query_x
    assert torch.allclose(program(rows)["probabilities"], predictor.predict_proba(rows), atol=1e-6)


def test_a_wrong_graph_is_found_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(to: Context, x: Value) -> str:
        return to.op("Sin", to.tensor(x))

    assert elementwise
    monkeypatch.setitem(TRANSLATIONS, "tanh", wrong)
    with pytest.raises(il.export.ExportError, match="differ from this library's by"):
        il.export.adaptation(il.Learner(plain(), il.maml(0.5)), tmp_path / "a.onnx", *examples(6, 2))
    assert not list(tmp_path.iterdir())


class Inverse(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) @ torch.linalg.inv(torch.eye(3) + self.weight @ self.weight.mT)


def test_an_operator_without_translation_is_named(tmp_path: Path) -> None:
    said = r"uses the operator aten\.linalg_inv_ex\S+, the solution of linear equations, which ONNX does not have"
    with pytest.raises(il.export.ExportError, match=said):
        il.export.adaptation(il.Learner(Inverse(2, 3), il.maml(0.1, 1)), tmp_path / "a.onnx", *examples(6, 2))


@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_an_eigendecomposition(n: int) -> None:
    graph, dtype = Graph(), torch.float32
    given = Value(graph.add_input("a", dtype, [4, n, n]), dtype, (4, n, n))
    results = [Value("", dtype, (4, n)), Value("", dtype, (4, n, n))]
    values, vectors = TRANSLATIONS["_linalg_eigh"](Context(graph, results), given)
    graph.add_output(values, "l", dtype, [4, n])
    graph.add_output(vectors, "v", dtype, [4, n, n])
    b = torch.randn(n, max(1, n // 2))
    a = torch.stack([torch.randn(n, n), b @ b.mT, torch.eye(n), torch.zeros(n, n)])  # the second has zeros, too
    a = (a + a.mT) / 2
    found = run_graph(session_of(graph.model("", {}).SerializeToString()), {"a": a})
    size = 1 + a.norm()
    assert (found["l"] - torch.linalg.eigvalsh(a)).abs().max() < 1e-5 * size
    assert (found["v"] @ torch.diag_embed(found["l"]) @ found["v"].mT - a).abs().max() < 1e-5 * size
    assert (found["v"].mT @ found["v"] - torch.eye(n)).abs().max() < 1e-5 * size


def test_factors_of_singular_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    learner = il.Learner(nn.Linear(4, 5), il.gap(0.1, 2), loss_fn=F.mse_loss)
    meta = learner._meta.learned
    for factors in meta.values():
        factors.copy_(torch.linspace(2.0, 0.5, factors.numel()).view_as(factors))
    x = torch.randn(9, 4)
    assert il.export.adaptation(learner, tmp_path / "a.onnx", x, x @ torch.randn(4, 5)).difference < 1e-4


class Counting(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if x.shape[0] > 8 else 1)


class Knowing(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if len(x) > 8 else 1)


class Looking(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if float(x.sum()) > 0 else 1)


def test_what_depends_on_the_number_of_examples_or_on_values_is_refused(tmp_path: Path) -> None:
    x, y = examples(6, 2)
    for net, said in (
        (Counting, "does something else for .* examples than for"),
        (Knowing, "needs to know the number"),
    ):
        with pytest.raises(il.export.ExportError, match=said):
            il.export.adaptation(il.Learner(net(2, 3), il.maml(0.1)), tmp_path / "a.onnx", x, y)
    fixed = il.export.adaptation(il.Learner(Counting(2, 3), il.maml(0.1)), tmp_path / "a.onnx", x, y, examples=(6, 2))
    assert fixed.difference < 1e-5
    with pytest.raises(il.export.ExportError, match="cannot be recorded"):
        il.export.adaptation(il.Learner(Looking(2, 3), il.maml(0.1)), tmp_path / "a.onnx", x, y)


@pytest.mark.parametrize(
    ("method", "inputs", "said"),
    [
        (il.reptile(test_batch=3), ["steps"], "mini-batches"),
        (il.maml_plus_plus(0.1, 2), ["steps"], "something of its own for each step"),
        (il.meta_sgd(), ["inner_lr"], "does not have one rate"),
        (il.maml(), ["momentum"], "inputs holds 'momentum'; choose from steps, inner_lr, ways"),
    ],
)
def test_settings_that_cannot_be_inputs(method: il.Method, inputs: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(il.export.ExportError, match=said):
        il.export.adaptation(il.Learner(plain(), method), tmp_path / "a.onnx", *examples(6, 2), inputs=inputs)
