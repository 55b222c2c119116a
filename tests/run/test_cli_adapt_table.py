"""``innerloop adapt`` with tables: numbers and classes, tasks by a column, and what does not fit."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import innerloop as il
from innerloop.cli.main import main
from innerloop.data.table import plan_table
from innerloop.recipes.plans import write_plan


def table(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def saved(path: Path, data: Path, method: il.Method, outputs: int, *, loss: str = "mse", plan: bool = True) -> Path:
    """A learner for a table, and beside it what a run keeps of the table."""
    from innerloop.inner.losses import LOSSES

    planned = plan_table(data)
    inputs = planned.preprocessing.shape[0]
    spec = {"name": "mlp", "arguments": {"inputs": inputs, "outputs": outputs, "hidden": []}}
    net = il.nets.mlp(inputs, outputs, ())
    il.Learner(net, method, loss_fn=LOSSES[loss], net_spec=spec, preprocessing=planned.preprocessing).save(path)
    if plan:
        write_plan(planned, path)
    return path


@pytest.fixture
def wear(tmp_path: Path) -> Path:
    """Wear is a line of heat, another one for each machine."""
    rows = [f"{m},{t},{m * t + 10 * m}.5" for m in range(1, 7) for t in range(12)]
    return table(tmp_path / "wear.csv", "task,heat,wear", rows)


def test_numbers(wear: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = saved(tmp_path / "run", wear, il.maml(0.2, test_steps=200), 1)
    support = table(
        tmp_path / "s.csv", "task,heat,wear", [f"{m},{t},{m * t + 10 * m}" for m in (8, 9) for t in (0, 4, 9)]
    )
    query = table(tmp_path / "q.csv", "task,heat,wear", ["9,5,135", "8,2,", "9,1,99", ",3,1"])
    arguments = ["adapt", str(run), "--support", str(support), "--query", str(query)]
    out, listed = tmp_path / "out.csv", tmp_path / "out.json"
    assert main([*arguments, "--csv", str(out), "--json-file", str(listed), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert [(entry["row"], entry["task"], entry["truth"]) for entry in found] == [
        (1, "9", 135),
        (2, "8", None),
        (3, "9", 99),
    ]
    for entry, wanted in zip(found, (135, 96, 99), strict=True):  # each machine has a line of its own
        assert entry["prediction"] == pytest.approx(wanted, rel=0.02)
    assert lines[0].split() == ["row", "task", "prediction", "truth"]
    assert "over the 2 rows with a known target" in lines[-2]
    assert json.loads(listed.read_text()) == found
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [float(row["prediction"]) for row in rows] == [entry["prediction"] for entry in found]
    assert [row["truth"] for row in rows] == ["135.0", "", "99.0"]


def test_one_task_needs_no_column_of_tasks(wear: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = saved(tmp_path / "run", wear, il.maml(0.2, test_steps=200), 1)
    support = table(tmp_path / "s.csv", "wear,heat", ["10,0", "20,5", "30,10", ",3"])
    query = table(tmp_path / "q.tsv", "other\theat", ["x\t2", "y\t7"])
    assert main(["adapt", str(run), "--support", str(support), "--query", str(query), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [entry["prediction"] for entry in json.loads(lines[-1])] == pytest.approx([14, 24], rel=0.03)
    assert lines[0].split() == ["row", "prediction"]


def test_parquet(wear: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    run = saved(tmp_path / "run", wear, il.maml(0.2, test_steps=200), 1, plan=False)
    parquet.write_table(arrow.table({"heat": [0, 5, 10], "w": [10.0, 20.0, 30.0]}), tmp_path / "s.parquet")
    parquet.write_table(arrow.table({"heat": [2], "w": [14.0]}), tmp_path / "q.parquet")
    arguments = ["adapt", str(run), "--support", str(tmp_path / "s.parquet"), "--query", str(tmp_path / "q.parquet")]
    assert main(arguments) == 2
    assert "name it with --target COLUMN" in capsys.readouterr().err  # a learner without the run's own files
    assert main([*arguments, "--target", "w", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["prediction"] == pytest.approx(14, rel=0.03)
    assert found["truth"] == 14


def test_classes_keep_the_numbers_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{m},{t % 3},{'abc'[t % 3]}" for m in range(6) for t in range(9)]
    data = table(tmp_path / "states.csv", "task,heat,state", rows)
    run = saved(tmp_path / "run", data, il.maml(1.0, test_steps=100), 3, loss="cross_entropy")
    support = table(tmp_path / "s.csv", "heat,state", ["1,b", "2,c", "1,b", "2,c"])  # no row of the class a
    query = table(tmp_path / "q.csv", "heat,state", ["1,b", "2,b", "2,"])
    arguments = ["adapt", str(run), "--support", str(support), "--query", str(query), "--json"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert [entry["prediction"] for entry in found] == ["b", "c", "c"]
    assert all(entry["probability"] > 0.5 for entry in found)
    assert lines[-2] == "right: 1 of the 2 rows with a known target"
    table(support, "heat,state", ["1,b", "2,z"])
    assert main(arguments) == 2
    assert "column 'state' holds z: training had a, b, c" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("support", "query", "said"),
    [
        ("heat,load\n1,2", "heat\n1", "has no column 'wear', which is to be predicted"),
        ("task,heat,wear\n1,1,2", "heat\n1", "has no column 'task', which says the task of each row"),
        ("task,heat,wear\n1,1,2", "task,heat\n2,1", "has no rows of the tasks 2"),
        ("heat,wear\n1,much", "heat\n1", "column 'wear' holds 'much': expected a number"),
        ("heat,wear\n1,", "heat\n1", "no row has a value in wear"),
        ("heat,wear\nhot,1", "heat\n1", "column 'heat' holds 'hot': expected a number"),
        ("cold,wear\n3,1", "heat\n1", "no column 'heat'"),
    ],
)
def test_what_does_not_fit_is_one_line(
    support: str, query: str, said: str, wear: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path / "run", wear, il.maml(0.1), 1)
    (tmp_path / "s.csv").write_text(support)
    (tmp_path / "q.csv").write_text(query)
    arguments = ["adapt", str(run), "--support", str(tmp_path / "s.csv"), "--query", str(tmp_path / "q.csv")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert main([*arguments[:3], str(tmp_path), *arguments[4:]]) == 2
    assert "a folder; this learner was trained on a table" in capsys.readouterr().err
