"""``innerloop adapt``: show a learner a few examples, and let it label other files, or predict other rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from innerloop.cli.adapt_table import predicted, summary
from innerloop.cli.arguments import AdaptArguments, UsageError, parse
from innerloop.data import TablePreprocessing
from innerloop.learner.files import write_atomically
from innerloop.learner.learner import Learner
from innerloop.learner.predictor import Predictor

__all__ = ["Labelled", "adapt", "labelled"]

IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""The endings of the files that are taken for images."""


@dataclass(frozen=True)
class Labelled:
    """A file and the label that a learner gives it.

    Attributes:
        file: the file, as a path within the folder of the queries.
        prediction: the label.
        probability: its probability.
        truth: the name of the file's folder, if that is one of the labels.
    """

    file: str
    prediction: str
    probability: float
    truth: str | None


def adapt(argv: Sequence[str]) -> int:
    """Adapt, print the table, and write the files that are asked for.

    Raises:
        UsageError: the command line has a mistake, a folder has no images, or a table lacks a column.
        CheckpointError: there is no learner, or it is damaged.
        DataError: an image or a table cannot be read.
    """
    arguments = parse(AdaptArguments, "adapt", argv)
    for flag, path in (("--csv", arguments.csv), ("--json-file", arguments.json_file)):
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{flag} is {path}, whose folder does not exist; create it")
    learner = Learner.load(arguments.run, norm=arguments.norm)
    if learner.preprocessing is None:
        raise UsageError(
            f"{arguments.run} was saved without a preprocessing, so it cannot read files; train it again with this "
            "version, or use il.Learner.load(..., preprocessing=...) in Python"
        )
    if isinstance(learner.preprocessing, TablePreprocessing):
        rows = predicted(learner, arguments)
        lines = _aligned(rows)
        lines += [said] if (said := summary(rows)) else []
    else:
        if arguments.target or arguments.task:
            raise UsageError("--target and --task are for tables, and this learner was trained on images")
        found = labelled(learner, arguments.support, arguments.query, steps=arguments.steps)
        rows, lines = [asdict(row) for row in found], _table(found)
    if arguments.csv is not None:
        write_atomically(arguments.csv, _as_csv(rows).encode())
    if arguments.json_file is not None:
        write_atomically(arguments.json_file, (json.dumps(rows, indent=2) + "\n").encode())
    print("\n".join(lines))
    if arguments.json:
        print(json.dumps(rows))
    return 0


def labelled(learner: Learner, support: Path, query: Path, *, steps: int | None = None) -> list[Labelled]:
    """Adapt to a folder of images by class, and label the images of another.

    Args:
        learner: a learner with a preprocessing of images.
        support: a folder with one folder for each class. The folders' names are the labels.
        query: a folder of images, in folders of its own or not.
        steps: the number of inner steps. None means the method's.

    Raises:
        UsageError: a folder is absent or has no images, or the learner cannot be adapted to them.
        DataError: an image cannot be read.
    """
    queries = _images(query, "--query")
    predictor = adapted_to(learner, support, steps=steps)
    try:
        return _answers(predictor, queries, query)
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise UsageError(str(error)) from error


def adapted_to(learner: Learner, support: Path, *, steps: int | None = None) -> Predictor:
    """Adapt to a folder of images by class.

    Args:
        learner: a learner with a preprocessing of images.
        support: a folder with one folder for each class. The folders' names are the labels.
        steps: the number of inner steps. None means the method's.

    Raises:
        UsageError: the folder is absent or has no images, or the learner cannot be adapted to them.
        DataError: an image cannot be read.
    """
    classes = [(file, file.relative_to(support).parts[0]) for file in _images(support, "--support")]
    loose = [file.name for file, label in classes if file.parent == support]
    if loose:
        raise UsageError(f"--support has images outside class folders: {', '.join(loose[:3])}; move them into folders")
    try:
        return learner.adapt([file for file, _ in classes], [label for _, label in classes], steps=steps)
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise UsageError(str(error)) from error


def _answers(predictor: Predictor, queries: Sequence[Path], folder: Path) -> list[Labelled]:
    if predictor.labels is None:
        raise UsageError("this learner was trained for regression, and images by class are for classification")
    names = [str(name) for name in predictor.labels]
    found = []
    for file, p in zip(queries, predictor.predict_proba(queries).tolist(), strict=True):
        best = max(range(len(p)), key=p.__getitem__)
        truth = file.relative_to(folder).parts[0]
        place = file.relative_to(folder).as_posix()
        found.append(Labelled(place, names[best], p[best], truth if truth in names else None))
    return found


def _images(folder: Path, flag: str) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{flag} is {folder}, which is no folder")
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in IMAGES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    if not files:
        raise UsageError(f"{flag} is {folder}, which holds no images ({', '.join(sorted(IMAGES))})")
    return files


def _table(found: Sequence[Labelled]) -> list[str]:
    """The lines of the table, and how many are right if the queries' folders say what they are."""
    files = max(len("file"), *(len(row.file) for row in found))
    labels = max(len("prediction"), *(len(row.prediction) for row in found))
    lines = [f"{'file':{files}}  {'prediction':{labels}}  probability"]
    lines += [f"{row.file:{files}}  {row.prediction:{labels}}  {100 * row.probability:9.1f} %" for row in found]
    known = [row for row in found if row.truth is not None]
    if known:
        right = sum(row.prediction == row.truth for row in known)
        lines.append(f"right: {right} of the {len(known)} files in a folder with the name of a class")
    return lines


def _aligned(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of a table of predictions, without the column ``truth`` if no truth is known."""
    names = [name for name in rows[0] if name != "truth" or any(row["truth"] is not None for row in rows)]
    cells = [names, *([_shown(name, row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "probability":
        return f"{100 * value:.1f} %"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
    return text.getvalue()
