"""``pip install innerloop`` is the core: importing, training and deploying need no optional package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = '''
import sys

OPTIONAL = {"PIL", "tyro", "matplotlib", "tensorboard", "sklearn", "scipy", "pandas", "wandb"} | {
    "huggingface_hub", "onnx", "pyarrow", "starlette", "uvicorn"
}

class Hiding:
    """A finder that does not find the optional packages."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *arguments):
        return None if name.partition(".")[0] in OPTIONAL else self.finder.find_spec(name, *arguments)

sys.meta_path[:] = map(Hiding, sys.meta_path)

import torch, innerloop as il
from innerloop.extras import PURPOSES, MissingExtraError, need

# Training with a folder, evaluating, saving and loading.
net = il.nets.conv4(ways=3, filters=2)
trainer = il.MetaTrainer(net, il.maml(0.1), lambda params: torch.optim.SGD(params, 0.1))
tasks = il.data.glyphs("test").episodes(ways=3, shots=1, queries=1, tasks=1)
spec = {"name": "conv4", "arguments": {"ways": 3, "filters": 2}}
trainer.fit(tasks, iterations=1, folder=sys.argv[1], net_spec=spec, progress=False)
assert trainer.evaluate(tasks, tasks=2).mean >= 0
learner = il.Learner.load(sys.argv[1])
episode = tasks(torch.Generator())
assert learner.adapt(episode.support_x[0], episode.support_y[0]).predict(episode.query_x[0]).shape == (3,)

# A recipe, without the picture of its curves.
from pathlib import Path
from innerloop.recipes import DataSource, evaluate_run, recipe, train_run

config = recipe("sinusoid-maml").override(iterations=2, val_every=1, val_tasks=2)
run = train_run("sinusoid-maml", config, Path(sys.argv[1]) / "recipe", DataSource(progress=False), progress=False)
assert evaluate_run(run.folder, DataSource(progress=False), tasks=2).evaluation.mean > 0
assert not (run.folder / "curves.png").exists()

# What needs more says so, in one line.
for name in PURPOSES:
    try:
        need(name)
    except MissingExtraError as error:
        assert f"pip install 'innerloop[{name}]'" in str(error)
    else:
        raise AssertionError(name)

from innerloop.__main__ import main
assert main() == 2
'''


def test_the_core_works_without_the_extras(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == (
        "innerloop: the command line needs the extra 'cli': pip install 'innerloop[cli]' (No module named 'tyro')"
    )
