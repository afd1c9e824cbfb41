"""Paints the glass insulator: a string of glass discs on metal caps, with or without one of them."""

from __future__ import annotations

import numpy as np

from attnad.datasets.drawing import Canvas, Frame, tint, unit
from attnad.datasets.fields import clip, wave

PITCH = 1.18  # distance of two discs, in radii of a disc: 146 mm for discs of 255 mm


def glass_insulator(canvas: Canvas, rng, fault, defect: str, look) -> None:
    """A string of 6 to 16 discs in perspective; ``missing_cap`` leaves the metal stub of a disc without its
    glass.

    Args:
        canvas: to paint on.
        rng: decides the view.
        fault: generator that decides which discs are missing.
        defect: ``"good"`` or ``"missing_cap"``.
        look: the knobs (``scale``, ``defect_size``, ``annotation``), see `powerline.load`.
    """
    size = canvas.width
    near = rng.random() < 0.75
    radius = size * look.scale * (rng.uniform(0.085, 0.15) if near else rng.uniform(0.04, 0.06))
    angle = rng.normal(0, 0.12) if rng.random() < 0.5 else rng.uniform(-1.0, 1.0)
    tilt = rng.uniform(0.05, 0.3) if rng.random() < 0.6 else rng.uniform(0.35, 0.75)
    taper = rng.uniform(-0.02, 0.02)
    glass = np.array(
        [(0.93, 0.95, 0.94), (0.80, 0.92, 0.88), (0.96, 0.96, 0.93)][rng.integers(3)], np.float32
    )
    metal = np.array([0.60, 0.62, 0.65], np.float32) * rng.uniform(0.75, 1.2)
    clear = float(rng.uniform(0.35, 0.6))

    down = unit(angle + np.pi / 2)
    step = PITCH * np.cos(tilt)
    centre = np.array([0.5, 0.5]) * size + rng.normal(0, 0.05, 2) * size
    # Sizes change by a constant ratio along the string: that is perspective.
    steps = np.arange(-12, 13)
    radii = radius * (1 + taper) ** steps
    offsets = np.concatenate([[0], np.cumsum(radii[:-1] * step)])
    places = centre + (offsets - offsets[12])[:, None] * down
    inside = ((places > -radius) & (places < size + radius)).all(axis=1)
    if not near:  # a far string ends within the picture
        inside &= np.abs(steps) <= rng.integers(7, 10)
    shown = np.flatnonzero(inside)

    missing: list[int] = []
    margin = 0.6 * radius
    whole = [i for i in shown[1:-1] if (places[i] > margin).all() and (places[i] < size - margin).all()]
    if defect == "missing_cap":
        first = int(fault.integers(max(len(whole), 1)))
        missing = whole[first : first + max(1, round(look.defect_size))]
    ends = places[shown[0]] - down * radius * 2 * near, places[shown[-1]] + down * radius * 2 * near
    canvas.stroke([ends[0], ends[1]], 0.11 * radius, metal * 0.6, shadow=0)
    if not near:
        for end, sign in zip(ends, (-1, 1), strict=True):
            canvas.stroke([end, end + sign * down * radius * 3], 0.2 * radius, metal * 0.8, part="other")

    from_below = rng.random() < 0.5  # who hides whom
    for i in shown if from_below else shown[::-1]:
        frame = Frame(places[i], angle, radii[i])
        if i in missing:
            _stub(canvas, frame, tilt, metal)
            if look.defect_size < 1:
                _disc(
                    canvas,
                    Frame(places[i], angle, radii[i] * (1 - look.defect_size)),
                    tilt,
                    glass,
                    clear,
                    False,
                )
        else:
            _unit(canvas, frame, tilt, glass, metal, clear, from_below)
    for i in missing:
        frame = Frame(places[i], angle, radii[i])
        if look.annotation == "area":
            _mark_area(canvas, frame, tilt)
        else:
            _mark_gap(canvas, frame, tilt)


def _unit(canvas, frame, tilt, glass, metal, clear, from_below):
    """One disc with its cap above and the pin below."""
    c = float(np.cos(tilt))
    cap = [(0, -0.78 * c), (0, -0.5 * c), (0, -0.12 * c)]
    widths = np.array([0.17, 0.23, 0.28]) * frame.scale
    if from_below:
        canvas.stroke(frame(cap), widths, metal, gloss=0.3)
        _disc(canvas, frame, tilt, glass, clear, True)
        canvas.stroke(frame([(0, 0.1 * tilt), (0, 0.3)]), 0.13 * frame.scale, metal * 0.5)
    else:
        canvas.stroke(frame([(0, 0.1), (0, 0.42)]), 0.13 * frame.scale, metal * 0.5)
        _disc(canvas, frame, tilt, glass, clear, False)
        canvas.stroke(frame(cap), widths, metal, gloss=0.3)


def _stub(canvas, frame, tilt, metal):
    """What is left when the glass has burst: the cap, the pin and a collar of cement."""
    c = float(np.cos(tilt))
    canvas.stroke(frame([(0, -0.1 * c), (0, 0.45 * c)]), 0.13 * frame.scale, metal * 0.55)
    lathe = [(0, -0.78 * c), (0, -0.5 * c), (0, -0.15 * c), (0, -0.02 * c)]
    canvas.stroke(frame(lathe), np.array([0.17, 0.23, 0.24, 0.17]) * frame.scale, metal * 0.95, gloss=0.3)
    canvas.stroke(frame([(0, 0.02 * c), (0, 0.1 * c)]), 0.18 * frame.scale, metal * 0.7)


def _shape(canvas, frame, tilt):
    """Where in the window of a disc each pixel lies: (slices, u, v, elliptic radius, radius of the rim
    below)."""
    dome = float(np.hypot(np.sin(tilt), 0.40 * np.cos(tilt)))
    rim = max(float(np.sin(tilt)), 0.09)
    corners = frame([(-1, -dome), (1, -dome), (1, rim), (-1, rim)])
    found = canvas.window(corners, 2)
    if found is None:
        return None
    where, x, y = found
    u, v = frame.local(x, y)
    # Without float32 here and in `_disc`, plain numbers and truth values would make float64 of every field.
    stretch = np.where(v < 0, np.float32(1 / dome), np.float32(1 / rim))
    across, along = u * u, v * stretch
    e = np.sqrt(across + along * along)
    along *= stretch
    # Distance to the edge in pixels, to first order.
    return where, u, v, e, (e - 1) * e * frame.scale / (np.sqrt(across + along * along) + 1e-6)


def _disc(canvas, frame, tilt, glass, clear, ribs):
    """The glass: hardly there in the middle, bright at the rim, with rings and a highlight."""
    shape = _shape(canvas, frame, tilt)
    if shape is None:
        return
    where, u, v, e, distance = shape
    cover = clip(0.5 - distance, 0, 1)
    side = 1.0 if canvas.light[0] > 0 else -1.0
    opening = float(np.sin(tilt))
    fresnel = e * e
    fresnel = fresnel * fresnel
    rings = wave(3.2 * np.minimum(e, 1) + 0.25) * min(1.0, 0.25 + opening)
    tone = 0.72 + 0.18 * rings + 0.22 * fresnel - (0.22 - 0.22 * fresnel) * (v > 0.02) + (0.10 * side) * u
    alpha = clear + (0.92 - clear) * fresnel + 0.12 * rings
    edge = clip(1 - np.abs(distance + 1.2) / max(1.0, 0.06 * frame.scale), 0, 1)
    tone += edge * np.where(v > -0.1, np.float32(0.35), np.float32(-0.25))
    spot = np.maximum(0, 1 - ((u - 0.42 * side) ** 2 * (1 / 0.08) + (v + 0.16) ** 2 * (1 / 0.018)))
    tone += 0.5 * spot
    if ribs:
        tone -= 0.25 * np.maximum(0, 1 - (e * (1 / 0.34)) ** 2)
    canvas.blend(where, clip(alpha + 0.5 * spot, 0, 0.97) * cover, tone * tint(glass), "air")
    canvas.object[where] = np.maximum(canvas.object[where], cover)
    canvas.solid[where] = np.maximum(canvas.solid[where], 0.5 * cover)


def _mark_area(canvas, frame, tilt):
    """The whole area where the disc should be."""
    shape = _shape(canvas, frame, tilt)
    if shape is not None:
        canvas.defect[shape[0]] = np.maximum(canvas.defect[shape[0]], clip(0.5 - shape[4], 0, 1))


def _mark_gap(canvas, frame, tilt):
    """The visible gap: what shows of the bare stub between the neighbours."""
    c = float(np.cos(tilt))
    found = canvas.window(frame([(-0.3, -0.5 * c), (0.3, -0.5 * c), (0.3, 0.4 * c), (-0.3, 0.4 * c)]), 1)
    if found is None:
        return
    where, x, y = found
    u, v = frame.local(x, y)
    inside = (np.abs(u) < 0.3) & (v > -0.5 * c) & (v < 0.4 * c)
    canvas.defect[where] = np.maximum(canvas.defect[where], inside)
