"""Write the fixed splits of Omniglot from its two archives (or folders).

    python scripts/make_omniglot_splits.py DATA [OUT]

DATA holds images_background and images_evaluation; OUT is by default the package's own folder of splits.

The rules, each over sorted alphabets and sorted characters:

maml     both parts together, shuffled by ``random.Random(1)``, cut into 1100, 100 and 423. The original
         (cbfinn/maml, seed 1) shuffles in the file system's order, so its own cut cannot be repeated.
reptile  both parts together, shuffled by ``random.seed(0)``, cut into 1200 and 423. This is the original's
         own split (openai/supervised-reptile).
vinyals  val: five alphabets of the background; test: the last 423 of the evaluation part;
         train: the rest. This is what Torchmeta ships as the split of Vinyals et al.: 1028, 172 and 423.
lake     the two parts as published: 964 and 659.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from innerloop.data._omniglot_source import PARTS, Source
from innerloop.data._splits import packed_by_alphabet

RULES = {
    "maml": "by alphabet, then number; random.Random(1).shuffle; the first 1100, the next 100, the rest",
    "reptile": "by alphabet, then number; random.Random(0).shuffle; the first 1200, the rest",
    "vinyals": "val: five background alphabets; test: the last 423 of the evaluation part; train: the rest",
    "lake": "images_background, images_evaluation",
}
VINYALS_VAL = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")


def make(background: list[str], evaluation: list[str]) -> dict[str, dict[str, list[str]]]:
    """Return the splits of every scheme, from the sorted characters of the two parts."""
    both = sorted(background + evaluation, key=lambda name: name.split("/"))
    maml, reptile = list(both), list(both)
    random.Random(1).shuffle(maml)
    random.Random(0).shuffle(reptile)  # the same order as seeding the module's own generator
    val = [name for name in background if name.split("/")[0] in VINYALS_VAL]
    test = evaluation[-423:]
    return {
        "maml": {"train": maml[:1100], "val": maml[1100:1200], "test": maml[1200:]},
        "reptile": {"train": reptile[:1200], "test": reptile[1200:]},
        "vinyals": {"train": [name for name in both if name not in {*val, *test}], "val": val, "test": test},
        "lake": {"train": background, "test": evaluation},
    }


def write(data: Path, out: Path) -> None:
    """Write ``omniglot-SCHEME.json`` for every scheme."""
    source = Source.find(data)
    if source is None:
        raise SystemExit(f"{data} does not hold {' and '.join(PARTS)}")
    parts = [sorted(source.characters(part), key=lambda name: name.split("/")) for part in PARTS]
    for scheme, splits in make(*parts).items():
        content = {
            "rule": RULES[scheme],
            "splits": {split: packed_by_alphabet(names) for split, names in splits.items()},
        }
        path = out / f"omniglot-{scheme}.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    here = Path(__file__).resolve().parents[1] / "src" / "innerloop" / "data" / "splits"
    write(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else here)
