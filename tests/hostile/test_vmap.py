"""Forward passes and losses that use function transforms or derivatives of their own."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.utils.checkpoint import checkpoint

import innerloop as il
from hostile.harness import Cases, Script, episodes, linear, mlp, refused

cases = Cases()
CALLS = 6


class Ensemble(nn.Module):
    """The mean of the outputs of members, whose parameters have a leading axis."""

    def __init__(self, members: int, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(members, 2, 3, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(members, 2, dtype=torch.float64))
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "weights":
            return vmap(lambda w, b: F.linear(x, w, b))(self.weight, self.bias).tanh().mean(0)
        if self.kind == "weight only":
            return vmap(lambda w: F.linear(x, w))(self.weight).tanh().mean(0) + self.bias.mean(0)
        if self.kind == "bias only":
            return vmap(lambda b: F.linear(x, self.weight[0], b))(self.bias).tanh().mean(0) + self.weight.mean()
        if self.kind == "last axis":
            stacked = vmap(lambda w, b: F.linear(x, w, b), in_dims=(2, 1))(
                self.weight.movedim(0, 2), self.bias.movedim(0, 1)
            )
            return stacked.tanh().mean(0)
        if self.kind == "examples":
            return vmap(lambda row: F.linear(row, self.weight[0], self.bias[0]))(x) + 0 * self.weight.sum()
        if self.kind == "examples and weights":
            inner = lambda row: vmap(lambda w, b: F.linear(row, w, b))(self.weight, self.bias).mean(0)  # noqa: E731
            return vmap(inner)(x)
        if self.kind == "a matrix product":
            return vmap(lambda w, b: x @ w.mT + b)(self.weight, self.bias).tanh().mean(0)
        if self.kind == "a chunk at a time":
            return vmap(lambda w, b: F.linear(x, w, b), chunk_size=2)(self.weight, self.bias).tanh().mean(0)
        raise ValueError(self.kind)


def ensemble(members: int, kind: str, tasks: int) -> Callable[[], Script]:
    return lambda: Script(
        Ensemble(members, kind), episode=lambda call: episodes(call, tasks=tasks), calls=CALLS, refusal=False
    )


for kind in ("weights", "weight only", "bias only", "last axis", "examples", "examples and weights"):
    for members in (2, 4):
        cases(
            ensemble(members, kind, 4),
            name=f"vmap over {kind} of {members} members, among 4 tasks",
            ways=((members, 1), ("auto", 1)),
        )
for kind in ("a matrix product", "a chunk at a time"):
    cases(ensemble(4, kind, 4), name=f"vmap over 4 members by {kind}, among 4 tasks", ways=((4, 1), ("serial", 1)))
for members in (1, 3, 5):
    cases(ensemble(members, "weights", 4), name=f"vmap over {members} members, among 4 tasks", ways=((4, 1), (2, 2)))


class Images(nn.Module):
    """Layers that the kernels know, under a vmap of the module's own over members or examples."""

    def __init__(self, over: str, layer: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(2, 3, 1, 3, 3, dtype=torch.float64))
        self.scale = nn.Parameter(torch.rand(2, 3, dtype=torch.float64))
        self.head = nn.Linear(3, 2).double()
        self.over, self.layer = over, layer

    def features(self, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        x = F.conv2d(x, weight, padding=1)
        if self.layer == "batch norm":
            x = F.relu(F.batch_norm(x, None, None, scale, None, training=True))
        if self.layer == "group norm":
            x = F.group_norm(x, 1, scale)
        x = F.max_pool2d(x, 2) if self.layer == "pooling" else x
        return x.mean((2, 3)) + scale

    def forward(self, x: Tensor) -> Tensor:
        if self.over == "members":
            return self.head(vmap(lambda w, s: self.features(x, w, s))(self.weight, self.scale).mean(0))
        each = vmap(lambda image: self.features(image[None], self.weight[0], self.scale[0])[0])(x)
        return self.head(each + self.weight.mean() + self.scale.mean())


def images(call: int) -> il.Episode:
    e = episodes(call, features=16)
    return il.Episode(e.support_x.unflatten(2, (1, 4, 4)), e.support_y, e.query_x.unflatten(2, (1, 4, 4)), e.query_y)


for over in ("members", "examples"):
    for layer in ("convolution", "batch norm", "group norm", "pooling"):
        if (over, layer) == ("examples", "batch norm"):
            continue  # normalising an image by itself has few values: its second derivatives are ill-conditioned
        cases(
            lambda over=over, layer=layer: Script(Images(over, layer), episode=images, calls=4),
            name=f"{layer} under vmap over {over}",
            ways=((2, 1), ("serial", 1)),
        )


@cases.only((2, 1), ("auto", 1), ("serial", 1), calls=8)
def an_ensemble_of_stacked_modules() -> Script:
    members = [mlp(), mlp()]
    params, _ = stack_module_state(members)

    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.params = nn.ParameterDict({n.replace(".", "_"): nn.Parameter(p.data) for n, p in params.items()})
            self.base = (members[0],)  # in a tuple, so that it is no submodule

        def forward(self, x: Tensor) -> Tensor:
            own = {name: self.params[name.replace(".", "_")] for name in params}
            return vmap(lambda values: functional_call(self.base[0], values, (x,)))(own).mean(0)

    return Script(Stacked())


@cases.only((2, 1), ("auto", 1), ("serial", 1), calls=8)
def a_loss_that_maps_over_examples() -> Script:
    return Script(linear(), lambda outputs, y: vmap(F.cross_entropy)(outputs[:, None], y[:, None]).mean())


class Derives(nn.Module):
    """A network with a derivative of itself among its outputs."""

    def __init__(self, derive: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.derive = mlp(3, 4, 2), derive

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + self.derive(lambda row: self.net(row[None])[0].pow(2).sum(), x)


def by_autograd(of: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        total = torch.stack([of(row) for row in x]).sum()
        return torch.autograd.grad(total, x, create_graph=True)[0][:, :2]


DERIVATIVES: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "grad": lambda of, x: vmap(grad(of))(x)[:, :2],
    "jacrev": lambda of, x: vmap(jacrev(of))(x)[:, :2],
    "jacfwd": lambda of, x: vmap(jacfwd(of))(x)[:, :2],
    "jvp": lambda of, x: vmap(lambda row: jvp(of, (row,), (torch.ones_like(row),))[1])(x)[:, None],
    "vjp": lambda of, x: vmap(lambda row: vjp(of, row)[1](torch.ones((), dtype=row.dtype))[0])(x)[:, :2],
    "hessian": lambda of, x: vmap(hessian(of))(x)[:, 0, :2],
    "autograd": by_autograd,
}
for sentence, derive in DERIVATIVES.items():
    cases(
        lambda derive=derive: Script(Derives(derive), calls=5, refusal=True),
        name=f"a derivative by {sentence} within the forward pass",
        ways=((2, 1), ("auto", 1), ("serial", 1)),
    )


class Doubled(torch.autograd.Function):
    """Gives twice its input, and by its own rule three times the gradient."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 3 * gradient


class DoubledMapped(torch.autograd.Function):
    """The same in the form that can be mapped."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return 3 * gradient


class DoubledByHand(DoubledMapped):
    """The same with a rule for vmap that is written by hand."""

    generate_vmap_rule = False

    @staticmethod
    def vmap(info, in_dims, x):
        return DoubledByHand.apply(x), in_dims[0]


for function in (Doubled, DoubledMapped, DoubledByHand):
    cases(
        lambda function=function: Script(nn.Sequential(mlp(), Applied(function)), calls=12, steps=2, refusal=True),
        name=f"an autograd function: {function.__doc__}",
        ways=(("batched", 1), ("auto", 1), ("serial", 2)),
    )


class Applied(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.net, self.head, self.reentrant = mlp(3, 4, 3), linear(), reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.net, x, use_reentrant=self.reentrant))


for reentrant in (False, True):
    cases(
        lambda reentrant=reentrant: Script(Checkpointed(reentrant=reentrant), calls=8, refusal=True),
        name=f"a checkpoint, {reentrant=}",
        ways=(("serial", 1), ("auto", 1), (1, 2)),
    )


@cases.only(("serial", 1), ("auto", 1))
def a_first_order_method_with_a_checkpoint() -> Script:
    return Script(Checkpointed(reentrant=False), kind="fomaml", calls=8, refusal=True)


@cases.only(("serial", 1), ("auto", 1), (2, 1))
def a_scripted_module() -> Script:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return Script(torch.jit.script(mlp()), calls=8, refusal=True, copied=False)


@cases.only(("serial", 1), ("auto", 1), (2, 1))
def a_traced_part_of_a_module() -> Script:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(nn.Tanh(), torch.zeros(2, 4, dtype=torch.float64))
    return Script(nn.Sequential(linear(3, 4), traced, linear(4, 2)), calls=8, refusal=True)


@cases.only(("serial", 1), ("auto", 1), ("batched", 1))
def hooks_on_tensors_within_the_forward_pass() -> Script:
    class Hooked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head = linear(3, 4), linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.net(x)
            if hidden.requires_grad:
                hidden.register_hook(lambda gradient: 2 * gradient)
            return self.head(hidden.tanh())

    return Script(Hooked(), calls=12, refusal=True)


@cases.only(("serial", 1), ("auto", 1), ("batched", 1))
def a_forward_pass_that_asks_what_requires_gradients() -> Script:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head = linear(3, 4), linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.net(x)
            with torch.no_grad():
                constant = hidden * 2
            scale = 1.0 + hidden.requires_grad + 2 * x.requires_grad + 4 * constant.requires_grad
            return self.head(hidden.tanh()) * (scale + 8 * self.net.weight.requires_grad)

    return Script(Asks(), calls=12, steps=2)


@cases.only(("serial", 1), ("auto", 1), ("batched", 1))
def detached_and_no_grad_parts_of_the_forward_pass() -> Script:
    class Stops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head = mlp(3, 4, 4), linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.net(x)
            with torch.no_grad():
                size = hidden.norm(dim=1, keepdim=True)
            return self.head(hidden / size + hidden.detach())

    return Script(Stops(), calls=12, steps=2)


@cases.all
def test_transforms_within_the_forward_pass(case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.play(monkeypatch)


@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp"])
def test_a_meta_gradient_within_a_transform_is_right_or_refused(transform: str) -> None:
    net, episode, method = linear(), episodes(0), il.maml(0.1)
    right = il.meta_gradient(net, method, episode)[1].loss.mean()

    def objective(scale: Tensor) -> Tensor:
        scaled = il.Episode(episode.support_x * scale, episode.support_y, episode.query_x * scale, episode.query_y)
        grads, info = il.meta_gradient(net, method, scaled)
        return info.loss.mean() + 0 * sum(g.sum() for g in grads.values())

    def run() -> Tensor:
        if transform == "vmap":
            return vmap(objective)(torch.ones(2, dtype=torch.float64))[0]
        one = torch.ones((), dtype=torch.float64)
        if transform == "jvp":
            return jvp(objective, (one,), (one,))[0]
        slope = grad(objective)(one)
        higher, lower = (il_loss(net, method, episode, 1.0 + sign * 1e-5) for sign in (1, -1))
        torch.testing.assert_close(slope, (higher - lower) / 2e-5, rtol=1e-6, atol=1e-9)
        return right

    found: list[Tensor] = []
    if not refused(lambda: found.append(run())):
        torch.testing.assert_close(found[0], right, rtol=1e-9, atol=1e-12)


def il_loss(net: nn.Module, method: il.Method, episode: il.Episode, scale: float) -> Tensor:
    scaled = il.Episode(episode.support_x * scale, episode.support_y, episode.query_x * scale, episode.query_y)
    return il.meta_gradient(net, method, scaled)[1].loss.mean()
