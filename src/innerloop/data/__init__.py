"""Data sets of tasks. Each makes samplers of episodes: pure functions of a ``torch.Generator``."""

from __future__ import annotations

from innerloop.data.alphabets import Alphabets, omniglot_alphabets
from innerloop.data.arrays import from_arrays
from innerloop.data.base import DATASETS, Location, registered_data
from innerloop.data.classes import LabelledClasses
from innerloop.data.datasets import from_dataset
from innerloop.data.errors import DataError
from innerloop.data.folder import from_folder
from innerloop.data.glyphs import glyphs
from innerloop.data.grouped import GroupedTasks
from innerloop.data.images import ImageClasses
from innerloop.data.iterables import from_episodes, varying
from innerloop.data.omniglot import find_omniglot, omniglot
from innerloop.data.preprocess import ArrayPreprocessing, ImagePreprocessing, Preprocessing, Scale
from innerloop.data.published import from_published
from innerloop.data.sinusoids import sinusoids
from innerloop.data.table import from_table
from innerloop.data.table_preprocess import CategoryColumn, NumberColumn, TablePreprocessing

__all__ = [
    "DATASETS",
    "Alphabets",
    "ArrayPreprocessing",
    "CategoryColumn",
    "DataError",
    "GroupedTasks",
    "ImageClasses",
    "ImagePreprocessing",
    "LabelledClasses",
    "Location",
    "NumberColumn",
    "Preprocessing",
    "Scale",
    "TablePreprocessing",
    "find_omniglot",
    "from_arrays",
    "from_dataset",
    "from_episodes",
    "from_folder",
    "from_published",
    "from_table",
    "glyphs",
    "omniglot",
    "omniglot_alphabets",
    "registered_data",
    "sinusoids",
    "varying",
]
