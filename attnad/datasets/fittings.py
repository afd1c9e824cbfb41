"""Paints the metal fittings of a power line: the four assets that corrode, and a bird's nest on one of them.

All are drawn in local coordinates: the middle of the asset at (0, 0), y down, about one unit high.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from attnad.datasets.drawing import Canvas, Frame, channels, tint
from attnad.datasets.fields import grown, noise

METALS = ((0.72, 0.73, 0.74), (0.66, 0.65, 0.74), (0.60, 0.68, 0.70), (0.82, 0.81, 0.78), (0.55, 0.55, 0.56))


class View:
    """Where the asset stands, what it is made of, and the rust that it may have."""

    def __init__(self, canvas: Canvas, rng, fault, defect: str, look, height: float):
        size = canvas.width
        scale = size * height * look.scale * rng.uniform(0.85, 1.2)
        width = rng.choice([-1, 1]) * rng.uniform(0.8, 1.1)
        self.canvas, self.rng = canvas, rng
        self.frame = Frame(0.5 * size + rng.normal(0, 0.03, 2) * size, rng.normal(0, 0.08), scale, width)
        self.metal = np.array(METALS[rng.integers(len(METALS))]) * rng.uniform(0.85, 1.1)
        self.rust = _rust(fault, size, look, self.frame) if defect == "corrosion" else None

    def turn(self, angle: float) -> None:
        """Lean the whole asset."""
        f = self.frame
        width = float(np.linalg.det(f.matrix))
        self.frame = Frame(f.origin, angle, f.scale, width)

    def rod(self, points, radius, shade: float | np.ndarray = 1.0, rusty=False, part="object", **how) -> None:
        """`Canvas.stroke` in local coordinates."""
        radii = np.asarray(radius) * self.frame.scale
        self.canvas.stroke(
            self.frame(points), radii, self.metal * shade, rust=self.rust if rusty else None, part=part, **how
        )

    def plate(self, points, shade=1.0, rusty=False, part="object", **how) -> None:
        """`Canvas.plate` in local coordinates."""
        bevel = max(1.0, 0.012 * self.frame.scale)
        self.canvas.plate(
            self.frame(points), self.metal * shade, self.rust if rusty else None, part, bevel=bevel, **how
        )

    def bolt(self, x, y, radius=0.03, shade=0.85, rusty=False, part="object") -> None:
        """A nut on its washer, seen from the end."""
        self.rod([(x, y)], 1.35 * radius, 0.7 * shade, rusty, part, gloss=0.1)
        self.rod([(x, y)], radius, shade, rusty, part, gloss=0.2)

    def nut(self, x, y, radius=0.045, half=0.02, shade=0.8, rusty=False, part="object") -> None:
        """A nut seen from the side."""
        x0, x1, y0, y1 = x - radius, x + radius, y - half, y + half
        self.plate([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], shade, rusty, part)

    def ring(self, x, y, rx, ry, radius, start=0.0, stop=2 * np.pi, n=11, **how) -> None:
        """A rod bent along an ellipse: links, shackles, rims."""
        t = np.linspace(start, stop, n)
        self.rod(np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1), radius, **how)

    def steelwork(self, chance: float) -> None:
        """Members of the tower behind the asset, with bolts."""
        if self.rng.random() > chance:
            return
        shade = self.rng.uniform(0.55, 0.8)
        for _ in range(int(self.rng.integers(1, 3))):
            x, lean, half = (
                self.rng.uniform(-0.55, 0.55),
                self.rng.normal(0, 0.35),
                self.rng.uniform(0.06, 0.13),
            )
            corners = [(x - half, -1.2), (x + half, -1.2), (x + half + lean, 1.3), (x - half + lean, 1.3)]
            self.plate(corners, shade, part="other", gloss=0.15)
            self.rod([(x + half, -1.2), (x + half + lean, 1.3)], 0.012, shade * 0.6, part="other")
            for y in self.rng.uniform(-0.9, 0.9, 3):
                self.bolt(x + lean * (y + 1.2) / 2.5, y, 0.022, shade, part="other")


def _rust(fault, size: int, look, frame: Frame):
    """Strength and field of the rust: patches, and only around some spot if the defect is to be small."""
    field = noise(fault, size, 0.75, 16, 128)
    strength = fault.uniform(0.62, 1.0)
    strength = strength if look.corrosion is None else look.corrosion
    spot = frame((fault.uniform(-0.15, 0.15), fault.uniform(-0.5, -0.05)))
    if look.defect_size < 1:
        axis = np.arange(size, dtype=np.float32)
        far = np.sqrt((axis[None] - float(spot[0])) ** 2 + (axis[:, None] - float(spot[1])) ** 2)
        field = field - np.maximum(far - 0.45 * look.defect_size * frame.scale, 0) / (0.03 * frame.scale)
    return float(strength), field


def lightning_rod_suspension(canvas: Canvas, rng, fault, defect: str, look) -> None:
    """A bell-shaped clamp that carries the ground wire, hung by a link and a U-bolt from a flange."""
    v = View(canvas, rng, fault, defect, look, 0.72)
    if rng.random() < 0.5:  # the gusset plate of the tower behind it
        v.plate([(-0.42, -0.6), (0.42, -0.6), (0.3, -0.02), (-0.3, -0.02)], 0.62, part="other", gloss=0.2)
        for x, y in ((-0.32, -0.4), (0.32, -0.42), (-0.26, -0.15), (0.25, -0.12)):
            v.bolt(x, y, 0.03, 0.75, part="other")
        v.plate([(-0.36, -0.1), (-0.22, -0.1), (-0.3, 1), (-0.5, 1)], 0.6, part="other")
        v.plate([(0.2, -0.1), (0.34, -0.1), (0.48, 1), (0.3, 1)], 0.6, part="other")
    else:
        v.steelwork(0.3)
    sag = rng.uniform(0.02, 0.12)
    reach = np.linspace(-1.2, 1.2, 9)
    v.rod(np.stack([reach, 0.20 + sag * reach**2], axis=1), 0.038, 0.95, twist=(0.45, 1.6), gloss=0.3)
    # flange with its bolts
    for bx in (-0.17, 0.0, 0.17):
        v.rod([(bx, -0.74), (bx, -0.62)], 0.028, 0.85, part="other")
        v.nut(bx, -0.66, 0.045, 0.03, part="other")
    v.plate([(-0.09, -1.3), (0.02, -1.3), (0.02, -0.62), (-0.09, -0.62)], 0.9, part="other")
    v.plate([(-0.55, -0.64), (0.5, -0.64), (0.6, -0.56), (-0.62, -0.56)], 1.05, part="other", gloss=0.2)
    steel = 0.9
    v.rod([(-0.11, -0.56), (-0.11, -0.4), (-0.08, -0.33), (0, -0.30), (0.08, -0.33), (0.11, -0.4),
           (0.11, -0.56)], 0.036, steel, True)  # fmt: skip
    v.ring(0, -0.2, 0.055, 0.13, 0.032, shade=1.0, rusty=True)
    v.rod([(0, -0.11), (0, 0.02)], [0.05, 0.07], 1.0, True)
    for bx in (-0.1, 0.1):  # the keeper's bolts below the wire
        v.rod([(bx, 0.2), (bx, 0.44)], 0.026, 0.8)
        v.nut(bx, 0.38, 0.045, 0.03, 0.85)
    bell = [(-0.07, -0.04), (0.07, -0.04), (0.13, 0.05), (0.2, 0.15), (0.33, 0.26), (0.30, 0.3), (0.17, 0.27),
            (0.13, 0.33), (-0.13, 0.33), (-0.17, 0.27), (-0.30, 0.3), (-0.33, 0.26), (-0.2, 0.15),
            (-0.13, 0.05)]  # fmt: skip
    v.plate(bell, 1.0, gloss=0.35)
    v.rod(np.array(bell)[[10, 11, 12, 13, 0]], 0.018, 1.0)
    v.rod(np.array(bell)[[1, 2, 3, 4, 5]], 0.018, 1.0)
    for bx in (-0.09, 0.09):
        v.rod([(bx, 0.06), (bx * 1.1, 0.31)], [0.04, 0.055], 1.0, gloss=0.3)
    v.bolt(0, 0.03, 0.03)


def polymer_insulator_upper_shackle(canvas: Canvas, rng, fault, defect: str, look) -> None:
    """A forked shackle under two plates, a link, and the top of a polymer insulator."""
    v = View(canvas, rng, fault, defect, look, 0.8)
    v.steelwork(0.25)
    # sheds of the polymer insulator, lowest first
    shed = np.array([(0.62, 0.66, 0.72), (0.64, 0.62, 0.76), (0.45, 0.62, 0.64)][rng.integers(3)]) / v.metal
    end = rng.uniform(0.36, 0.5)
    v.rod([(0, end), (0, 1.2)], 0.05, shed * 0.8)
    for y in np.arange(end + 0.1, 1.0, 0.17)[::-1]:
        v.rod([(-0.13, y), (0.13, y)], 0.045, shed, gloss=0.35)
    v.rod([(0, 0.02), (0, end)], 0.034, 1.0, True)
    v.rod([(0, end - 0.13), (0, end - 0.1), (0, end), (0, end + 0.07)], [0.045, 0.06, 0.05, 0.085], 0.95)
    v.ring(0, end - 0.12, 0.055, 0.015, 0.012, shade=1.0)
    v.ring(0, 0.03, 0.045, 0.14, 0.034, shade=1.0, rusty=True)
    half = rng.uniform(0.13, 0.18)
    fork = [
        (-half, -0.52),
        (-half - 0.01, -0.33),
        (-0.05, -0.08),
        (0, -0.05),
        (0.05, -0.08),
        (half + 0.01, -0.33),
        (half, -0.52),
    ]
    v.rod(fork, 0.038, 1.0, True, gloss=0.3)
    v.rod([(-half - 0.1, -0.5), (half + 0.1, -0.5)], 0.035, 0.55, True)
    for x in (-half, half):
        v.plate(
            [(x - 0.06, -1.2), (x + 0.035, -1.2), (x + 0.035, -0.4), (x - 0.05, -0.42)],
            1.1,
            part="other",
            gloss=0.2,
        )
        v.bolt(x - 0.01, -0.5, 0.035, 0.8, True)
    v.plate([(-1, -1.2), (1, -1.2), (1, -0.68), (-1, -0.7)], 0.85, part="other", gloss=0.2)
    for x in rng.uniform(-0.5, 0.5, 5):
        v.nut(x, -0.66, 0.04, 0.03, 0.7, part="other")


def yoke_suspension(canvas: Canvas, rng, fault, defect: str, look) -> None:
    """Two straps from a roller on the yoke plate down to a clamp around a conductor with armour rods."""
    v = View(canvas, rng, fault, defect, look, 0.75)
    v.steelwork(0.25)
    # armour rods: thick where the clamp holds them
    x = np.linspace(-1.3, 1.3, 10)
    y = 0.34 + rng.uniform(-0.12, 0.12) * x + 0.05 * x**2
    v.rod(
        np.stack([x, y], axis=1),
        0.075 + 0.10 * np.exp(-((x / 0.45) ** 2)),
        0.8,
        twist=(0.28, 5.0),
        gloss=0.15,
    )
    for sx in (-0.055, 0.055):
        v.plate(
            [(sx - 0.03, -0.5), (sx + 0.03, -0.5), (sx + 0.035, 0.12), (sx - 0.035, 0.12)],
            0.95,
            True,
            gloss=0.2,
        )
        v.rod([(sx - 0.03, -0.48), (sx - 0.035, 0.1)], 0.009, 1.0, True)
    arm = [(0.02, -0.6), (0.14, -0.64), (1.2, -0.02), (1.2, 0.3), (0.1, -0.42)]
    if rng.random() < 0.4:
        arm = [
            (0.0, -0.63),
            (0.1, -0.44),
            (-0.3, -0.3),
            (-0.6, 0.1),
            (-0.75, 0.9),
            (-1.2, 0.9),
            (-1.2, -0.6),
            (-0.5, -0.68),
        ]
    v.plate(arm, 0.85, part="other", gloss=0.25)
    side = np.sign(arm[2][0])
    v.rod([arm[1], arm[2]] if side > 0 else [arm[-1], arm[0]], 0.014, 1.05, part="other")
    for k in (0.12, 0.22):
        v.bolt(side * (0.13 + k), -0.52 + 0.6 * k * (side > 0) + 0.02, 0.028, 0.8, part="other")
    # roller, face on
    v.rod([(0, -0.53)], 0.135, 0.75, True, gloss=0.1)
    v.ring(0, -0.53, 0.11, 0.11, 0.028, n=16, shade=0.95, rusty=True)
    v.rod([(0, -0.53)], 0.07, 0.65, gloss=0.15)
    v.bolt(0, -0.53, 0.032, 0.95)
    # clamp: a band around the rods and a hood with its bolt
    v.rod([(-0.13, 0.32), (0.13, 0.36)], 0.19, 0.95, gloss=0.25)
    v.plate(
        [
            (-0.13, 0.3),
            (-0.11, 0.1),
            (-0.06, 0.03),
            (0.06, 0.03),
            (0.11, 0.1),
            (0.14, 0.3),
            (0.1, 0.46),
            (-0.1, 0.46),
        ],
        1.0,
        gloss=0.35,
    )
    v.rod([(-0.13, 0.42), (-0.11, 0.1), (-0.06, 0.03), (0.06, 0.03), (0.11, 0.1), (0.14, 0.42)], 0.02, 1.0)
    v.bolt(0, 0.13, 0.042, 0.85)


def vari_grip(canvas: Canvas, rng, fault, defect: str, look) -> None:
    """An adjustable guy grip: a bow of rod, a body that holds the wire, two threaded ends below it."""
    v = View(canvas, rng, fault, defect, look, 0.68)
    v.steelwork(0.5)
    v.turn(rng.uniform(-0.75, 0.75))
    if defect == "bird_nest":
        _twigs(canvas, fault, v.frame, look.defect_size, 0.5)
    v.rod([(0, 0.1), (0, 1.4)], 0.042, 0.9, twist=(0.45, 1.6), gloss=0.3)
    for x in np.linspace(-0.035, 0.035, 5):  # ends of the wire that stick out of the body
        v.rod([(x, 0.05), (x * 2.2 + rng.normal(0, 0.01), -0.1 + rng.uniform(-0.03, 0.03))], 0.011, 0.9)
    v.plate([(-0.5, -0.95), (0.35, -0.95), (0.3, -0.52), (-0.42, -0.55)], 0.8, part="other", gloss=0.25)
    v.bolt(0.02, -0.62, 0.05, 0.85)
    v.bolt(-0.22, -0.68, 0.035, 0.8, part="other")
    v.ring(0, -0.5, 0.05, 0.09, 0.03, shade=1.0, rusty=True)
    bow = [(-0.14, 0.12), (-0.145, -0.15), (-0.10, -0.3), (-0.04, -0.41), (0, -0.43), (0.04, -0.41),
           (0.10, -0.3), (0.145, -0.15), (0.14, 0.12)]  # fmt: skip
    v.rod(bow, 0.026, 1.0, True, gloss=0.3)
    thread = np.array([(0.72, 0.66, 0.58), (0.6, 0.6, 0.6)][rng.integers(2)]) / v.metal
    for x in (-0.14, 0.14):
        v.rod([(x, 0.1), (x, 0.46)], 0.028, thread, True, twist=(1.2, 0.0))
        v.nut(x, 0.22, 0.048, 0.03, 0.85, True)
    v.rod([(0, 0.02), (0, 0.1), (0, 0.28)], [0.1, 0.1, 0.065], 0.95, gloss=0.3)
    v.rod([(-0.19, 0.1), (0.19, 0.1)], 0.06, 1.0, gloss=0.3)
    if defect == "bird_nest":
        _twigs(canvas, fault, v.frame, look.defect_size, 1.0)


def _twigs(canvas: Canvas, fault, frame: Frame, amount: float, share: float) -> None:
    """A tangle of twigs; the mask covers them and what little shows between them."""
    size, count = canvas.width, int(120 * share * amount)
    overlay = Image.new("L", (2 * size, 2 * size))
    draw = ImageDraw.Draw(overlay)
    reach = 0.3 * frame.scale * np.sqrt(amount)
    starts = frame((0, -0.05)) + fault.normal(0, 0.5, (count, 1, 2)) * reach
    angles, bends = fault.uniform(0, 2 * np.pi, (count, 1)), fault.normal(0, 0.35, (count, 1))
    turns = angles + bends * np.linspace(0, 1, 6)
    lengths = fault.uniform(0.5, 1.5, (count, 1, 1)) * reach
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=2) * lengths / 6
    lines = np.rint(512 * (starts + np.cumsum(steps, axis=1))) / 256
    shades, widths = fault.uniform(150, 255, count), size / fault.uniform(55, 120, count)
    for line, shade, width in zip(lines.reshape(count, 12).tolist(), shades, widths, strict=True):
        draw.line(line, fill=int(shade), width=max(2, round(width)))
    box = overlay.getbbox()
    if box is None:
        return
    x0, y0, x1, y1 = box[0] // 2, box[1] // 2, min(box[2] // 2 + 3, size), min(box[3] // 2 + 3, size)
    where = (slice(y0, y1), slice(x0, x1))
    alpha = np.asarray(overlay.reduce(2, (2 * x0, 2 * y0, 2 * x1, 2 * y1)), dtype=np.float32) / 255
    shadow = 0.35 * np.roll(alpha, (1, 1), axis=(0, 1)) * (1 - alpha)
    canvas.rgb[channels(where)] *= 1 - shadow
    tone = 1 + 0.35 * canvas.grain[where]
    canvas.blend(where, np.minimum(1.2 * alpha, 1), tone * tint((0.36, 0.27, 0.20)), "air")
    canvas.defect[where] = np.maximum(canvas.defect[where], grown(alpha > 0.3, size // 128))
