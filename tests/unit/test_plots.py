"""Pictures: they show the numbers that they are given, on axes of one's own too, as PNG and as SVG."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import innerloop as il
from innerloop.cli.main import main
from innerloop.plots.style import spread
from innerloop.training.events import add_pictures

pytest.importorskip("matplotlib")

ACCURACY = torch.tensor([[0.2, 0.6, 0.8], [0.4, 0.6, 1.0]])
RESULT = il.Evaluation(1 - ACCURACY, ACCURACY, "inductive")


def texts(ax: object) -> list[str]:
    return [text.get_text() for text in ax.texts]


def write(folder: Path, *records: dict[str, float]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def a_run(folder: Path) -> Path:
    return write(
        folder,
        {"iteration": 1, "loss": 2.0, "accuracy": 0.5},
        {"iteration": 2, "val_accuracy": 0.6, "val_loss": 1.5, "val_ci95": 0.1},
        {"iteration": 3, "loss": float("nan"), "accuracy": 0.7},
        {"iteration": 4, "val_accuracy": 0.8, "val_loss": 1.0, "val_ci95": 0.1},
    )


def test_curves_show_what_was_logged(tmp_path: Path) -> None:
    ax = il.plots.curves(a_run(tmp_path))
    training, validation = ax.lines
    assert training.get_xydata().tolist() == [[1, 50], [3, 70]]
    assert validation.get_xydata().tolist() == [[2, 60], [4, 80]]
    assert texts(ax)[-2:] == ["training", "validation"]
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((50, 90))
    training, validation = il.plots.curves(tmp_path, metric="loss").lines  # what is not finite is left out
    assert training.get_xydata().tolist() == [[1, 2]]
    assert validation.get_xydata().tolist() == [[2, 1.5], [4, 1]]
    assert len(il.plots.all_curves(tmp_path).axes) == 2


def test_curves_of_several_runs_are_their_validations(tmp_path: Path) -> None:
    one, other = a_run(tmp_path / "one"), write(tmp_path / "other", {"iteration": 5, "loss": 1.0, "accuracy": 0.3})
    ax = il.plots.curves({"A": one, "B": other})
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[2, 60], [4, 80]], [[5, 30]]]
    assert set(texts(ax)) == {"validation; shaded: 95 % interval over tasks", "A", "B (training)"}


def test_without_records_there_is_no_picture(tmp_path: Path) -> None:
    assert il.plots.all_curves(tmp_path) is None
    with pytest.raises(ValueError, match="no records of the loss"):
        il.plots.curves(tmp_path)


def test_steps_and_scores_show_means_and_intervals() -> None:
    ax = il.plots.steps(RESULT)
    torch.testing.assert_close(torch.tensor(ax.lines[0].get_ydata()), torch.tensor([30.0, 60.0, 90.0]).double())
    half = 100 * RESULT.ci95_per_step[0]
    assert half == pytest.approx(196 * 0.2 / 2)  # the standard error of 0.2 and 0.4 is 0.1
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((30 - half, 90 + half))
    dots = il.plots.scores({"A": RESULT, "B": RESULT})
    assert [label.get_text() for label in dots.get_yticklabels()] == ["A", "B"]
    assert dots.lines[0].get_xdata().tolist() == pytest.approx([90 - half, 90 + half])
    loss = il.Evaluation(ACCURACY, None, "inductive")
    for wrong in ({}, {"A": RESULT, "B": loss}):
        with pytest.raises(ValueError, match="results"):
            il.plots.scores(wrong)


def test_a_fit_ends_where_the_predictor_does() -> None:
    torch.manual_seed(0)
    learner = il.Learner(il.nets.mlp(hidden=(8,)), il.maml(0.01, inner_steps=2), loss_fn=F.mse_loss)
    episode = il.data.sinusoids().episodes(shots=5, queries=20, tasks=2)(torch.Generator().manual_seed(0))
    ax = il.plots.fits(learner, episode, task=1)
    true, *curves, support = ax.lines
    assert len(curves) == 3
    predictor = learner.adapt(episode.support_x[1], episode.support_y[1])
    x = torch.tensor(curves[-1].get_xdata()).float()[:, None]
    torch.testing.assert_close(torch.tensor(curves[-1].get_ydata()).float(), predictor.outputs(x)[:, 0])
    assert sorted(support.get_ydata().tolist()) == pytest.approx(sorted(episode.support_y[1, :, 0].tolist()))
    assert len(true.get_xdata()) == 20
    with pytest.raises(ValueError, match="one input and one output"):
        il.plots.fits(learner, il.Episode(*[torch.zeros(1, 2, 3)] * 4))


def test_a_sheet_counts_what_is_right() -> None:
    torch.manual_seed(0)
    learner = il.Learner(il.nets.conv4(ways=3, filters=4), il.maml(0.4))
    episode = il.data.glyphs("test").episodes(3, 1, 2, 2)(torch.Generator().manual_seed(0))
    said = il.plots.sheet(learner, episode, tasks=2, queries=2).texts
    right = 0
    for x, y, queries, truth in zip(
        episode.support_x, episode.support_y, episode.query_x, episode.query_y, strict=True
    ):
        right += int((learner.adapt(x, y).predict(queries) == truth).sum())
    found = [re.search(r"(\d+) of (\d+) right", text.get_text()) for text in said]
    assert [match.groups() for match in found if match] == [(str(right), "12")]
    assert sum("?" in text.get_text() for text in said) == 12 - right
    colours = il.Episode(*(t.expand(-1, -1, 3, -1, -1) if t.ndim == 5 else t for t in vars(episode).values()))
    assert len(il.plots.sheet(il.Learner(il.nets.conv4(ways=3, filters=4, channels=3), il.maml(0.4)), colours).images)
    with pytest.raises(ValueError, match="needs images"):
        il.plots.sheet(learner, il.Episode(*[torch.zeros(1, 2, 3)] * 4))


def test_one_draws_on_axes_of_ones_own_and_saves_both_kinds(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    left, right = Figure().subplots(1, 2)
    assert il.plots.steps(RESULT, ax=left) is left
    assert il.plots.scores(RESULT, ax=right) is right
    png, svg = il.plots.save(left, tmp_path / "run.v1")
    assert (png.name, svg.name) == ("run.v1.png", "run.v1.svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (before := svg.read_bytes())
    assert il.plots.save(left.figure, svg) == [svg]
    assert svg.read_bytes() == before  # no date, no random names


def test_labels_do_not_overlap() -> None:
    placed = spread([0.0, 0.5, 1.0, 1.2, 20.0], 5.0)
    assert all(after - before >= 5 - 1e-9 for before, after in zip(placed, placed[1:], strict=False))
    assert placed[-1] == 20.0


def test_tensorboard_shows_the_same_picture(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    png = il.plots.as_png(il.plots.steps(RESULT))
    add_pictures(tmp_path, {"steps": png})
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    (shown,) = events.Images("pictures/steps")
    assert shown.encoded_image_string == png
    assert (shown.width, shown.height) == tuple(int.from_bytes(png[at : at + 4]) for at in (16, 20))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plots")
    small = [
        "--iterations",
        "2",
        "--val-every",
        "1",
        "--val-tasks",
        "2",
        "--tasks",
        "2",
        "--test-steps",
        "2",
        "--quiet",
    ]
    assert main(["train", "sinusoid-maml", *small, "--hidden", "4", "--out", str(folder / "sinusoid")]) == 0
    glyphs = ["train", "glyphs-5w1s-maml", *small, "--filters", "4", "--test-queries", "1"]
    assert main([*glyphs, "--out", str(folder / "glyphs")]) == 0
    assert main([*glyphs, "--norm", "inductive", "--out", str(folder / "inductive")]) == 0
    return folder


def plot(*arguments: object) -> int:
    return main(["plot", *map(str, arguments), "--tasks", "4"])


def test_the_command_draws_what_fits_the_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot(runs / "sinusoid") == 0
    files = [Path(line) for line in capsys.readouterr().out.split()]
    assert [file.name for file in files[::2]] == ["curves.png", "steps.png", "fits.png"]
    assert all(file.is_file() and file.parent == runs / "sinusoid" / "plots" for file in files)
    assert {file.suffix for file in files[1::2]} == {".svg"}
    assert plot(runs / "glyphs", "--what", "episodes", "--out", runs / "sheet") == 0
    assert sorted(file.name for file in (runs / "sheet").iterdir()) == ["episodes.png", "episodes.svg"]


def test_the_command_compares_runs_and_says_what_differs(runs: Path) -> None:
    assert plot(runs / "glyphs", runs / "inductive", "--out", runs / "both") == 0
    assert {file.stem for file in (runs / "both").iterdir()} == {"curves", "steps", "scores"}
    from innerloop.recipes import DataSource
    from innerloop.recipes.pictures import draw_runs

    figure = draw_runs([runs / "glyphs", runs / "inductive"], DataSource(), ["scores"], tasks=2)["scores"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["glyphs (transductive)", "inductive (inductive)"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a run"),
        (("glyphs", "--what", "fits"), "does not fit"),
        (("sinusoid", "--what", "episodes"), "does not fit"),
        (("sinusoid", "glyphs"), "compare runs of one kind"),
        (("glyphs", "inductive", "--what", "episodes"), "tasks of one run"),
        (("glyphs", "--seed", "-1"), "--seed is -1"),
        (("absent",), "there is no folder"),
    ],
)
def test_a_mistake_is_one_line(
    runs: Path,
    arguments: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(runs)
    assert plot(*arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
