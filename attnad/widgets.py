"""The one thing to play with in each chapter: live with a kernel, drawn beforehand without one.

`explore` takes a function that draws a figure and the choices a reader has. In JupyterLab and on
Colab these are widgets that call the function. In the published page nothing runs Python, so every
combination is drawn while the book is built and a few lines of JavaScript show the one asked for:
no network, no kernel.
"""

from __future__ import annotations

import hashlib
import html
import inspect
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from attnad import plots

MAX_FRAMES = 200
STATIC = "ATTNAD_STATIC"  # environment variable, set to 1 by the build of the book

_counter = itertools.count(1)


class _Choice:
    """One control: its values, how each is written, and which kind of control suits them."""

    def __init__(self, name: str, choices: Iterable[Any] | Mapping[str, Any]):
        self.name, self.label = name, name.replace("_", " ")
        if isinstance(choices, Mapping):
            self.texts, self.values = [str(k) for k in choices], list(choices.values())
        else:
            self.values = [v.item() if isinstance(v, np.generic) else v for v in choices]
            self.texts = [_text(v) for v in self.values]
        if not self.values:
            raise ValueError(f"explore: {name!r} has no values to choose from")
        if len(set(self.texts)) < len(self.texts):
            raise ValueError(f"explore: two values of {name!r} read alike: {', '.join(self.texts)}")
        numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in self.values)
        if sorted(self.texts) == ["no", "yes"] and all(isinstance(v, bool) for v in self.values):
            # A box is empty before it is ticked: False is frame 0.
            self.kind, self.values, self.texts = "checkbox", [False, True], ["no", "yes"]
        elif numbers and not isinstance(choices, Mapping) and len(self.values) > 1:
            self.kind = "slider"
        else:
            self.kind = "select"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def explore(
    draw: Callable[..., Figure],
    alt: str | Callable[..., str],
    **choices: Iterable[Any] | Mapping[str, Any],
) -> None:
    """Shows the figure that `draw` makes, with controls for its arguments.

    Numbers become a slider, ``(False, True)`` a box to tick, anything else a list. A mapping is a list
    too: its keys are shown, its values handed to `draw`. The first picture is the one of the default
    values in the signature of `draw`; where it has none, of the first value.

    Example::

        def histogram(threshold=0.5):
            fig, ax = plt.subplots()
            ...
            return fig

        explore(histogram, alt=lambda threshold: f"... at {threshold}: {missed(threshold)} defects missed",
                threshold=np.linspace(0, 1, 21))

    Args:
        draw: called with one keyword argument for each choice; returns a new Matplotlib figure. All its
            figures have the same size. It is called again and again: compute what is slow outside it.
        alt: what the picture shows, a text or a function of the same arguments; printed under it too.
        choices: the values of each argument.

    Raises:
        ValueError: no choices, a choice without values, more than 200 combinations, an empty `alt`.
        TypeError: `draw` returned something that is not a figure.
    """
    controls = [_Choice(name, values) for name, values in choices.items()]
    if not controls:
        raise ValueError("explore: give it something to choose, e.g. threshold=[0.1, 0.2, 0.3]")
    frames = int(np.prod([len(c.values) for c in controls]))
    if frames > MAX_FRAMES:
        sizes = " x ".join(f"{len(c.values)} {c.name}" for c in controls)
        raise ValueError(
            f"explore: {sizes} are {frames} pictures, at most {MAX_FRAMES} fit on a page: offer fewer"
        )
    start = [_start(draw, c) for c in controls]

    pictures: dict[str, str] = {}  # by their pixels: what looks the same is encoded and stored once

    def frame(*index: int) -> tuple[str, str, int]:
        """One picture: its address, its alternative text and its width."""
        values = {c.name: c.values[i] for c, i in zip(controls, index)}
        fig = draw(**values)
        if not isinstance(fig, Figure):
            kind = type(fig).__name__
            raise TypeError(f"explore: {draw.__name__} must return a Matplotlib figure, not {kind}")
        text = plots.check_alt(alt(**values) if callable(alt) else alt)
        width = plots.css_width(fig)
        picture = plots.rasterise(fig, 1.5 if static else plots.RETINA)
        digest = hashlib.sha256(picture.tobytes()).hexdigest()
        if digest not in pictures:
            pictures[digest] = plots.encode(picture)
        return pictures[digest], text, width

    static = os.environ.get(STATIC) == "1"
    if static:
        from IPython.display import HTML, display

        display(HTML(_player(controls, start, frame)))
    else:
        _live(controls, start, frame)


def _start(draw: Callable[..., Figure], choice: _Choice) -> int:
    parameter = inspect.signature(draw).parameters.get(choice.name)
    if parameter is None or parameter.default is inspect.Parameter.empty:
        return 0
    for i, value in enumerate(choice.values):
        close = isinstance(value, float) and np.isclose(value, parameter.default)
        if close or value == parameter.default:
            return i
    return 0


def _live(controls: list[_Choice], start: list[int], frame: Callable) -> None:
    """ipywidgets: a plain subset that versions 7 and 8 share."""
    import ipywidgets
    from IPython.display import display

    style = {"description_width": "initial"}
    boxes = {}
    for c, i in zip(controls, start):
        if c.kind == "checkbox":
            boxes[c.name] = ipywidgets.Checkbox(value=bool(i), description=c.label, indent=False)
            continue
        kind = ipywidgets.SelectionSlider if c.kind == "slider" else ipywidgets.Dropdown
        options = [(text, k) for k, text in enumerate(c.texts)]
        boxes[c.name] = kind(options=options, value=i, description=c.label, style=style)
        if c.kind == "slider":
            boxes[c.name].continuous_update = False  # a slow `draw` would lag behind the hand

    picture, seen = ipywidgets.HTML(), {}

    def update(_=None) -> None:
        index = tuple(int(box.value) for box in boxes.values())
        if index not in seen:
            seen[index] = frame(*index)
        src, text, width = seen[index]
        picture.value = plots.img_tag(src, text, width) + f"<div>{html.escape(text)}</div>"

    for box in boxes.values():
        box.observe(update, names="value")
    update()
    display(ipywidgets.VBox([*boxes.values(), picture]))


def _player(controls: list[_Choice], start: list[int], frame: Callable) -> str:
    """Every combination drawn, and the HTML that shows the one asked for."""
    source_numbers: dict[str, int] = {}
    text_numbers: dict[str, int] = {}
    show: list[tuple[int, int]] = []  # for each combination: which picture, which text
    width = 0
    for index in itertools.product(*(range(len(c.values)) for c in controls)):
        src, text, width = frame(*index)
        source_number = source_numbers.setdefault(src, len(source_numbers))
        show.append((source_number, text_numbers.setdefault(text, len(text_numbers))))
    sources, texts = list(source_numbers), list(text_numbers)

    sizes = [len(c.values) for c in controls]
    first, first_text = show[int(np.ravel_multi_index(start, sizes))]
    # Unique on the page (the counter) and across pages that are put together (the pictures' digest).
    digest = hashlib.sha256("".join(sources + texts).encode()).hexdigest()[:8]
    uid = f"attnad-{next(_counter)}-{digest}"
    rows = "".join(_control(c, i, f"{uid}-{c.name}") for c, i in zip(controls, start))
    picture = plots.img_tag(sources[first], texts[first_text], width)
    # The picture shown first is in the page already, for readers without JavaScript.
    frames = ["" if i == first else src for i, src in enumerate(sources)]
    data = json.dumps({"frames": frames, "first": first, "texts": texts, "show": show, "sizes": sizes})
    data = data.replace("<", "\\u003c")  # a text may not end the script
    return _PAGE.format(uid=uid, rows=rows, picture=picture, text=html.escape(texts[first_text]), data=data)


def _control(choice: _Choice, index: int, uid: str) -> str:
    label, now = html.escape(choice.label), html.escape(choice.texts[index])
    texts = html.escape(json.dumps(choice.texts), quote=True)
    if choice.kind == "checkbox":
        checked = " checked" if index else ""
        control = f'<input type="checkbox" id="{uid}"{checked}>'
    elif choice.kind == "slider":
        control = (
            f'<input type="range" id="{uid}" min="0" max="{len(choice.values) - 1}" step="1" '
            f'value="{index}" data-texts="{texts}" aria-valuetext="{now}" autocomplete="off">'
            f'<output for="{uid}">{now}</output>'
        )
    else:
        options = "".join(
            f'<option value="{k}"{" selected" if k == index else ""}>{html.escape(text)}</option>'
            for k, text in enumerate(choice.texts)
        )
        control = f'<select id="{uid}" autocomplete="off">{options}</select>'
    return f'<div class="attnad-row"><label for="{uid}">{label}</label>{control}</div>'


_PAGE = """<figure class="attnad-player" id="{uid}">
<style>
.attnad-player {{
  margin: 1em 0; padding: .8em; border: 1px solid rgba(128,128,128,.45); border-radius: 8px; }}
.attnad-player .attnad-row {{
  display: flex; flex-wrap: wrap; align-items: center; gap: .3em .8em; margin: 0 0 .6em; }}
.attnad-player label {{ min-width: 8em; margin: 0; font-weight: 600; }}
.attnad-player input[type=range] {{ flex: 1 1 12em; min-width: 0; height: 2em; accent-color: #0072B2; }}
.attnad-player input[type=checkbox] {{ width: 1.3em; height: 1.3em; accent-color: #0072B2; }}
.attnad-player select {{ font: inherit; padding: .2em .4em; max-width: 100%; }}
.attnad-player output {{ min-width: 4em; font-variant-numeric: tabular-nums; }}
.attnad-player :focus-visible {{ outline: 3px solid #E69F00; outline-offset: 2px; }}
.attnad-player figcaption {{ margin-top: .5em; font-size: .92em; min-height: 2.8em;
  color: var(--pst-color-text-base, inherit) !important; text-align: left; }}
</style>
<div role="group" aria-label="Controls of the picture below">{rows}</div>
{picture}
<figcaption aria-live="polite">{text}</figcaption>
<noscript><p>The controls need JavaScript; this is the first picture.</p></noscript>
<script>
(function () {{
  const data = {data};
  const root = document.getElementById("{uid}");
  const image = root.querySelector("img"), caption = root.querySelector("figcaption");
  const controls = Array.from(root.querySelectorAll("input, select"));
  data.frames[data.first] = image.src;
  function update() {{
    let k = 0;
    controls.forEach(function (c, i) {{
      const v = c.type === "checkbox" ? Number(c.checked) : Number(c.value);
      if (c.type === "range") {{
        const text = JSON.parse(c.dataset.texts)[v];
        c.setAttribute("aria-valuetext", text);
        c.nextElementSibling.textContent = text;
      }}
      k = k * data.sizes[i] + v;
    }});
    const frame = data.show[k][0], text = data.texts[data.show[k][1]];
    image.src = data.frames[frame];
    image.alt = text;
    if (caption.textContent !== text) caption.textContent = text;
  }}
  controls.forEach(function (c) {{ c.addEventListener("input", update); }});
}})();
</script>
</figure>"""
