"""``innerloop adapt``: show a learner a few examples of each class, and let it label other files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path

from innerloop.cli.arguments import AdaptArguments, UsageError, parse
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
        UsageError: the command line has a mistake, or a folder has no images.
        CheckpointError: there is no learner, or it is damaged.
        DataError: an image cannot be read.
    """
    arguments = parse(AdaptArguments, "adapt", argv)
    for flag, path in (("--csv", arguments.csv), ("--json-file", arguments.json_file)):
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{flag} is {path}, whose folder does not exist; create it")
    learner = Learner.load(arguments.run, norm=arguments.norm)
    if learner.preprocessing is None:
        raise UsageError(
            f"{arguments.run} was saved without a preprocessing, so it cannot read images; train it again with this "
            "version, or use il.Learner.load(..., preprocessing=...) in Python"
        )
    found = labelled(learner, arguments.support, arguments.query, steps=arguments.steps)
    if arguments.csv is not None:
        write_atomically(arguments.csv, _as_csv(found).encode())
    if arguments.json_file is not None:
        write_atomically(arguments.json_file, (json.dumps([asdict(row) for row in found], indent=2) + "\n").encode())
    print("\n".join(_table(found)))
    if arguments.json:
        print(json.dumps([asdict(row) for row in found]))
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
    classes = [(file, file.relative_to(support).parts[0]) for file in _images(support, "--support")]
    loose = [file.name for file, label in classes if file.parent == support]
    if loose:
        raise UsageError(f"--support has images outside class folders: {', '.join(loose[:3])}; move them into folders")
    queries = _images(query, "--query")
    try:
        predictor = learner.adapt([file for file, _ in classes], [label for _, label in classes], steps=steps)
        return _answers(predictor, queries, query)
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


def _as_csv(found: Sequence[Labelled]) -> str:
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(["file", "prediction", "probability", "truth"])
    writer.writerows([row.file, row.prediction, row.probability, row.truth or ""] for row in found)
    return text.getvalue()
