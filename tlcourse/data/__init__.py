"""Image sets, by name or from any folder: split, and prepared as a model expects them."""

from tlcourse.data import duplicates, folder_layout
from tlcourse.data.duplicates import find_duplicates
from tlcourse.data.folder_layout import PART_NAMES, images_below
from tlcourse.data.folders import from_folder
from tlcourse.data.images import ImageSet
from tlcourse.data.labels import class_list
from tlcourse.data.loading import make_loader, shard_loader
from tlcourse.data.reading import EXTENSIONS, dark_notes, find_unreadable, read_image
from tlcourse.data.registry import catalog, load, synthetic_images
from tlcourse.data.splits import Loaders, Splits, export_folder, leaves_single

__all__ = ["EXTENSIONS", "ImageSet", "dark_notes", "find_unreadable", "read_image"]
__all__ += ["Loaders", "Splits", "class_list", "export_folder", "leaves_single", "make_loader", "shard_loader"]
__all__ += ["catalog", "from_folder", "load", "synthetic_images"]
__all__ += ["PART_NAMES", "duplicates", "find_duplicates", "folder_layout", "images_below"]
