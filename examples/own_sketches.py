"""Recognise the sketches of your own folder after one example of each.

    pip install 'innerloop[images]'
    python examples/own_sketches.py [FOLDER] [ITERATIONS]

The folder holds a folder of images for each class. Without one, this invents a folder of scribbles and uses that. The
network meets three fifths of the classes in training. Then it is shown one example each of five classes that it has
never seen, and names the other images.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageDraw

import innerloop as il

# %% Sketches: a folder for each class
PICTURES = {"image_size": 28, "channels": 1, "invert": True}
"""Dark strokes on light paper become bright ones on black, at 28x28 pixels."""


def invented(folder: Path, classes: int = 30, images: int = 8) -> Path:
    """Fill a folder with scribbles: a class is three strokes, an image of it is these with a shaky hand."""
    draw_from = random.Random(0)
    for number in range(classes):
        strokes = [[(draw_from.uniform(10, 90), draw_from.uniform(10, 90)) for _ in range(3)] for _ in range(3)]
        (folder / f"scribble{number:02}").mkdir(parents=True)
        for copy in range(images):
            image = Image.new("L", (100, 100), 255)
            for stroke in strokes:
                shaky = [(x + draw_from.gauss(0, 4), y + draw_from.gauss(0, 4)) for x, y in stroke]
                ImageDraw.Draw(image).line(shaky, fill=0, width=4, joint="curve")
            image.save(folder / f"scribble{number:02}" / f"{copy}.png")
    return folder


# %% Training on three fifths of the classes
def train(folder: Path, iterations: int) -> tuple[il.Learner, il.Evaluation]:
    """Train on the folder's training classes. Return the learner, and its accuracy on the test classes."""
    torch.manual_seed(0)
    data, held_out = (il.data.from_folder(folder, split, **PICTURES) for split in ("train", "test"))
    net = il.nets.conv4(ways=5, filters=32)
    trainer = il.MetaTrainer(net, il.maml(inner_lr=0.4), lambda p: torch.optim.Adam(p, lr=1e-3))
    trainer.fit(data.episodes(ways=5, shots=1, queries=5, tasks=8), iterations)
    result = trainer.evaluate(held_out.episodes(ways=5, shots=1, queries=5, tasks=10), tasks=100, norm="inductive")
    return trainer.learner(preprocessing=data.preprocessing), result


# %% Five new classes, one example each
def main(folder: str = "", iterations: str = "200") -> None:
    """Train, then name the images of five new classes."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(folder) if folder else invented(Path(place) / "sketches")
        learner, result = train(root, int(iterations))
        print(f"5 ways, 1 shot, new classes: {100 * result.mean:.1f} ± {100 * result.ci95:.1f} % ({result.norm})")
        held_out = il.data.from_folder(root, "test", **PICTURES)
        images = {name: sorted((root / name).iterdir()) for name in held_out.names[:5]}
        predictor = learner.adapt([paths[0] for paths in images.values()], list(images))
        for name, paths in images.items():
            print(f"{name}: {', '.join(predictor.predict(paths[1:4]))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
