"""Heads of toy cats and dogs, seen from their middle. Each ends with the hard parts: two eyes and the nose."""

from toypets.breeds import Traits
from toypets.random_draws import Draw
from toypets.sculptor import UP, Sculptor


def cat(s: Sculptor, t: Traits, draw: Draw) -> None:
    """Round head, triangular ears, short muzzle with two whisker pads, large eyes, a small nose."""
    w, m, puff = t.head, t.muzzle, 2.2 * t.hair
    s.add((0.0, 0.0, 0.0), None, (0.47 * w, 0.42, 0.42))
    s.pair((0.25 * w, -0.14, 0.1), None, (0.19 * w + puff, 0.17 + puff, 0.21), light=0.4)
    pad = 0.105 * t.jaw
    s.pair((0.078 * t.jaw, -0.17, 0.36 + m), None, (pad, 0.09, 0.1 + max(m, 0)), light=1.0, points=1.0)
    s.add((0.0, -0.27, 0.29 + 0.9 * m), None, (0.095 * t.jaw, 0.07, 0.1), light=1.0, points=0.6)
    s.add((0.0, 0.02, 0.3), (0.0, -0.09, 0.4 + m), (0.095, 0.08, 0.08), points=0.8, light=0.5)
    out = draw(0.05, 0.2)
    root, tip = (0.28 * w, 0.27, 0.0), (0.28 * w + out, 0.27 + t.ear, -0.02)
    face = (draw(0.1, 0.5), 0.0, 1.0)
    s.pair(root, tip, (t.lobe, t.lobe, 0.07), taper=0.14, face=face, points=1.0)
    inner = (0.29 * w, 0.29, 0.05), (tip[0] - 0.02, 0.27 + 0.7 * t.ear, 0.035)
    s.pair(*inner, (0.65 * t.lobe, 0.5 * t.lobe, 0.035), taper=0.2, face=face, ear=1.0)
    if t.ears == "tufted":
        s.pair(tip, (tip[0] + 0.03, tip[1] + 0.14, -0.04), (0.035, 0.035, 0.03), taper=0.3, points=1.0)
    # Whiskers alone should not tell a cat, and long hair hides them.
    for rise in (-0.02, 0.1) if draw(0, 1) < 0.85 and t.hair < 0.025 else ():
        s.pair((0.14, -0.17, 0.4 + m), (0.56, -0.16 + rise, 0.36), (0.003,) * 3, taper=0.8, whisker=1.0)
    x = 0.19 * (0.45 + 0.55 * w)
    s.pair((x, 0.05 + 0.62 * t.eye, 0.31), None, (1.1 * t.eye, 0.5 * t.eye, 0.8 * t.eye), face=(0.3, 0.3, 1.0))
    s.pair((x, 0.035, 0.335), None, (t.eye, t.eye * 0.95, t.eye * 0.8), face=(0.3, 0.05, 1.0))
    s.add((0.0, -0.105, 0.46 + m), None, (0.062, 0.043, 0.045))


def dog(s: Sculptor, t: Traits, draw: Draw) -> None:
    """Snout with a big nose and a jaw below it, brows, ears that hang, fold or stand, smaller eyes."""
    w, m, j = t.head, t.muzzle, t.jaw
    drop = draw(0.03, 0.09) + 0.08 * m
    s.add((0.0, 0.04, -0.02), None, (0.42 * w, 0.41, 0.43))
    s.pair((0.2 * w, -0.13, 0.1), None, (0.18 * w + t.hair, 0.19, 0.22))
    tip = (0.0, -0.12 - drop, 0.4 + m)
    s.add((0.0, -0.08, 0.28), tip, (0.205 * j, 0.2, 0.16), taper=0.74, face=UP, light=0.75, points=1.0)
    below = (0.0, -0.24, 0.25), (0.0, -0.24 - drop, 0.3 + m)
    s.add(*below, (0.13 * j, 0.13, 0.09), taper=0.8, face=UP, light=1.0, points=1.0)
    if m < 0.12:  # a short muzzle has flews at its sides
        s.pair((0.12 * j, -0.2, 0.36 + m), None, (0.12, 0.13, 0.11), light=0.6, points=1.0)
    if t.ears == "hanging":
        s.pair((0.33 * w, 0.29, -0.06), (0.45 * w, 0.2, -0.04), (0.1, 0.1, 0.12), points=1.0)
        end = (0.47 * w + draw(0.02, 0.12), 0.2 - t.ear, 0.03)
        s.pair((0.45 * w, 0.17, -0.04), end, (t.lobe, t.lobe, 0.065), taper=1.15, face=(1.0, 0.1, 0.2), points=1.0)
    elif t.ears == "folded":
        fold = (0.45 * w, 0.4, 0.02)
        s.pair((0.3 * w, 0.32, -0.05), fold, (t.lobe, t.lobe, 0.06), points=1.0)
        end = (0.5 * w, 0.42 - t.ear, 0.16)
        s.pair(fold, end, (t.lobe, 0.1, 0.05), taper=0.5, face=(0.8, 0.5, 0.5), points=1.0)
    else:
        root, tall = (0.25 * w, 0.3, -0.05), (0.25 * w + draw(0.04, 0.14), 0.3 + t.ear, -0.03)
        face = (draw(0.1, 0.4), 0.0, 1.0)
        s.pair(root, tall, (t.lobe, t.lobe, 0.08), taper=0.25, face=face, points=1.0)
        inner = (0.26 * w, 0.34, 0.01), (tall[0], 0.3 + 0.72 * t.ear, 0.02)
        s.pair(*inner, (0.6 * t.lobe, 0.5 * t.lobe, 0.035), taper=0.3, face=face, ear=1.0)
    x = 0.17 * (0.4 + 0.6 * w)
    s.pair((x, 0.07 + 0.7 * t.eye, 0.34), None, (1.15 * t.eye, 0.55 * t.eye, 0.8 * t.eye), face=(0.3, 0.3, 1.0))
    s.pair((x, 0.065, 0.365), None, (t.eye, t.eye, t.eye * 0.8), face=(0.3, 0.0, 1.0))
    s.add((0.0, tip[1] + 0.09, tip[2] + 0.1), None, (0.1 * (0.4 + 0.6 * j), 0.078, 0.07))
