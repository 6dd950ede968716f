"""Image sets: by name or from any folder, split, and transformed as a model wants them."""

from tlcourse.data import domains, leaks
from tlcourse.data.catalog import catalog, load
from tlcourse.data.folders import ImageSet, Loaders, Splits, export_folder, from_folder
from tlcourse.data.transforms import Preprocessing, preprocessing

__all__ = [
    "ImageSet",
    "Loaders",
    "Preprocessing",
    "Splits",
    "catalog",
    "domains",
    "export_folder",
    "from_folder",
    "leaks",
    "load",
    "preprocessing",
]
