"""What lies behind an inspected object, and the camera that looks at it: landscapes seen from a drone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from attnad.datasets.drawing import tint
from attnad.datasets.fields import blurred, clip, noise, resize

# Two colours each: the shade and the light of the leaves or soil.
GROUNDS = {
    "green forest": ((0.10, 0.17, 0.09), (0.46, 0.58, 0.34)),
    "olive bush": ((0.20, 0.21, 0.13), (0.60, 0.61, 0.40)),
    "dry bush": ((0.24, 0.20, 0.17), (0.58, 0.52, 0.45)),
    "red soil": ((0.32, 0.22, 0.17), (0.70, 0.56, 0.46)),
    "pasture": ((0.40, 0.42, 0.24), (0.72, 0.73, 0.50)),
}
ROOFS = ((196, 78, 44), (214, 120, 48), (58, 104, 168))  # red and orange tiles, blue metal
SKIES = ((0.93, 0.94, 0.95), (0.70, 0.79, 0.88), (0.80, 0.83, 0.86))


def landscape(
    rng: np.random.Generator, size: int, clutter: float, roof: np.random.Generator | None = None
) -> np.ndarray:
    """(3, size, size) float32 background: sky, hazy vegetation, hills, soil; more and sharper with
    ``clutter``.

    Args:
        rng: decides what is there.
        size: side in pixels.
        clutter: 0 a smooth far-away background, 1 houses, towers, wires and branches right behind the object.
        roof: if given, decides on a large house with a bright roof near the middle; `rng` is asked the same
            as without.
    """
    full, size = size, max(size // 2, 8)  # out of focus anyway: half the size is a quarter of the work
    relief, patches = -np.abs(noise(rng, size, 0.85, 8, 128)), noise(rng, size, 0.5, 4, 64)
    palettes = [GROUNDS[k] for k in rng.permutation(list(GROUNDS))[:2]]
    sky = tint(SKIES[rng.integers(len(SKIES))])
    horizon = (-0.25, rng.uniform(0.05, 0.35), rng.uniform(0.4, 0.8), 1.2)[
        rng.choice(4, p=(0.5, 0.25, 0.15, 0.1))
    ]
    haze, defocus = float(rng.uniform(0.05, 0.5)), float(rng.uniform(0.2, 2.8) * (1.3 - clutter))

    y = (np.arange(size, dtype=np.float32) / size)[:, None]
    depth = clip((y - horizon) / (1.05 - horizon), 0, 1) if horizon < 1 else np.zeros_like(y)
    if horizon < 1:  # far rows are squeezed: what is near shows larger leaves
        rows = (size - 1) * (0.25 * depth + 0.75 * depth**0.6)
        relief = relief[rows[:, 0].astype(int)]
    lit = clip(relief - np.roll(relief, 1, axis=0), -1, 1)
    leaves = clip(0.62 + 0.22 * relief + 0.40 * (0.5 + 0.5 * float(clutter)) * lit, 0, 1)
    kind = clip(0.45 + 0.55 * patches + 0.25 * lit, 0, 1)
    air = haze * (1 - 0.75 * depth)
    profile = patches[size // 2] * 0.02 + relief[size // 3] * 0.006
    covered = clip((y - horizon - profile) * (0.7 * size), 0, 1)
    ridge = horizon - float(rng.uniform(0.03, 0.15)) + 0.04 * patches[size // 4]
    far = clip((y - ridge) * (0.5 * size), 0, 1) * float(rng.random() < 0.5)
    clouds = 0.06 * clip(patches, -1, 1) * (1 - y)
    scene = []
    for c in range(3):  # one channel after the other keeps the arrays small and fast
        (dark, bright), (dark2, bright2) = ([float(v[c]) for v in p] for p in palettes)
        ground = (1 - kind) * (dark + (bright - dark) * leaves) + kind * (dark2 + (bright2 - dark2) * leaves)
        above = float(sky[c, 0, 0])
        ground += air * (0.93 * above - ground)
        heaven = above + clouds
        heaven += far * ((0.58, 0.66, 0.70)[c] - heaven)
        plane = clip(heaven + covered * (ground - heaven), 0, 1) * 255 + 0.5
        scene.append(Image.fromarray(plane.astype(np.uint8)))
    picture = Image.merge("RGB", scene)
    if defocus < 1:  # sharp things need all pixels
        picture = picture.resize((full, full), Image.Resampling.BILINEAR)
    _things(rng, picture, horizon, clutter)
    if roof is not None:
        _house(roof, picture)
    radius = defocus * picture.width / 256
    planes = (np.asarray(plane, dtype=np.float32) * np.float32(1 / 255) for plane in picture.split())
    return np.stack([resize(blurred(plane, radius), full) for plane in planes])


def _things(rng: np.random.Generator, picture: Image.Image, horizon: float, clutter: float) -> None:
    """Houses, branches, lattice towers and wires drawn into the background."""
    size = picture.width
    houses, branches, towers, wires = rng.random(4) < np.array([0.45, 0.5, 0.45, 0.6]) * min(
        1.6 * clutter, 1.5
    )
    overlay = Image.new("L", (2 * size, 2 * size))
    draw = ImageDraw.Draw(overlay)
    s = 2 * size

    def lay(colour):
        """Paints what the overlay holds, and empties it."""
        left, upper, right, lower = overlay.getbbox() or (0, 0, 2, 2)
        box = (left // 2, upper // 2, (right + 1) // 2, (lower + 1) // 2)
        twice = (2 * box[0], 2 * box[1], 2 * box[2], 2 * box[3])
        picture.paste(colour, box, overlay.reduce(2, twice))
        overlay.paste(0, twice)

    if houses and horizon < 1:
        y = clip(horizon, 0.05, 0.7) + rng.uniform(0.05, 0.2)
        paint, eave = ImageDraw.Draw(picture), size / 128
        for x, w in zip(rng.uniform(0, 1, 5), rng.uniform(0.03, 0.08, 5), strict=True):
            h = 0.45 * w
            wall = tuple(int(v) for v in rng.uniform(170, 235) * np.array([1, 0.96, 0.9]))
            roof = tuple(int(v) for v in rng.uniform(120, 190) * np.array([1, 0.62, 0.5]))
            box = [x * size, (y - h) * size, (x + w) * size, y * size]
            paint.rectangle(box, fill=wall)
            paint.polygon(
                [(box[0] - eave, box[1]), (box[2] + eave, box[1]), (box[2] - eave, box[1] - h * size / 2),
                 (box[0] + eave, box[1] - h * size / 2)], fill=roof)  # fmt: skip
    if branches:
        n = int(25 + 50 * clutter)
        x, y = rng.uniform(0, 1, n), rng.uniform(min(max(horizon, 0), 0.9) + 0.05, 1.1, n)
        angles = rng.normal(-1.57, 0.5, n) + np.cumsum(rng.normal(0, 0.4, (4, n)), axis=0)
        steps = rng.uniform(0.02, 0.07, (4, n)) * np.stack([np.cos(angles), np.sin(angles)])
        for twig in s * np.concatenate([[[x], [y]], steps], axis=1).cumsum(axis=1).T:
            draw.line(twig.ravel().tolist(), fill=90, width=max(1, s // 400))
        lay((205, 196, 182))
    if towers:
        x, w, top = rng.uniform(0.05, 0.95), rng.uniform(0.08, 0.25), rng.uniform(-0.1, 0.3)
        levels, width = (
            np.linspace(top, 1.05, int(rng.integers(5, 9))),
            max(2, round(s * rng.uniform(0.006, 0.014))),
        )
        for upper, lower in pairwise(levels):
            wu, wl = (0.5 * w * (0.6 + 0.6 * v) for v in (upper, lower))
            corners = [((x - wu) * s, upper * s), ((x + wu) * s, upper * s), ((x + wl) * s, lower * s),
                       ((x - wl) * s, lower * s)]  # fmt: skip
            for a, b in ((0, 3), (1, 2), (0, 2), (1, 3), (0, 1)):
                draw.line(
                    [corners[a], corners[b]],
                    fill=235,
                    width=width if (a, b) in ((0, 3), (1, 2)) else width // 2,
                )
        grey = int(rng.uniform(90, 200))
        lay((grey, grey + 3, grey + 6))
    if wires:
        slope, y = rng.uniform(-1.2, 1.2), rng.uniform(-0.2, 0.9)
        for i in range(int(rng.integers(1, 5))):
            points = [
                (x * s, (y + 0.07 * i + slope * x + 0.06 * (x - 0.5) ** 2) * s) for x in np.linspace(0, 1, 9)
            ]
            draw.line(points, fill=220, width=max(2, s // 200))
        grey = int(rng.choice([70, 120, 215]))
        lay((grey, grey, grey))


def _house(rng: np.random.Generator, picture: Image.Image) -> None:
    """A house near the middle, larger than any in `_things`: a tiled roof over a wall with windows."""
    s = 2 * picture.width  # drawn twice as large, so that its edges come out smooth
    roof = np.array(ROOFS[rng.integers(len(ROOFS))]) * rng.uniform(0.85, 1.1)
    wall = tuple(int(v) for v in rng.uniform(175, 240) * np.array([1, 0.97, 0.9]))
    x, y = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.6)  # the middle of the roof
    w, h = rng.uniform(0.18, 0.3), rng.uniform(0.07, 0.12)  # half its width, half its height
    lean, rows = rng.uniform(0.1, 0.4) * w, int(rng.integers(6, 11))
    house = Image.new("RGBA", (s, s), (*wall, 0))
    draw = ImageDraw.Draw(house)
    draw.rectangle([s * (x - 0.9 * w), s * y, s * (x + 0.9 * w), s * (y + 2.2 * h)], fill=(*wall, 255))
    for k in (-0.6, -0.1, 0.4):
        left, top = x + k * w, y + 1.3 * h
        draw.rectangle([s * left, s * top, s * (left + 0.2 * w), s * (top + 0.5 * h)], fill=(60, 66, 74, 255))
    for row in range(rows):  # from the ridge to the eaves; each row of tiles is lit at its upper edge
        upper, lower = row / rows, (row + 1) / rows
        for a, b, tone in ((upper, lower, 0.72), (upper, lower - 0.35 / rows, 1.0)):
            ya, yb = (y - h + 2 * h * v for v in (a, b))
            wa, wb = (w - lean * (1 - v) for v in (a, b))
            corners = [(x - wa, ya), (x + wa, ya), (x + wb, yb), (x - wb, yb)]
            fill = tuple(int(v) for v in np.minimum(tone * roof, 255))
            draw.polygon([(s * px, s * py) for px, py in corners], fill=(*fill, 255))
    small = house.reduce(2)
    picture.paste(small.convert("RGB"), (0, 0), small.getchannel("A"))


def camera(rng: np.random.Generator, rgb: np.ndarray, light: float | None) -> np.ndarray:
    """(3, H, W) float32 in [0, 1], in steps of 1/255: exposure, colour cast, blur and sensor noise.

    Args:
        rng: decides all of these.
        rgb: (3, H, W) float32, the scene.
        light: 0 dusk to 1 glare; None for any.
    """
    drawn = rng.beta(2, 2)
    light = drawn if light is None else light
    exposure, gamma = 0.66 + 0.7 * float(light), float(rng.uniform(0.85, 1.15))
    cast = tint(1 + rng.normal(0, 0.035, 3))
    veil = float(rng.uniform(0, 0.1) * light)
    size = rgb.shape[1]
    blur, grains = max(0.0, float(rng.normal(0.35, 0.3))), float(rng.uniform(0.002, 0.012))
    # Three bytes summed are nearly a normal number, at a third of its price; 128 is their deviation.
    bytes_ = rng.integers(0, 256, (3, size, size), dtype=np.uint8)
    grey = bytes_.sum(axis=0, dtype=np.uint16) * np.float32(255 * grains / 128)
    grey += np.float32(0.5 - 382.5 * 255 * grains / 128)
    image = np.empty(rgb.shape, np.float32)
    # One channel after the other keeps the arrays small and fast.
    for scene, gain, shot in zip(rgb, (exposure * (1 - veil) * cast).ravel(), image, strict=True):
        plane = scene * gain
        plane += veil
        np.clip(plane, 0, 1, out=plane)
        # Close to the power gamma, which is slow; and in steps of a byte.
        plane *= 255 * (2 - gamma) - (255 * (1 - gamma)) * plane
        plane = blurred(plane, blur * size / 256)
        plane += grey
        np.floor(np.clip(plane, 0, 255, out=plane), out=plane)
        np.divide(plane, np.float32(255), out=shot)
    return image
