"""Small charts as inline SVG: no script, no font, no file; colours come from the page's CSS variables.

`--ink` is text, `--muted` secondary text, `--grid` lines, `--bar` data, `--alert` data beyond a limit.
"""

import html
import math
from collections.abc import Sequence

import numpy as np

_WIDTH, _HEIGHT = 440, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 8, 10, 34
_MOST_POINTS = 240  # of a curve: about one a pixel


def bars(
    values: Sequence[float],
    title: str,
    *,
    axis: str,
    lines: Sequence[float] = (),
    limit: float = math.inf,
    tips: Sequence[str] | None = None,
) -> str:
    """One bar a layer, from zero.

    Args:
      values: one a layer; ones that are not finite have no bar.
      title: what a screen reader says.
      axis: label of the horizontal axis.
      lines: where to draw horizontal lines, besides zero; the axis reaches to each.
      limit: bars of larger magnitude are drawn in the colour of an alert.
      tips: text for each bar, shown under the pointer.
    """
    numbers = np.asarray(values, float)
    finite = numbers[np.isfinite(numbers)]
    low, high = min(0.0, *finite, *lines, 0.0), max(0.0, *finite, *lines, 0.0)
    high = high if high > low else low + 1
    low, high = low - 0.04 * (high - low) * (low < 0), high + 0.04 * (high - low)
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(numbers))

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts, labelled = [], []
    for value in sorted({0.0, *(lines or [max(finite, default=1.0)])}, key=lambda v: (v != 0, -abs(v))):
        free = all(abs(y(value) - other) > 11 for other in labelled)  # pixels; labels do not overlap
        labelled += [y(value)] if free else []
        kind = "zero" if value == 0 else "limit" if abs(value) >= limit else ""
        parts.append(_rule(y(value), f"{value:.3g}" if free else "", kind))
    for index, value in enumerate(numbers):
        x, every = _LEFT + index * step, math.ceil(len(numbers) / 12)
        if math.isfinite(value):
            top, tall = min(y(value), y(0)), abs(y(value) - y(0))
            tip = html.escape(tips[index] if tips else f"{index}: {value:.3g}")
            kind = "alert" if abs(value) > limit else "bar"
            parts.append(
                f'<rect class="{kind}" x="{x + step * 0.15:.1f}" y="{top:.1f}" width="{step * 0.7:.1f}" '
                f'height="{max(tall, 0.5):.1f}" rx="1.5"><title>{tip}</title></rect>'
            )
        if index % every == 0:
            parts.append(_text(x + step / 2, _HEIGHT - _BOTTOM + 14, str(index), "middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, axis, "middle"))
    return _svg(parts, title)


def curve(values: Sequence[float], title: str, *, axis: str = "step") -> str:
    """A line over steps, on a logarithmic scale where all values are positive; those not finite are left out."""
    numbers = np.asarray(values, float)
    steps = np.flatnonzero(np.isfinite(numbers))
    if not len(steps):
        return ""
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, min(_MOST_POINTS, len(steps))).astype(int))]
    shown = numbers[steps]
    logarithmic = shown.min() > 0
    heights = np.log10(shown) if logarithmic else shown
    low, span = heights.min(), np.ptp(heights) or 1.0
    last = max(1, len(numbers) - 1)
    xs = _LEFT + steps / last * (_WIDTH - _LEFT - _RIGHT)
    ys = _TOP + (1 - (heights - low) / span) * (_HEIGHT - _TOP - _BOTTOM)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    parts = [
        _rule(ys.min(), f"{shown.max():.3g}", ""),
        _rule(_HEIGHT - _BOTTOM, f"{shown.min():.3g}", ""),
        f'<polyline class="line" points="{points}"/>',
        _text(_LEFT, _HEIGHT - _BOTTOM + 14, "0", "middle"),
        _text(_WIDTH - _RIGHT, _HEIGHT - _BOTTOM + 14, str(len(numbers) - 1), "end"),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, axis + (", log scale" if logarithmic else ""), "middle"),
    ]
    return _svg(parts, title)


def _rule(y: float, label: str, kind: str) -> str:
    line = f'<line class="rule {kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + _text(_LEFT - 6, y + 4, label, "end")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _svg(parts: list[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )
