"""The models that must just work, row by row: trained, differentiated exactly, run together, left alone."""

from __future__ import annotations

import contextlib
import copy
import doctest
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from core_helpers import assert_same, assert_untouched, snapshot, trainable, vector_episode
from model_zoo import MODELS, Model, missing, table
from torch import Tensor, nn
from torch.func import functional_call

import innerloop as il
from innerloop.engine.backends import to_set_aside, without

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
DROPOUT = [name for name in MODELS if "dropout" in name or "Bert" in name or "LoRA" in name or "dot_product" in name]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    return available(request.param)


def available(name: str) -> Model:
    """A row, whose test is skipped without its package, or fails where nothing may be skipped."""
    package = missing(MODELS[name])
    if package is not None:
        reason = f"{package} is not installed; pip install -e '.[dev]' has it"
        if os.environ.get("INNERLOOP_REQUIRE_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    return MODELS[name]


@contextlib.contextmanager
def said(model: Model) -> Iterator[None]:
    """The warning that a model is expected to give; any other is an error."""
    if model.serial is None:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")  # PyTorch, on the way to its error
        pattern = rf"^tasks run one by one: torch.func.vmap cannot batch the .*{model.serial}"
        with pytest.warns(UserWarning, match=pattern) as caught:
            yield
        assert len([w for w in caught if "one by one" in str(w.message)]) == 1


def by_hand(net: nn.Module, model: Model, params: Mapping[str, Tensor], episode: il.Episode, steps: int) -> float:
    """The mean query loss after the inner loop, written out in plain PyTorch; ``net`` is in evaluation mode."""
    net = copy.deepcopy(net)
    for layer in net.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.train(model.norm != "running")
    moving = [name for name in params if fnmatch(name, model.adapt)]
    losses = []
    for i in range(episode.tasks):
        now = {name: p.detach().requires_grad_() for name, p in params.items()}
        support_x, query_x = episode.support_x[i], episode.query_x[i]
        for _ in range(steps):
            loss = model.loss_fn(functional_call(net, now, (support_x,)), episode.support_y[i])
            grads = torch.autograd.grad(loss, [now[name] for name in moving])
            for name, grad in zip(moving, grads, strict=True):
                now[name] = (now[name] - model.lr * grad).detach().requires_grad_()
        with torch.no_grad():
            if model.norm == "inductive":
                pairs = [functional_call(net, now, (torch.cat([support_x, x[None]]),))[-1] for x in query_x]
                outputs = torch.stack(pairs)
            else:
                outputs = functional_call(net, now, (query_x,))
            losses.append(model.loss_fn(outputs, episode.query_y[i]))
    return float(torch.stack(losses).mean())


def direction(net: nn.Module) -> dict[str, Tensor]:
    """A random direction, in which the padding's rows, which have no gradient by definition, stay."""
    g = torch.Generator().manual_seed(3)
    v = {name: torch.randn(p.shape, generator=g, dtype=p.dtype) for name, p in trainable(net).items()}
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Embedding) and layer.padding_idx is not None and f"{name}.weight" in v:
            v[f"{name}.weight"][layer.padding_idx] = 0
    return v


def along(grads: Mapping[str, Tensor], v: Mapping[str, Tensor]) -> float:
    return float(sum((grads[name] * v[name]).sum() for name in v))


def slope(loss, params: Mapping[str, Tensor], v: Mapping[str, Tensor], eps: float) -> float:
    """The derivative of a loss along ``v``, by central differences of fourth order.

    So small an ``eps`` as 1e-7 is there for the kinks of ReLU, which should not lie between.
    """
    at = [loss({name: (p + k * eps * v[name]).detach() for name, p in params.items()}) for k in (-2, -1, 1, 2)]
    return (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * eps)


@pytest.mark.parametrize("method", ["maml", "fomaml"])
def test_it_is_trained(model: Model, method: str) -> None:
    net, episode = model.net(), model.episode()
    trainer = il.MetaTrainer(
        net,
        model.method(method, steps=1),
        lambda params: torch.optim.Adam(params, lr=0.02 if model.needs else 0.05),
        loss_fn=model.loss_fn,
        norm=model.norm,
    )
    with said(model):
        losses = [float(trainer.step(episode).loss.mean()) for _ in range(10)]
    assert sum(losses[-3:]) / 3 < 0.9 * losses[0]


def test_the_exact_gradient_is_the_slope(model: Model) -> None:
    net, episode = model.net().eval(), model.episode()
    params = trainable(net)
    v = direction(net)
    with said(model):
        grads, info = il.meta_gradient(net, model.method("maml"), episode, model.loss_fn, norm=model.norm)
    assert float(info.loss.mean()) == pytest.approx(by_hand(net, model, params, episode, 2), rel=1e-9)
    expected = slope(lambda at: by_hand(net, model, at, episode, 2), params, v, 1e-4 if model.single else 1e-7)
    assert abs(expected) > 1e-3
    assert along(grads, v) == pytest.approx(expected, rel=1e-3 if model.single else 1e-5)


@pytest.mark.parametrize("name", DROPOUT)
def test_the_exact_gradient_is_the_slope_with_dropout(name: str) -> None:
    model = available(name)
    net, episode = model.net().train(), model.episode()
    params = trainable(net)
    v = direction(net)

    def estimate(at: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], il.Info]:
        torch.manual_seed(5)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="tasks run one by one")
            return il.meta_gradient(net, model.method("maml"), episode, model.loss_fn, meta_params=at)

    grads, info = estimate(params)
    expected = slope(lambda at: float(estimate(at)[1].loss.mean()), params, v, 1e-7)
    assert along(grads, v) == pytest.approx(expected, rel=1e-5)
    _, without_dropout = il.meta_gradient(net.eval(), model.method("maml"), episode, execution="serial")
    assert not torch.allclose(info.loss, without_dropout.loss, rtol=1e-3)


@pytest.mark.parametrize("method", ["maml", "fomaml"])
def test_run_together_it_is_as_one_by_one(model: Model, method: str) -> None:
    net, episode = model.net().eval(), model.episode()
    execution = "batched" if model.serial is None else "auto"
    with said(model):
        together, _ = il.meta_gradient(
            net, model.method(method), episode, model.loss_fn, norm=model.norm, execution=execution
        )
    alone, _ = il.meta_gradient(net, model.method(method), episode, model.loss_fn, norm=model.norm, execution="serial")
    assert_same(together, alone)


def test_it_is_left_as_it_was(model: Model) -> None:
    net, episode = model.net().train(), model.episode()
    before, method = snapshot(net), model.method("maml")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="tasks run one by one|There is a performance drop")
        il.meta_gradient(net, method, episode, model.loss_fn, norm=model.norm)
        il.evaluate(net, method, lambda generator: episode, tasks=3, loss_fn=model.loss_fn, norm=model.norm)
    il.adapt(net, method, episode.support_x[0], episode.support_y[0], model.loss_fn, norm=model.norm)
    assert_untouched(net, before)


# What of PyTorch is set aside


@pytest.mark.parametrize(
    ("device", "second_order", "batched", "recurrent", "expected"),
    [
        ("cpu", False, False, "training", ""),
        ("cpu", False, True, "none", "attention"),
        ("cpu", True, False, "evaluating", "attention"),
        ("cuda", False, False, "none", ""),
        ("cuda", True, False, "none", "attention"),
        ("cuda", False, False, "training", ""),
        ("cuda", True, False, "training", "attention cudnn"),
        ("cuda", False, False, "evaluating", "cudnn"),
        ("cuda", False, True, "evaluating", "attention cudnn"),
        ("mps", True, True, "training", "attention"),
    ],
)
def test_which_fused_kernels_are_set_aside(device, second_order, batched, recurrent, expected) -> None:
    found = to_set_aside(torch.device(device), second_order=second_order, batched=batched, recurrent=recurrent)
    assert found == set(expected.split())


def switches() -> tuple[bool, ...]:
    cuda = torch.backends.cuda
    return (
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cudnn.enabled,
    )


def test_switches_are_off_while_any_thread_needs_it_and_then_as_before() -> None:
    before = switches()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with without(frozenset({"attention"})):
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with without(frozenset({"attention", "cudnn"})):
        assert switches() == (False,) * 5
        thread.start()
        inside.wait()
    assert switches() == (False,) * 4 + (before[4],)
    leave.set()
    thread.join()
    assert switches() == before
    with contextlib.suppress(ZeroDivisionError), without(frozenset({"attention"})):
        _ = 1 / 0
    assert switches() == before


def test_switches_are_off_where_second_derivatives_are_taken_and_on_elsewhere() -> None:
    """Of attention: in the inner loop of an exact method, one task at a time."""

    class Watching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.backends.cuda.flash_sdp_enabled())
            return super().forward(x)

    net, episode = Watching(4, 3).double(), vector_episode(1)
    for method, expected in ((il.maml(0.1, 2), [False, False, True]), (il.fomaml(0.1, 2), [True, True, True])):
        seen: list[bool] = []
        il.meta_gradient(net, method, episode, execution="serial")
        assert seen == expected
        assert torch.backends.cuda.flash_sdp_enabled()


# What PyTorch gets wrong, or cannot do


@pytest.mark.parametrize("padding", [0, -1])
def test_the_paddings_row_has_no_gradient(padding: int) -> None:
    net = nn.Sequential(nn.Embedding(5, 4, padding_idx=padding), nn.Flatten(), nn.Linear(12, 3)).double()
    x = torch.randint(5, (2, 6, 3))
    x[:, 0] = padding % 5
    y = torch.randint(3, (2, 6))
    for method in (il.maml(0.1, 2), il.fomaml(0.1, 2)):
        grads, _ = il.meta_gradient(net, method, il.Episode(x, y, x, y), execution="batched")
        assert not grads["0.weight"][padding].any()
        assert_same(grads, il.meta_gradient(net, method, il.Episode(x, y, x, y), execution="serial")[0])


def test_an_embedding_with_sparse_gradients_has_dense_ones_here() -> None:
    nets = [
        nn.Sequential(nn.Embedding(5, 4, sparse=sparse), nn.Flatten(), nn.Linear(12, 3)) for sparse in (True, False)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    x, y = torch.randint(5, (2, 6, 3)), torch.randint(3, (2, 6))
    grads = [il.meta_gradient(net, il.maml(0.1, 2), il.Episode(x, y, x, y))[0] for net in nets]
    assert_same(*grads)
    assert nets[0][0].sparse


def test_an_embedding_that_changes_its_weights_is_refused() -> None:
    net = nn.Sequential(nn.Embedding(5, 4, max_norm=1.0), nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(ValueError, match=r"the embedding '0' has a max_norm, .* changes the weights"):
        il.Learner(net, il.maml(0.1))


def test_a_second_derivative_that_does_not_exist_is_explained() -> None:
    net = nn.Sequential(nn.EmbeddingBag(5, 4), nn.Linear(4, 3)).double()
    x, y = torch.randint(5, (2, 6, 3)), torch.randint(3, (2, 6))
    episode = il.Episode(x, y, x, y)
    with pytest.raises(
        RuntimeError, match=r"_embedding_bag_backward.* is not implemented\. .*second derivatives.*il\.fomaml"
    ):
        il.meta_gradient(net, il.maml(0.1), episode, execution="serial")
    il.meta_gradient(net, il.fomaml(0.1), episode, execution="serial")


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"num_layers": 2},
        {"bidirectional": True, "num_layers": 2},
        {"proj_size": 2, "num_layers": 2},
    ],
)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, lambda *a, **o: nn.RNN(*a, nonlinearity="relu", **o)])
def test_a_recurrent_layer_mapped_is_pytorchs(kind, batch_first: bool, options: dict[str, object]) -> None:
    """All that it gives: outputs and last states, from states that are given."""
    if "proj_size" in options and kind is not nn.LSTM:
        return  # there is no such layer

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(3, 4, batch_first=batch_first, **options)

        def forward(self, x: Tensor) -> Tensor:
            x = x if batch_first else x.transpose(0, 1)
            count = self.rnn.num_layers * (1 + self.rnn.bidirectional)
            cell = torch.ones(count, 6, 4, dtype=x.dtype)
            state = cell[..., : self.rnn.proj_size or 4] / 2
            y, last = self.rnn(x, (state, cell) if isinstance(self.rnn, nn.LSTM) else state)
            last = torch.cat(last, -1) if isinstance(last, tuple) else last
            y = y if batch_first else y.transpose(0, 1)
            return torch.cat([y.flatten(1), last.transpose(0, 1).flatten(1)], 1)

    net, x = Whole().double(), torch.randn(2, 6, 5, 3, dtype=torch.float64)
    y = torch.randn(2, 6, *net(x[0]).shape[1:], dtype=torch.float64)
    episode = il.Episode(x, y, x, y)
    for method in (il.maml(0.1, 1), il.fomaml(0.1, 1)):
        (together, info), (alone, other) = (
            il.meta_gradient(net, method, episode, nn.functional.mse_loss, execution=execution)
            for execution in ("batched", "serial")
        )
        assert_same(together, alone)
        torch.testing.assert_close(info.loss, other.loss)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_recurrent_cell_mapped_is_pytorchs(kind) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = kind(4, 3, bias=kind is not nn.GRUCell)

        def forward(self, x: Tensor) -> Tensor:
            state = self.cell(x, self.cell(x))
            return state[0] + state[1] if isinstance(state, tuple) else state

    net, episode = Twice().double(), vector_episode(3)
    grads = [il.meta_gradient(net, il.maml(0.1, 2), episode, execution=e)[0] for e in ("batched", "serial")]
    assert_same(*grads)


# The page


def test_the_page_runs() -> None:
    available("LoRA by `peft` in a ViT, the body frozen")
    available("`BertForSequenceClassification`")
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.failed == 0
    assert result.attempted > 30


def test_the_page_says_what_runs_together() -> None:
    """Row by row; the words of the reason are PyTorch's, and not the same in each release."""
    for name in MODELS:
        available(name)
    _, _, rest = PAGE.read_text().partition("<!-- table -->\n")
    written, _, _ = rest.partition("<!-- end of table -->")
    assert [row.split("|")[1:3] for row in written.splitlines()] == [
        row.split("|")[1:3] for row in table().splitlines()
    ]
    for row in written.splitlines()[2:]:
        name, how, why = (cell.strip() for cell in row.split("|")[1:4])
        assert how == ("together" if MODELS[name].serial is None else "one by one")
        assert bool(why) == (how == "one by one")


@pytest.mark.parametrize("execution", ["serial", "batched"])
@pytest.mark.parametrize("name", ["`nn.LSTM`", "`nn.TransformerEncoder`, dropout, padding"])
def test_every_exact_estimator_takes_second_derivatives(name: str, execution: il.Execution) -> None:
    model = available(name)
    net, episode = model.net().train(), model.episode()
    grads = []
    for estimator in (il.unrolled(), il.checkpointed(), il.mixed_mode()):
        torch.manual_seed(7)  # dropout is drawn in the same order
        method = il.maml(0.1, 3, meta_gradient=estimator)
        grads.append(il.meta_gradient(net, method, episode, execution=execution)[0])
    for other in grads[1:]:
        assert_same(other, grads[0])
    implicit, _ = il.meta_gradient(net.eval(), il.imaml(0.1, 3), episode, execution=execution)
    assert any(grad.any() for grad in implicit.values())
