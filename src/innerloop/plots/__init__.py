"""Pictures of runs, tasks and results, on Matplotlib axes of yours or of their own.

They need the extra ``plots``. Every function returns the axes that it drew on, and :func:`save` writes them.
"""

from innerloop.plots.curves import all_curves, curves
from innerloop.plots.fits import all_fits, fits
from innerloop.plots.reliability import reliability
from innerloop.plots.sheet import sheet
from innerloop.plots.steps import scores, steps
from innerloop.plots.style import as_png, save

__all__ = ["all_curves", "all_fits", "as_png", "curves", "fits", "reliability", "save", "scores", "sheet", "steps"]
