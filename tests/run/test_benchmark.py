"""The benchmark runs, reports what it says, and notices a wrong gradient."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import innerloop as il
from innerloop.bench import DisagreementError, Options, contenders, measure
from innerloop.bench.agreement import agreement, relative_difference, tolerance
from innerloop.bench.alone import alone
from innerloop.bench.contenders import OURS, Ours
from innerloop.bench.options import BenchError
from innerloop.bench.peers import PEERS, Spec
from innerloop.bench.rows import ROWS, Row, Sizes, episode_of, make_network, rows_of, spec_of
from innerloop.bench.timing import interleaved
from innerloop.bench.work import forward_flops, matmul_rate, meta_gradient_flops
from innerloop.cli.main import main

TINY = ["bench", "--sizes", "2", "2", "1", "1", "2", "--rounds", "2", "--threads", "1"]
LIBRARIES = {
    "higher": "higher",
    "torchopt": "torchopt",
    "iteryne": "iteryne",
    "parallel-metalearn": "metalearn",
    "learn2learn": "learn2learn",
}


def absent(net, spec):
    raise ImportError("No module named 'absent'")


def crashing(net, spec):
    def fail(episode):
        raise RuntimeError("cannot be\nmapped")

    return fail


def twice(net, spec):
    """A peer whose gradient is twice what it should be."""
    right = Ours(net, spec)
    return lambda episode: {name: 2 * grad for name, grad in right(episode).items()}


def double(episode):
    return episode.map(lambda t: t.double() if t.is_floating_point() else t)


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture
def only(monkeypatch):
    """Have these peers and no others."""

    def replace(**peers):
        for name in list(PEERS):
            monkeypatch.delitem(PEERS, name)
        for name, peer in peers.items():
            monkeypatch.setitem(PEERS, name, peer)

    return replace


@pytest.fixture(autouse=True)
def a_quick_rate(monkeypatch):
    """The rate of the machine is that of small matrices. It is measured twice a row."""
    monkeypatch.setattr(measure, "matmul_rate", functools.partial(matmul_rate, size=128, repeats=2))


@pytest.fixture
def small_network(monkeypatch):
    """Rows are measured with eight filters in place of 64, and compared in float32 on three tasks in place of nine."""

    def make(row, seed):
        torch.manual_seed(seed)
        return il.nets.conv4(row.sizes.ways, filters=8)

    nine = measure._single_tasks
    monkeypatch.setattr(measure, "make_network", make)
    monkeypatch.setattr(measure, "_single_tasks", lambda row, seed: nine(row, seed)[:3])


def test_the_last_line_is_the_report(monkeypatch, capsys):
    monkeypatch.setitem(PEERS, "absent", absent)
    assert main([*TINY, "--executions", "serial", "1", "--no-memory", "--json"]) == 0
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    assert report["threads"] == report["machine"]["threads"] == 1
    assert report["machine"]["cpu"]
    assert report["versions"]["torch"] == torch.__version__
    assert f"absent is left out: {report['missing']['absent']}" in out
    (row,) = report["rows"]
    assert row["sizes"] == {"tasks": 2, "ways": 2, "shots": 1, "queries": 1, "steps": 2}
    installed = {*PEERS} - {*report["missing"]}
    assert row["seconds"].keys() == {OURS, f"{OURS} one-off", f"{OURS} serial", f"{OURS} 1", *installed}
    assert all(seconds > 0 for seconds in row["seconds"].values())
    assert all(len(times) == 2 for times in row["samples"].values())
    assert row["fastest_peer"] in installed
    assert row["ratio_to_fastest_peer"] > 0
    assert row["times_fastest_peer"] > 0
    assert row["fraction_of_matmul_rate"] > 0
    assert row["ratio_to_innerloop"][OURS] == 1
    assert all(difference <= 1e-8 for difference in row["relative_difference"]["float64"].values())


@pytest.mark.parametrize("what", ["fomaml", "reptile"])
def test_first_order_methods_are_compared_too(what, small_network, capsys):
    assert main([*TINY, "--what", what, "--no-memory", "--json"]) == 0
    report = last_line(capsys)
    assert report["what"] == what
    (row,) = report["rows"]
    assert "plain PyTorch" in row["seconds"]
    assert row["sizes"]["queries"] == (0 if what == "reptile" else 1)


def test_a_sweep_and_its_picture(only, small_network, capsys, tmp_path):
    only(**{"plain PyTorch": PEERS["plain PyTorch"]})
    picture = tmp_path / "sweep.png"
    sweep = ["--sweep", "steps", "--values", "1", "3", "--plot", str(picture), "--no-memory", "--json"]
    assert main([*TINY, *sweep]) == 0
    report = last_line(capsys)
    assert report["sweep"] == "steps"
    assert [row["sizes"]["steps"] for row in report["rows"]] == [1, 3]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_lean_estimators_take_part_in_a_sweep_without_peers(small_network, capsys):
    sweep = ["--sweep", "steps", "--values", "1", "2", "--no-peers", "--no-memory", "--json"]
    assert main([*TINY, *sweep, "--estimators", "checkpointed", "mixed_mode"]) == 0
    report = last_line(capsys)
    assert report["missing"] == {}
    lean = {f"{OURS} {way}" for way in ("one-off", "checkpointed", "mixed_mode")}
    for row in report["rows"]:
        assert row["seconds"].keys() == row["ratio_to_innerloop"].keys() == {OURS, *lean}
        assert row["relative_difference"]["float64"].keys() == lean
        assert row["fastest_peer"] is row["times_fastest_peer"] is None


def test_rows_are_drawn_as_bars_with_their_memory(tmp_path):
    from innerloop.bench.plot import draw

    row = {"network": "omniglot", "sizes": {"tasks": 2}, "seconds": {OURS: 1.0, "higher": 2.0}}
    draw(tmp_path / "bars.png", [{**row, "peak_memory": {OURS: 2**20, "higher": None}}], "title")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_throughput_divides_all_of_the_time(monkeypatch, capsys):
    from innerloop.bench import throughput

    small = il.data.ImageClasses.from_classes(torch.randint(256, (6, 5, 28, 28), dtype=torch.uint8))
    monkeypatch.setattr(throughput, "_classes", lambda options: ("noise", small))
    assert main([*TINY, "--throughput", "--iterations", "2", "--json"]) == 0
    result = last_line(capsys)["throughput"]
    assert result["dataset"] == "noise"
    assert result["shares"].keys() == {"sampling", "meta-gradient", "outer step", "logging"}
    assert sum(result["shares"].values()) == pytest.approx(1)
    assert all(share > 0 for share in result["shares"].values())
    assert result["tasks_per_second"] * result["seconds_per_iteration"] == pytest.approx(2)


def test_a_contender_is_measured_in_a_process_of_its_own():
    row = Row("omniglot", Sizes(2, 2, 1, 5, 1))
    found = alone(OURS, row, spec_of("maml", row.sizes), threads=1, seed=0)
    assert found.first_call > 0
    if found.peak_memory is None:
        assert not Path("/proc/self/status").exists() or sys.platform != "linux"
        pytest.skip("peak memory cannot be known here")
    assert 0 < found.peak_memory < 2**30


def test_a_contender_that_fails_alone_is_unknown():
    row = Row("omniglot", Sizes(1, 2, 1, 1, 1))
    assert alone("no such contender, a failure", row, Spec("maml", -1.0, 1), threads=1, seed=0) is None


def test_memory_and_first_calls_are_in_the_report(only, small_network, capsys):
    only()
    assert main([*TINY, "--no-one-off", "--json"]) == 0
    (row,) = last_line(capsys)["rows"]
    assert row["peak_memory"].keys() == row["first_call"].keys() == {OURS}
    assert row["first_call"][OURS] > 0


def test_without_peers_there_is_no_ratio_to_one(only, small_network, capsys):
    only(absent=absent)
    assert main([*TINY, "--no-memory", "--json"]) == 0
    (row,) = last_line(capsys)["rows"]
    assert row["seconds"].keys() == {OURS, f"{OURS} one-off"}
    assert row["fastest_peer"] is row["ratio_to_fastest_peer"] is row["times_fastest_peer"] is None


def test_a_peer_that_cannot_run_the_network_is_named_and_left_out(only, small_network, capsys):
    only(crashing=crashing)
    assert main([*TINY, "--no-memory", "--json"]) == 0
    out = capsys.readouterr().out
    assert "crashing is left out: RuntimeError: cannot be mapped" in out
    (row,) = json.loads(out.splitlines()[-1])["rows"]
    assert row["seconds"].keys() == {OURS, f"{OURS} one-off"}
    assert row["left_out"].keys() == {"crashing"}


def test_a_failure_of_innerloop_is_not_left_out(only, monkeypatch):
    only()
    monkeypatch.setattr(contenders, "Ours", lambda net, spec, execution: crashing(net, spec))
    with pytest.raises(RuntimeError, match="cannot be"):
        measure.measure(Row("omniglot", Sizes(1, 2, 1, 1, 1)), Options(rounds=1, memory=False))


def test_a_wrong_gradient_fails(only, capsys):
    only(twice=twice)
    assert main(TINY) == 1
    assert "twice by 1.0e+00" in capsys.readouterr().err


def test_a_first_order_gradient_fails_in_float32():
    row = Row("omniglot", Sizes(3, 3, 1, 1, 1))
    net, episode = make_network(row, 0), episode_of(row, seed=0)
    both = {OURS: Ours(net, Spec("maml", 0.1, 1)), "fomaml": Ours(net, Spec("fomaml", 0.1, 1))}
    with pytest.raises(DisagreementError, match=r"more than 1e-03 in torch.float32: fomaml"):
        agreement(both, list(episode.chunks(1)), tolerance(torch.float32, steps=1))


def test_one_task_across_a_kink_is_forgiven_and_most_are_not():
    row = Row("omniglot", Sizes(5, 2, 1, 1, 1))
    right, pieces = Ours(make_network(row, 0), Spec("maml", 0.1, 1)), list(episode_of(row, 0).chunks(1))

    def wrong_in(count):
        wrong = [piece.support_x for piece in pieces[:count]]
        return lambda piece: {
            name: 2 * grad if any(piece.support_x is x for x in wrong) else grad for name, grad in right(piece).items()
        }

    assert agreement({OURS: right, "some": wrong_in(2)}, pieces, 1e-3)["some"] < 1e-3
    with pytest.raises(DisagreementError, match="most"):
        agreement({OURS: right, "most": wrong_in(3)}, pieces, 1e-3)


@pytest.mark.parametrize(
    "grads",
    [{"w": torch.tensor([1.0, float("nan")])}, {"v": torch.ones(2)}, {}],
    ids=["not a number", "another name", "nothing"],
)
def test_what_cannot_be_compared_is_infinitely_far(grads):
    assert relative_difference(grads, {"w": torch.ones(2)}) == float("inf")


def test_ratios_are_medians_within_a_round(only):
    only(a=absent, b=absent)
    seconds = {OURS: [1.0, 10.0, 2.0], "a": [3.0, 50.0, 4.0], "b": [2.0, 40.0, 8.0], f"{OURS} serial": [0.1] * 3}
    result = measure.compared(seconds, flops=6, matmul_rate=12.0)
    assert result["seconds"] == {OURS: 2.0, "a": 4.0, "b": 8.0, f"{OURS} serial": 0.1}
    assert result["fastest_peer"] == "a"  # neither b nor another way to run innerloop
    assert result["times_fastest_peer"] == 3.0  # of 3, 5, 2
    assert result["ratio_to_fastest_peer"] == pytest.approx(1 / 3)
    assert result["ratio_to_innerloop"]["b"] == 4.0  # of 2, 4, 4
    assert result["fraction_of_matmul_rate"] == 0.25


def test_operations_of_a_forward_pass_by_hand():
    sides = [14, 7, 4, 2]  # conv4 halves 28 four times
    multiplications = 9 * 64 * sides[0] ** 2 + sum(9 * 64 * 64 * side**2 for side in sides[1:]) + 64 * 5
    assert forward_flops(il.nets.conv4(5), torch.zeros(3, 1, 28, 28)) == 2 * multiplications
    grouped = torch.nn.Conv2d(4, 6, (1, 3), groups=2)
    assert forward_flops(grouped, torch.zeros(2, 4, 5, 5)) == 2 * (6 * 5 * 3) * (2 * 3)


@pytest.mark.parametrize(("what", "forwards"), [("maml", 9 * 60 + 3 * 40), ("fomaml", 300), ("reptile", 180)])
def test_operations_of_a_meta_gradient_by_hand(what, forwards):
    sizes = Sizes(tasks=2, ways=5, shots=2, queries=4, steps=3)  # 60 support images and steps, 40 query images
    assert meta_gradient_flops(what, sizes, forward=7) == 7 * forwards


def test_counting_leaves_no_hook_and_no_gradient():
    net = il.nets.conv4(2)
    forward_flops(net, torch.zeros(2, 1, 28, 28))
    assert not any(module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("clock", ["wall", "processor"])
def test_the_rate_of_a_matrix_product_is_a_number_of_operations(clock):
    assert 0 < matmul_rate(size=64, repeats=2, clock=clock) < 1e16


def test_waiting_takes_no_time_of_the_processor():
    (asleep,) = interleaved({"asleep": lambda: time.sleep(0.1)}, rounds=1, clock="processor")["asleep"]
    assert asleep < 0.05


def test_the_rows():
    assert [tuple(vars(row.sizes).values()) for row in ROWS[:4]] == [
        (32, 5, 1, 1, 1),
        (32, 5, 1, 15, 1),
        (16, 20, 1, 1, 5),
        (8, 5, 5, 15, 5),
    ]
    assert {row.network for row in ROWS[4:]} == {"maxpool", "mini-imagenet"}
    assert rows_of("maml", ROWS) == list(ROWS)
    reptile = rows_of("reptile", ROWS)
    assert len(reptile) == len(set(reptile)) < len(ROWS)
    assert all(row.sizes.queries == 0 for row in reptile)


@pytest.mark.parametrize("network", ["omniglot", "maxpool", "mini-imagenet"])
def test_networks_fit_their_images_and_are_the_same_for_a_seed(network):
    row = Row(network, Sizes(1, 3, 1, 2, 1))
    net, again, other = make_network(row, 0), make_network(row, 0), make_network(row, 1)
    assert net(episode_of(row, 0).query_x[0]).shape == (6, 3)
    weights = [next(each.parameters()) for each in (net, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--rows", "99"], "numbers from 1 to 8"),
        (["--rounds", "0"], "--rounds is 0; it must be a whole number of at least 1"),
        (["--sizes", "1", "2"], "--sizes"),
        (["--sizes", "1", "1", "1", "1", "1"], "at least 2 ways"),
        (["--what", "anil"], "maml"),
        (["--values", "3"], "--sweep"),
        (["--sweep", "ways", "--values", "1"], "at least 2"),
        (["--rows", "1", "--sweep", "steps"], "use one of them"),
        (["--executions", "0"], "--executions"),
        (["--estimators", "mixed"], "mixed_mode"),
        (["--estimators", "mixed_mode", "--what", "fomaml"], "--what maml"),
        (["--throughput", "--network", "mini-imagenet"], "--network"),
        (["--throughput", "--plot", "a.png"], "--plot"),
        (["--plot", "no/such/folder/a.png"], "does not exist"),
    ],
)
def test_a_mistake_is_one_line(arguments, complaint, capsys):
    assert main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_many_steps_are_small():
    assert [spec_of("maml", Sizes(1, 2, 1, 1, steps)).inner_lr for steps in (1, 5, 128)] == [0.4, 0.1, 0.01]
    assert spec_of("maml", Sizes(1, 2, 1, 1, 1), 0.2).inner_lr == 0.2
    with pytest.raises(BenchError, match="positive"):
        Options(inner_lr=0.0)


@pytest.mark.parametrize("network", ["omniglot", "maxpool"])
@pytest.mark.parametrize("what", ["maml", "fomaml", "reptile"])
@pytest.mark.parametrize("peer", sorted(PEERS))
def test_every_peer_is_exact(peer, what, network):
    if peer in LIBRARIES:
        pytest.importorskip(LIBRARIES[peer])
    row = Row(network, Sizes(2, 2, 1, 0 if what == "reptile" else 2, 2))
    net, spec = make_network(row, 0).double(), Spec(what, 0.1, row.sizes.steps)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    episode = double(episode_of(row, seed=0))
    meta_gradient, expected = PEERS[peer](net, spec), Ours(net, spec)(episode)
    for _ in range(2):  # nothing is left behind by the first
        assert relative_difference(meta_gradient(episode), expected) < 1e-10
    assert all(torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())


def test_importing_the_command_line_does_not_import_what_only_a_benchmark_needs():
    unwanted = [*LIBRARIES.values(), "matplotlib"]
    code = f"import sys, innerloop.cli.main; sys.exit(any(name in sys.modules for name in {unwanted}))"
    subprocess.run([sys.executable, "-c", code], check=True)
