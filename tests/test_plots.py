"""Drawing functions that several chapters share."""

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


def test_an_arrow_to_a_box_that_does_not_exist_is_an_error():
    fig, ax = plt.subplots()
    with pytest.raises(KeyError, match="c"):
        plots.diagram(ax, {"a": (0, 0, "picture", None)}, [("a", "c")])
    plt.close(fig)
