"""Files of nested state: what goes in comes out, and a failure leaves the old file."""

from __future__ import annotations

import ast
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import innerloop
from innerloop.learner.files import CheckpointError, load_state, save_state, write_atomically

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def same(one: Any, other: Any) -> bool:
    """Alike in type and value all the way down; NaN is like NaN, and 0.0 unlike -0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        # As bytes, for NaN and the sign of zero.
        def bits(t):
            return torch.empty(t.numel(), dtype=t.dtype).copy_(t.reshape(-1)).view(torch.uint8)

        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(bits(one), bits(other))
    if isinstance(one, dict):
        return list(map(repr, one)) == list(map(repr, other)) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float):
        return (
            math.isnan(one) and math.isnan(other) or (one == other and math.copysign(1, one) == math.copysign(1, other))
        )
    return one == other


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        ((1,), [1]),
        ({1: 2}, {"1": 2}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (0.0, -0.0),
        (math.nan, 0.0),
        (torch.zeros(2), torch.zeros(2).double()),
        (torch.zeros(2), torch.zeros(1, 2)),
        (torch.zeros(2), torch.tensor([0.0, -0.0])),
        (None, False),
    ],
)
def test_the_comparison_tells_what_is_unlike(one: Any, other: Any) -> None:
    assert same(one, one)
    assert same(other, other)
    assert not same(one, other)


@st.composite
def tensors(draw) -> Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    t = (torch.randn(shape, generator=generator) * 10).to(draw(st.sampled_from(DTYPES)))
    if t.is_floating_point() and t.numel() and draw(st.booleans()):
        t.view(-1)[0] = draw(st.sampled_from([math.nan, math.inf, -math.inf, -0.0]))
    kind = draw(st.sampled_from(["plain", "transposed", "expanded", "strided", "parameter"]))
    if kind == "transposed":
        t = t.mT if t.ndim >= 2 else t
    elif kind == "expanded":
        t = t.expand(2, *t.shape)
    elif kind == "strided":
        t = t[..., ::2] if t.ndim else t
    elif kind == "parameter" and t.is_floating_point():
        t = t.requires_grad_() * 1  # with a graph, which is not to be saved
    return t


KEYS = st.text(max_size=4) | st.sampled_from(["$tensor", "$dict", "$tuple", "$", "a"]) | st.integers(-5, 5)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | tensors()
STATES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=8,
)


def plain(state: Any) -> Any:
    """The state as it is to come back: tensors without graphs."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, dict):
        return {key: plain(item) for key, item in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(plain(item) for item in state)
    return state


@settings(max_examples=200, deadline=None)
@given(STATES)
def test_what_goes_in_comes_out(tmp_path_factory, state: Any) -> None:
    file = tmp_path_factory.mktemp("state") / "state.safetensors"
    save_state(state, file)
    assert same(load_state(file), plain(state))
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_tensors_that_share_memory_come_back_apart(tmp_path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {"whole": base, "row": base[1], "turned": base.mT, "again": base, "one": base[0, :1].expand(5)}
    save_state(state, tmp_path / "f")
    back = load_state(tmp_path / "f")
    assert same(back, plain(state))
    back["whole"].zero_()
    assert same(back["row"], base[1])
    assert all(t.is_contiguous() for t in back.values())


def test_a_state_is_saved_as_it_was_and_is_not_written_to(tmp_path) -> None:
    w = nn.Parameter(torch.ones(2, 3))
    state = {"w": w.mT}
    save_state(state, tmp_path / "f")
    with torch.no_grad():
        w.zero_()
    assert load_state(tmp_path / "f")["w"].tolist() == [[1, 1], [1, 1], [1, 1]]
    assert state["w"].shape == (3, 2)


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.Adam(p, 0.1, amsgrad=True), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)]
)
def test_optimizers_and_schedulers_come_back(make, tmp_path) -> None:
    def run(net: nn.Module, optimizer, scheduler, steps: int) -> None:
        for i in range(steps):
            optimizer.zero_grad()
            net(torch.full((1, 3), float(i))).sum().backward()
            optimizer.step()
            scheduler.step()

    def fresh() -> tuple[Any, ...]:
        torch.manual_seed(1)
        net = nn.Linear(3, 2)
        optimizer = make(net.parameters())
        return net, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

    one, two = fresh(), fresh()
    run(*one, 3)
    save_state([part.state_dict() for part in one], tmp_path / "f")
    for part, state in zip(two, load_state(tmp_path / "f"), strict=True):
        part.load_state_dict(state)
    run(*one, 3)
    run(*two, 3)
    assert torch.equal(one[0].weight, two[0].weight)


@pytest.mark.parametrize("leaf", [object(), {1, 2}, torch.nn.Linear(1, 1), b"bytes", 1j, print])
def test_other_leaves_are_refused_and_the_old_file_stays(leaf: Any, tmp_path) -> None:
    file = tmp_path / "f"
    save_state({"step": 1}, file)
    with pytest.raises(TypeError, match=f"cannot save a {type(leaf).__name__}"):
        save_state({"step": 2, "deep": [(leaf,)]}, file)
    assert load_state(file) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(moment: str, tmp_path, monkeypatch) -> None:
    file = tmp_path / "f"
    save_state({"w": torch.ones(3)}, file)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os if moment == "fsync" else Path, moment, fail)
        with pytest.raises(OSError, match="no space left"):
            save_state({"w": torch.zeros(1000)}, file)
    assert load_state(file)["w"].tolist() == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    save_state({"w": torch.zeros(1)}, file)
    assert load_state(file)["w"].tolist() == [0]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    file = tmp_path / "f"
    write_atomically(file, b"old")

    def interrupt(*args: Any) -> None:
        assert file.read_bytes() == b"old"  # at the last moment the old content is still there
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"


def test_a_file_is_for_others_to_read(tmp_path) -> None:
    """As any new file is, though temporary files are not."""
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "f", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("size", [0, 4, 8, 50, -1])
def test_a_cut_file_is_damaged(size: int, tmp_path) -> None:
    file = tmp_path / "f"
    save_state({"w": torch.ones(100), "step": 3}, file)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"f is damaged: .*use another checkpoint"):
        load_state(file)


def test_other_files_are_refused(tmp_path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "f"
    with pytest.raises(CheckpointError, match="there is no file"):
        load_state(file)
    with pytest.raises(CheckpointError, match="there is no file"):
        load_state(tmp_path)
    file.write_bytes(b"\x00" * 1000)
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(file)
    save_file({"w": torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match="not a file of the format innerloop-state-1"):
        load_state(file)
    torch.save({"w": torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(file)


def test_a_structure_that_does_not_fit_its_tensors_is_damaged(tmp_path) -> None:
    from safetensors.torch import save_file

    for structure in ('{"$tensor": "000007"}', '{"w": ', '{"$dict": 3}'):
        save_file({"000000": torch.ones(1)}, tmp_path / "f", {"format": "innerloop-state-1", "structure": structure})
        with pytest.raises(CheckpointError, match="damaged"):
            load_state(tmp_path / "f")


def test_a_checkpoint_error_is_a_value_error() -> None:
    assert issubclass(CheckpointError, ValueError)


def test_loading_runs_no_pickle(tmp_path, monkeypatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a pickle was read")

    for owner, name in ((pickle, "loads"), (pickle, "load"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, fail)
    save_state({"w": torch.ones(1), 3: (None,)}, tmp_path / "f")
    assert load_state(tmp_path / "f")[3] == (None,)


RESTRICTED = "data/_unpickle.py"
"""The one module that reads pickle files, those of published data sets: its reader calls no code that a file names."""


def test_nothing_else_in_the_library_uses_a_pickle() -> None:
    root = Path(innerloop.__file__).parent
    files = sorted(root.rglob("*.py"))
    assert len(files) > 30
    for file in files:
        assert bool(pickles(file.read_text())) == (file.relative_to(root).as_posix() == RESTRICTED), file


def pickles(source: str) -> list[str]:
    """What a module uses that reads or writes pickles."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [n for n in names if n.split(".")[0] in ("pickle", "dill", "cloudpickle", "joblib", "shelve")]
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.save"):
            found.append(ast.unparse(node))
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.append("allow_pickle")  # numpy's functions read none without it
    return found


def test_a_pickle_would_be_found() -> None:
    assert pickles("import pickle") == ["pickle"]
    assert pickles("from pickle import loads") == ["pickle"]
    assert pickles("def f(p): return torch.load(p)") == ["torch.load"]
    assert pickles("np.load(f, allow_pickle=True)") == ["allow_pickle"]
    assert pickles("import json; json.load(f); np.load(f, allow_pickle=False)") == []
