"""Drawing functions that several chapters share."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from attnad import plots


def test_a_diagram_has_its_boxes_and_arrows_and_draws():
    fig, ax = plt.subplots()
    boxes = {"a": (0, 0, "picture", plots.COLOURS[0]), "b": (1, 0, "score", None)}
    plots.diagram(ax, boxes, [("a", "b"), ("a", "b", "bar,fraction=-0.3")])
    assert [t.get_text() for t in ax.texts[:2]] == ["picture", "score"]
    assert sum(getattr(t, "arrow_patch", None) is not None for t in ax.texts) == 2
    ax.set(xlim=(-1, 2), ylim=(-1, 1))
    assert plots.rasterise(fig).size[0] > 0
    assert not plt.fignum_exists(fig.number)


def test_an_interval_is_cut_where_the_axis_ends_and_says_so():
    fig, ax = plt.subplots()
    plots.interval(ax, -2.0, 0.5, 3, (-1, 1), "black")
    line, arrow = ax.lines
    assert list(line.get_xdata()) == [-1, 0.5] and list(line.get_ydata()) == [3, 3]
    assert (arrow.get_marker(), *arrow.get_xdata()) == ("<", -1)
    plots.interval(ax, -0.5, 0.5, 4, (-1, 1), "black")
    assert len(ax.lines) == 3
    plt.close(fig)


def test_an_arrow_to_a_box_that_does_not_exist_is_an_error():
    fig, ax = plt.subplots()
    with pytest.raises(KeyError, match="c"):
        plots.diagram(ax, {"a": (0, 0, "picture", None)}, [("a", "c")])
    plt.close(fig)


def test_figure_has_a_panel_for_each_map():
    pictures = np.random.default_rng(1).random((2, 3, 32, 32))
    maps = {title: np.random.default_rng(0).random((2, 32, 32)) for title in ("none", "SE", "CBAM")}
    outline = np.zeros((1, 32, 32), bool)
    outline[0, 4:9, 4:9] = True
    fig = plots.side_by_side({"a b": pictures[0], "c": pictures[1]}, maps, [outline, None])
    assert len(fig.axes) == 8 and [ax.get_title() for ax in fig.axes[:4]] == ["picture", "none", "SE", "CBAM"]
    across = plots.side_by_side({"a b": pictures[0], "c": pictures[1]}, maps, across=True)
    assert [ax.get_title() for ax in across.axes[:2]] == ["a\nb", "c"] and len(across.axes) == 8
    assert [ax.get_ylabel() for ax in across.axes[::2]] == ["picture", "none", "SE", "CBAM"]
    with pytest.raises(ValueError, match="SE: 1 maps for 2 pictures"):
        plots.side_by_side({"a": pictures[0], "b": pictures[1]}, maps | {"SE": maps["SE"][:1]})
