"""Toy pets: cats and dogs of eight breeds from the course's own 3-D renderer, in four styles."""

from toypets.breeds import BREEDS
from toypets.renderer import CLASSES, POSES, STYLES, TOLERANCE, Difficulty, Pet, render, sample

__all__ = ["BREEDS", "CLASSES", "POSES", "STYLES", "TOLERANCE", "Difficulty", "Pet", "render", "sample"]
