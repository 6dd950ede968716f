"""The breeds of toy pets: a row of measures each, from which every animal differs a little."""

from typing import NamedTuple

from toypets.random_draws import Draw

SPREAD = 0.1  # how far an animal's measures are from its breed's, as a share


class Traits(NamedTuple):
    """Measures of an animal; lengths in units of the shape, where a head is about one wide; the rest are factors.

    ears: "upright", "tufted", "hanging" or "folded"; tail: "wrapped", "raised", "low" or "curled".
    """

    ears: str
    tail: str
    width: float  # of the body
    trunk: float  # length of the body
    legs: float  # length of the legs
    bone: float  # thickness of the legs
    head: float  # width of the head
    muzzle: float  # how far it comes forward
    jaw: float  # width of the muzzle
    ear: float  # length of the ears
    lobe: float  # width of the ears
    eye: float
    brush: float  # thickness of the tail
    hair: float
    size: float  # all breeds cover about the same share of an image: measured


# A line for body and tail, a line for the head and the rest, in the order of the fields.
BREEDS: dict[str, dict[str, Traits]] = {
    "cats": {
        "maine-coon": Traits(
            "tufted", "wrapped", 1.12, 1.2, 1.1, 0.1,
            0.95, 0.05, 1.0, 0.42, 0.18, 0.118, 0.14, 0.034, 0.94,
        ),
        "persian": Traits(
            "upright", "wrapped", 1.2, 0.9, 0.7, 0.105,
            1.12, -0.05, 1.1, 0.21, 0.17, 0.142, 0.13, 0.038, 0.98,
        ),
        "shorthair": Traits(
            "upright", "wrapped", 1.08, 1.0, 0.92, 0.095,
            1.04, 0.0, 1.05, 0.3, 0.19, 0.132, 0.08, 0.016, 1.02,
        ),
        "siamese": Traits(
            "upright", "wrapped", 0.8, 1.12, 1.25, 0.07,
            0.82, 0.08, 0.8, 0.48, 0.22, 0.118, 0.05, 0.007, 1.05,
        ),
    },
    "dogs": {
        "dachshund": Traits(
            "hanging", "raised", 0.85, 1.5, 0.5, 0.085,
            0.85, 0.42, 0.75, 0.58, 0.19, 0.1, 0.055, 0.007, 1.02,
        ),
        "labrador": Traits(
            "hanging", "raised", 1.1, 1.08, 1.05, 0.11,
            1.02, 0.27, 1.1, 0.4, 0.17, 0.102, 0.09, 0.014, 0.97,
        ),
        "pug": Traits(
            "folded", "curled", 1.16, 0.85, 0.75, 0.09,
            1.1, 0.1, 1.2, 0.24, 0.13, 0.118, 0.075, 0.007, 1.03,
        ),
        "spaniel": Traits(
            "hanging", "low", 1.0, 1.0, 0.85, 0.095,
            0.92, 0.3, 0.95, 0.52, 0.23, 0.105, 0.11, 0.034, 0.97,
        ),
    },
}  # fmt: skip


def vary(breed: Traits, draw: Draw) -> Traits:
    """Return an animal of the breed: every measure within `SPREAD` of the breed's, the size within a third of that."""
    values = [v if isinstance(v, str) else v * (1 + draw(-SPREAD, SPREAD)) for v in breed[:-1]]
    return Traits(*values, breed.size * (1 + draw(-SPREAD, SPREAD) / 3))
