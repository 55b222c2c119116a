"""Tables: what is inferred, how rows are prepared, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from innerloop.data import CategoryColumn, DataError, GroupedTasks, LabelledClasses, NumberColumn, from_table
from innerloop.data.base import Location
from innerloop.data.table import plan_table
from innerloop.parts import describe, restore


def machines(tmp_path: Path, *, separator: str = ",") -> Path:
    """Machine m has readings around 10 m. Its last row has gaps."""
    lines = [["task", "heat", "kind", "note", "wear"]]
    for m in range(5):
        lines += [[f"m{m}", f"{10 * m + i}", "ab"[i % 2], f"text {m} {i}", f"{m + i / 2}"] for i in range(30)]
        lines.append([f"m{m}", "NA", "", "n", f"{m}"])
        lines.append([f"m{m}", "1", "a", "n", ""])
    path = tmp_path / "machines.csv"
    path.write_text("\n".join(separator.join(line) for line in lines) + "\n")
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_and_types_are_inferred(tmp_path: Path, separator: str) -> None:
    plan = plan_table(machines(tmp_path, separator=separator))
    assert (plan.kind, plan.task, plan.target) == ("regression", "task", "wear")
    assert [len(plan.train), len(plan.val), len(plan.test)] == [3, 1, 1]
    heat, kind, note = plan.preprocessing.columns
    assert len(note.categories) == 91
    assert isinstance(heat, NumberColumn)
    assert kind == CategoryColumn("kind", ("a", "b"), missing=True)
    trained = np.array([10 * int(name[1]) + i for name in plan.train for i in range(30)], dtype=float)
    assert heat.mean == pytest.approx(trained.mean())  # of training tasks alone
    assert heat.std == pytest.approx(trained.std())
    assert not plan.left_out
    assert restore(json.loads(json.dumps(describe(plan)))) == plan
    assert "regression of column 'wear'" in "\n".join(plan.lines())


def test_rows_become_features_and_scaled_targets(tmp_path: Path) -> None:
    plan = plan_table(machines(tmp_path), features=["heat", "kind"])
    data = plan.open("test", Location())
    assert isinstance(data, GroupedTasks)
    assert [len(rows) for rows in data.members] == [31]  # the row without a target is left out
    assert data.preprocessing.shape == (5,)  # heat, heat is missing, a, b, kind is missing
    last = data.inputs.at(data.members[0][-1:])[0]
    assert last.tolist() == [0, 1, 0, 0, 1]
    number = int(plan.test[0][1])
    back = plan.preprocessing.target.inverse(data.targets[data.members[0]])[:, 0]
    assert torch.allclose(back[:3], torch.tensor([number, number + 0.5, number + 1.0]), atol=1e-4)
    again = data.preprocessing({"heat": [10 * number], "kind": ["a"], "wear": [0]})
    assert torch.equal(again[0], data.inputs.at(data.members[0][:1])[0])


def test_classes_of_every_task(tmp_path: Path) -> None:
    path = tmp_path / "faults.csv"
    rows = [f"{m},{i % 2 + m},{'broken' if i % 2 else 'ok'}" for m in range(5) for i in range(20)]
    path.write_text("machine,x,state\n" + "\n".join(rows))
    plan = plan_table(path, task="machine")
    assert (plan.kind, plan.target, plan.classes, plan.exact, plan.smallest) == (
        *("classification", "state", ("broken", "ok")),
        *(True, 2),
    )
    data = plan.open("train", Location())
    episode = data.episodes(ways=2, shots=2, queries=2, tasks=3)(torch.Generator().manual_seed(0))
    assert bool(episode.query_x[episode.query_y == 0].mean() > episode.query_x[episode.query_y == 1].mean())
    path.write_text(path.read_text().replace("broken", "burnt"))
    with pytest.raises(DataError, match="'burnt', which is none of broken, ok"):
        plan.open("train", Location())


def test_without_tasks_classes_are_split(tmp_path: Path) -> None:
    path = tmp_path / "plants.csv"
    path.write_text("leaf,species\n" + "\n".join(f"{s + i / 9},species {s}" for s in range(10) for i in range(6)))
    data = from_table(path, "train")
    assert isinstance(data, LabelledClasses)
    assert data.classes == 6
    assert data.episodes(ways=5, shots=1, queries=5, tasks=2)(torch.Generator()).query_x.shape == (2, 25, 1)


def test_what_is_refused(tmp_path: Path) -> None:
    good = machines(tmp_path)
    for options, message in (
        ({"task": "machine"}, "no column 'machine'"),
        ({"target": "task"}, "must be different"),
        ({"features": ["heat", "wear"]}, "must be different"),
        ({"test_share": 0.01}, "cannot be split"),
        ({"target": "kind", "kind": "regression"}, "expected a number"),
    ):
        with pytest.raises(DataError, match=message):
            plan_table(good, **options)
    bad = tmp_path / "bad.csv"
    for content, message in (
        ("", "first row|no rows"),
        ("a,b\n", "no rows"),
        ("a,a\n1,2\n", "each differently"),
        ("a,b\n1,2\n3\n", "line 3, has 1 values"),
        ("x,y\n1,0.5\n2,0.7\n", "needs a column that says which task"),
        ("task,y\n1,0.5\n2,0.7\n3,1.5\n4,1.5\n5,1.5\n", "no column that can be a feature"),
    ):
        bad.write_text(content)
        with pytest.raises(DataError, match=message):
            plan_table(bad)
    bad.write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="UTF-8"):
        plan_table(bad)
    with pytest.raises(DataError, match="does not exist"):
        plan_table(tmp_path / "absent.csv")


def test_parquet_is_the_same_table(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    plan = plan_table(machines(tmp_path), features=["heat", "kind"])
    rows = [line.split(",") for line in machines(tmp_path).read_text().splitlines()]
    columns = {name: [row[i] or None for row in rows[1:]] for i, name in enumerate(rows[0])}
    for name in ("heat", "wear"):
        columns[name] = [None if value in (None, "NA") else float(value) for value in columns[name]]
    parquet.write_table(pyarrow.table(columns), tmp_path / "machines.parquet")
    other = plan_table(tmp_path / "machines.parquet", features=["heat", "kind"])
    assert other.preprocessing == plan.preprocessing
    assert (other.train, other.kind) == (plan.train, plan.kind)
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(DataError, match="no readable Parquet"):
        plan_table(tmp_path / "no.parquet")
