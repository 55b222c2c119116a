"""The benchmark runs, reports what it says, and notices a wrong gradient."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = ["--sizes", "2", "2", "1", "1", "2", "--rounds", "2"]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("meta_gradient")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def twice(bench):
    """A peer whose gradient is twice what it should be."""

    def peer(net, inner_lr, steps):
        right = bench.ours(net, inner_lr, steps)
        return lambda episode: {name: 2 * grad for name, grad in right(episode).items()}

    return peer


def absent(net, inner_lr, steps):
    raise ImportError("No module named 'absent'")


@pytest.mark.usefixtures("threads")
def test_the_last_line_is_the_report(bench, monkeypatch, capsys):
    monkeypatch.setitem(bench.PEERS, "absent", absent)
    monkeypatch.setitem(bench.PEERS, "itself", bench.ours)
    assert bench.main([*TINY, "--threads", "1", "--executions", "serial", "1", "--json"]) == 0
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    assert report["threads"] == 1
    assert report["missing"]["absent"] in out
    (row,) = report["rows"]
    assert row["sizes"] == {"tasks": 2, "ways": 2, "shots": 1, "queries": 1, "steps": 2}
    installed = {*bench.PEERS} - {*report["missing"]}
    assert row["seconds"].keys() == {"innerloop", "innerloop serial", "innerloop 1", *installed}
    assert all(seconds > 0 for seconds in row["seconds"].values())
    assert all(len(times) == 2 for times in row["samples"].values())
    assert row["fastest_peer"] in installed
    assert row["ratio_to_fastest_peer"] > 0
    assert row["ratio_to_innerloop"]["innerloop"] == 1
    assert all(difference <= 1e-8 for difference in row["relative_difference"]["float64"].values())


def test_without_peers_there_is_no_ratio_to_one(bench, monkeypatch, capsys):
    for name in bench.PEERS:
        monkeypatch.setitem(bench.PEERS, name, absent)
    assert bench.main([*TINY, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert row["seconds"].keys() == {"innerloop"}
    assert row["fastest_peer"] is None
    assert row["ratio_to_fastest_peer"] is None


def test_a_wrong_gradient_fails(bench, monkeypatch, capsys):
    monkeypatch.setitem(bench.PEERS, "twice", twice(bench))
    assert bench.main(TINY) == 1
    assert "twice by 1.0e+00" in capsys.readouterr().err


def test_a_first_order_gradient_fails_in_float32(bench):
    import innerloop as il

    net = il.nets.conv4(3)
    episode = bench.episode_of(bench.Sizes(3, 3, 1, 1, 2), seed=0)
    first_order = il.fomaml(0.1, 2)
    contenders = {
        bench.OURS: bench.ours(net, 0.1, 2),
        "fomaml": lambda piece: il.meta_gradient(net, first_order, piece)[0],
    }
    with pytest.raises(bench.DisagreementError, match=r"more than 1e-03 in torch.float32: fomaml"):
        bench.agreement(contenders, list(episode.chunks(1)))


@pytest.mark.parametrize(
    "grads",
    [{"w": torch.tensor([1.0, float("nan")])}, {"v": torch.ones(2)}, {}],
    ids=["not a number", "another name", "nothing"],
)
def test_what_cannot_be_compared_is_infinitely_far(bench, grads):
    assert bench.relative_difference(grads, {"w": torch.ones(2)}) == float("inf")


def test_the_difference_is_relative_to_the_largest_entry(bench):
    grads, expected = {"w": torch.tensor([3.0, -4.5])}, {"w": torch.tensor([3.0, -4.0])}
    assert bench.relative_difference(grads, expected) == 0.125


@pytest.mark.parametrize("peer", ["higher", "torchopt", "iteryne"])
def test_every_peer_is_exact(bench, peer):
    pytest.importorskip(peer)
    import innerloop as il

    sizes = bench.Sizes(2, 2, 1, 2, 2)
    net = il.nets.conv4(2).double()
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    episode = bench.episode_of(sizes, seed=0).map(lambda t: t.double() if t.is_floating_point() else t)
    meta_gradient = bench.PEERS[peer](net, 0.1, sizes.steps)
    for _ in range(2):  # nothing is left behind by the first
        grads = meta_gradient(episode)
        expected, _ = il.meta_gradient(net, il.maml(0.1, sizes.steps), episode)
        assert bench.relative_difference(grads, expected) < 1e-10
    assert all(torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())
