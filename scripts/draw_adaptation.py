"""Draw the picture at the top of the README: a meta-learned start beside random weights.

    python scripts/draw_adaptation.py [OUT]

Two networks adapt to the same new sinusoid from the same ten points. One starts from an initialisation that MAML has
trained for 10,000 iterations, in about half a minute; the other starts from random weights. OUT is by default
docs/images/adaptation.svg.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from torch.func import functional_call

import innerloop as il

OUT = Path(__file__).parents[1] / "docs" / "images" / "adaptation.svg"
ITERATIONS = 10_000
TASK = 8  # the seed of the new task, of middling amplitude
STEPS = {0: ("#9aa0a6", ":"), 1: ("#4c8bf5", "--"), 10: ("#d93025", "-")}


def main(out: Path = OUT) -> None:
    """Train, adapt and draw."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tasks = il.data.sinusoids()
    untrained, trained = il.nets.mlp(), il.nets.mlp()
    trained.load_state_dict(untrained.state_dict())
    trainer = il.MetaTrainer(trained, il.maml(0.01), lambda p: torch.optim.Adam(p, 1e-3), loss_fn=F.mse_loss)
    trainer.fit(tasks.episodes(shots=10, queries=10, tasks=25), iterations=ITERATIONS)

    episode = tasks.episodes(shots=10, queries=200, tasks=1)(torch.Generator().manual_seed(TASK))
    support = episode.support_x[0], episode.support_y[0]
    order = episode.query_x[0, :, 0].argsort()
    x, y = episode.query_x[0, order], episode.query_y[0, order]
    mpl.rcParams["svg.hashsalt"] = "innerloop"
    figure = Figure(figsize=(9, 3.1), layout="constrained")
    FigureCanvasSVG(figure)
    titles = ("from a meta-learned start (MAML)", "from random weights")
    for axes, net, title in zip(figure.subplots(1, 2, sharey=True), (trained, untrained), titles, strict=True):
        axes.plot(x[:, 0], y[:, 0], color="#bdc1c6", linewidth=5, alpha=0.6, label="the new task")
        for steps, (color, style) in STEPS.items():
            params = il.adapt(net, il.maml(0.01, steps), *support, F.mse_loss)
            with torch.no_grad():
                outputs = functional_call(net, params, (x,))
            label = "before adapting" if steps == 0 else f"after {steps} gradient step{'s' if steps > 1 else ''}"
            axes.plot(x[:, 0], outputs[:, 0], color=color, linestyle=style, linewidth=2, label=label)
        axes.plot(support[0][:, 0], support[1][:, 0], "o", color="black", markersize=5, label="its ten points")
        axes.set_title(title, fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
