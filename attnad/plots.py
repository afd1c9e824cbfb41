"""Figures of the book: one style, and one way to show them.

Importing this module sets Matplotlib's style for the figures that follow. `show` puts a figure on the
page as a plain picture with alternative text, which works alike in the published page, in JupyterLab
and on Colab.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image

CSS_PX_PER_INCH = 100
RETINA = 2  # picture pixels per CSS pixel, so that text stays sharp on dense screens

# Okabe and Ito's palette: told apart with every common kind of colour blindness. Yellow is left out:
# it vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")

# White paper under every figure: dark ink on it is readable on a light page and on a dark one, and a
# colour map keeps the meaning of its colours.
STYLE = {
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "figure.figsize": (7.2, 4.0),
    "savefig.facecolor": "white",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": False,
    "grid.color": "#dddddd",
    "axes.prop_cycle": cycler(color=COLOURS),
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
}
matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]


def rasterise(fig: Figure, scale: float = RETINA) -> Image.Image:
    """The figure as a picture of `scale` pixels per CSS pixel; the figure is closed."""
    from matplotlib import pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    fig.set_dpi(scale * CSS_PX_PER_INCH)
    fig.draw_without_rendering()  # the first layout of square axes does not see their titles yet
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    plt.close(fig)
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def encode(picture: Image.Image) -> str:
    """The picture as a ``data:`` address, ready for ``<img src=...>``.

    WebP: without loss where that makes the smaller file (drawings), else with little (photographs).
    """
    files = []
    for options in ({"lossless": True, "method": 0}, {"quality": 88, "method": 3}):
        file = io.BytesIO()
        picture.save(file, format="webp", **options)
        files.append(file.getvalue())
    return "data:image/webp;base64," + base64.b64encode(min(files, key=len)).decode()


def img_tag(src: str, alt: str, width: int) -> str:
    """``<img>`` with its alternative text, `width` in CSS pixels, never wider than the page.

    The class ``dark-light`` exempts it from the filter that the theme's dark mode puts on pictures:
    the colours of a heatmap are data.
    """
    return (
        f'<img class="dark-light" alt="{html.escape(alt, quote=True)}" src="{src}" width="{width}" '
        'style="max-width:100%;height:auto;background:#fff;border-radius:4px">'
    )


def check_alt(alt: str) -> str:
    """Returns `alt`, stripped.

    Raises:
        ValueError: it is empty. A reader who cannot see the picture has nothing else.
    """
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError("a figure needs alternative text: alt='what the picture shows, in a sentence'")
    return " ".join(alt.split())


def css_width(fig: Figure) -> int:
    """The width of the figure on the page, in CSS pixels."""
    return round(fig.get_size_inches()[0] * CSS_PX_PER_INCH)


def show(fig: Figure, alt: str) -> None:
    """Displays the figure with alternative text, and closes it.

    Args:
        fig: a Matplotlib figure; 1 inch is 100 CSS pixels on the page.
        alt: what the picture shows, for those who cannot see it.

    Raises:
        ValueError: `alt` is empty.
    """
    from IPython.display import HTML, display

    alt, width = check_alt(alt), css_width(fig)
    display(HTML(img_tag(encode(rasterise(fig)), alt, width)))


def diagram(
    ax: Axes, boxes: Mapping[str, tuple[float, float, str, str | None]], arrows: Iterable[tuple[str, ...]]
) -> None:
    """Draws a block diagram.

    Args:
        ax: its limits are yours to set; its frame is switched off.
        boxes: name -> (x, y, text, colour), x and y of the middle in data units; colour None: text alone.
        arrows: (from, to), or (from, to, connection style of Matplotlib).
    """
    patches = {}
    for name, (x, y, text, colour) in boxes.items():
        frame: dict[str, Any] = {"boxstyle": "round,pad=0.45", "fc": "white", "ec": "none"}
        if colour is not None:
            frame |= {"fc": to_rgba(colour, 0.15), "ec": colour, "lw": 1.3}
        label = ax.text(x, y, text, ha="center", va="center", bbox=frame, fontsize=10)
        patches[name] = label.get_bbox_patch()
    for start, end, *style in arrows:
        ax.annotate(
            "", boxes[end][:2], boxes[start][:2],
            arrowprops={
                "arrowstyle": "->", "color": "#444444", "lw": 1.2, "patchA": patches[start],
                "patchB": patches[end], "shrinkA": 2, "shrinkB": 2, "connectionstyle": (style or ["arc3"])[0],
            },
        )  # fmt: skip
    ax.axis("off")


def interval(ax: Axes, low: float, high: float, y: float, within: tuple[float, float], colour: str) -> None:
    """A horizontal line from `low` to `high`; where that leaves `within`, it is cut and an arrow says so."""
    left, right = within
    ax.plot(np.clip([low, high], left, right), [y, y], color=colour, lw=1.8, solid_capstyle="butt")
    for beyond, end, mark in ((low < left, left, "<"), (high > right, right, ">")):
        if beyond:
            ax.plot(end, y, mark, color=colour, ms=5.5, clip_on=False)


def side_by_side(
    pictures: Mapping[str, np.ndarray],
    maps: Mapping[str, Sequence[np.ndarray] | np.ndarray],
    outlines: Sequence[np.ndarray | None] | None = None,
    width: float = 7.2,
    across: bool = False,
) -> Figure:
    """Pictures, and beside each what explains it: the maps of several detectors, or gates.

    Each map is stretched over its own values: brighter is higher within the picture, and two panels cannot
    be compared in strength. Gates by channel are bars from 0 to 1, which can.

    Args:
        pictures: title of the row -> (3, H, W) in [0, 1].
        maps: title of the column -> for each row a map of any resolution (h, w), laid over the picture, or
            a gate of each channel (C,).
        outlines: for each row a mask (H, W), drawn as a line into its panels; None for none.
        width: of the figure in inches. ``fig.savefig("figure.pdf", dpi=300)`` prints it.
        across: swap rows and columns, as in figures 5 and 6 of the AttentDifferNet paper: pictures in the top
            row, under each its maps.

    Raises:
        ValueError: a column has another number of maps than there are pictures.
    """
    from matplotlib import pyplot as plt

    for title, column in maps.items():
        if len(column) != len(pictures):
            raise ValueError(f"{title}: {len(column)} maps for {len(pictures)} pictures")
    rows, columns = len(pictures), 1 + len(maps)
    if across:
        rows, columns = columns, rows
    cell = width / (columns + 0.35)  # the row titles take a third of a panel
    fig, axes = plt.subplots(rows, columns, figsize=(width, cell * rows + 0.3), squeeze=False)
    panels = axes.T if across else axes  # a row of panels for each picture
    for row, picture in enumerate(pictures.values()):
        shown = np.asarray(picture).transpose(1, 2, 0).clip(0, 1)
        outline = None if outlines is None else outlines[row]
        panels[row, 0].imshow(shown)
        for ax, column in zip(panels[row, 1:], maps.values(), strict=True):
            _explanation(ax, shown, np.asarray(column[row]))
        for ax in panels[row]:
            if outline is not None and outline.any() and ax.images:
                ax.contour(outline.squeeze(), [0.5], colors=[COLOURS[1]], linewidths=1.2)
            ax.set(xticks=[], yticks=[] if ax.images else [0, 1])
            ax.spines[:].set_visible(not ax.images)
    names = [name.replace("_", " ").replace(" ", "\n", 1) for name in pictures]
    titles = ["picture", *maps]
    for ax, title in zip(axes[0], names if across else titles, strict=True):
        ax.set_title(title, fontsize=8 if across else 9)
    for ax, title in zip(axes[:, 0], titles if across else names, strict=True):
        ax.set_ylabel(title, fontsize=9 if across else 8)
    return fig


def _explanation(ax: Axes, shown: np.ndarray, values: np.ndarray) -> None:
    """A map (h, w) over the picture (H, W, 3), or a gate of each channel (C,) as bars."""
    height, width = shown.shape[:2]
    if values.ndim == 1:
        ax.bar(range(len(values)), values, width=1)
        ax.set(xlim=(-0.5, len(values) - 0.5), ylim=(0, 1), box_aspect=height / width)
        return
    whole = (-0.5, width - 0.5, height - 0.5, -0.5)  # of the picture, whatever the map's resolution
    ax.imshow(shown.mean(axis=2), cmap="gray", vmin=0, vmax=1)
    ax.imshow(values, cmap="viridis", alpha=0.65, extent=whole)
