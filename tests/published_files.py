"""Invented files in the forms that published data sets are passed on in."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from innerloop.data._published_sets import published_split


def cifar(root: Path, *, packed: bool) -> list[str]:
    """CIFAR-100 as Python 2 wrote it, two images of each class: one in each part."""
    names = sorted(each for split in published_split("fc100").values() for each in split)
    files: dict[str, Any] = {"meta": {b"fine_label_names": [name.encode() for name in names]}}
    for part, first in (("train", 0), ("test", 100)):
        levels = np.repeat(np.arange(100, dtype=np.uint8) + first, 3072).reshape(100, 3072)
        files[part] = {b"data": levels, b"fine_labels": list(range(100)), b"filenames": [b"a.png"] * 100}
    root.mkdir(parents=True, exist_ok=True)
    (root / "cifar-100-python").mkdir(exist_ok=True)
    for name, content in files.items():
        (root / "cifar-100-python" / name).write_bytes(pickle.dumps(content, 2))
    if packed:
        with tarfile.open(root / "cifar-100-python.tar.gz", "w:gz") as archive:
            archive.add(root / "cifar-100-python", "cifar-100-python")
        for name in files:
            (root / "cifar-100-python" / name).unlink()
    return names
