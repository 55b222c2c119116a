"""Take a learner elsewhere: its adaptation and its predictions as files that need no Python."""

from innerloop.export.adaptation import adaptation
from innerloop.export.check import Exported
from innerloop.export.errors import ExportError
from innerloop.export.prediction import predictor, program

__all__ = ["ExportError", "Exported", "adaptation", "predictor", "program"]
