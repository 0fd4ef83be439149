"""Small line charts as SVG, drawn here so that the report is one file without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 260, 56, 16, 16, 30
COLOURS = ("#2563eb", "#d97706", "#059669", "#db2777")


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    ticks: Sequence[tuple[float, str]],
    marks: Sequence[tuple[float, str]] = (),
    bands: Sequence[tuple[float, float, str]] = (),
) -> str:
    """An SVG line chart.

    Parameters
    ----------
    series : mapping of name to (x, y) points
        Drawn in order; empty series are left out.
    title : str
        Read by screen readers.
    ticks : sequence of (x, text)
        Labels of the x axis.
    marks : sequence of (x, text)
        Vertical lines (swaps) with a tooltip.
    bands : sequence of (x from, x to, text)
        Stretches that are shaded (incidents), with a tooltip.
    """
    points = [p for values in series.values() for p in values]
    if not points:
        return f"<p>{escape(title)}: no data</p>"
    x0, x1 = min(p[0] for p in points), max(p[0] for p in points)
    y0, y1 = min(p[1] for p in points), max(p[1] for p in points)
    pad = (y1 - y0) * 0.08 or 0.05
    y0, y1 = y0 - pad, y1 + pad

    def sx(x: float) -> float:
        return LEFT + (x - x0) / ((x1 - x0) or 1) * (WIDTH - LEFT - RIGHT)

    def sy(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for begin, end, text in bands:
        left, right = sx(min(max(begin, x0), x1)), sx(min(max(end, x0), x1))
        parts.append(
            f'<rect class="band" x="{left:.1f}" width="{max(right - left, 1.5):.1f}" y="{TOP}" '
            f'height="{HEIGHT - TOP - BOTTOM}"><title>{escape(text)}</title></rect>'
        )
    for step in range(5):
        y = y0 + (y1 - y0) * step / 4
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{sy(y):.1f}" y2="{sy(y):.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{sy(y) + 4:.1f}" text-anchor="end">{y:.3f}</text>')
    for x, text in ticks:
        if x0 <= x <= x1:
            parts.append(
                f'<text class="tick" x="{sx(x):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(text)}</text>'
            )
    for x, text in marks:
        if x0 <= x <= x1:
            parts.append(
                f'<line class="mark" x1="{sx(x):.1f}" x2="{sx(x):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
                f"<title>{escape(text)}</title></line>"
            )
    for values, colour in zip(series.values(), COLOURS, strict=False):
        if values:
            path = " ".join(f"{sx(x):.1f},{sy(y):.1f}" for x, y in values)
            parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" points="{path}"/>')
    legend = "".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in zip(series, COLOURS, strict=False)
    )
    return f"<figure><figcaption>{escape(title)} {legend}</figcaption>{''.join(parts)}</svg></figure>"
