"""A lineage as a picture: SVG, ancestors to the left, descendants to the right. Pure."""

from __future__ import annotations

from base64 import b64encode
from html import escape

from agents.registry.lineage import Lineage

WIDTH, HEIGHT = 210, 44
GAP_X, GAP_Y, MARGIN = 60, 12, 12
_STYLE = """
text{font:12px system-ui,sans-serif;fill:#1f2937}.k{font-size:10px;fill:#6b7280}rect{fill:#fff;stroke:#9ca3af}
.version rect{fill:#eff6ff;stroke:#3b82f6}.live rect{fill:#ecfdf5;stroke:#059669;stroke-width:2}
.flagged rect{stroke:#dc2626;stroke-dasharray:4 3}.of rect{stroke-width:2.5}path{fill:none;stroke:#9ca3af}
@media(prefers-color-scheme:dark){text{fill:#e5e7eb}.k{fill:#9ca3af}rect{fill:#111827;stroke:#6b7280}
.version rect{fill:#172554}.live rect{fill:#052e16}}
"""


def data_url(lineage: Lineage) -> str:
    """The picture within a page."""
    return f"data:image/svg+xml;base64,{b64encode(svg(lineage).encode()).decode()}"


def svg(lineage: Lineage) -> str:
    """The picture. Every label is escaped: names are users'."""
    columns: dict[int, list[str]] = {}
    for name, depth in lineage.depth.items():
        columns.setdefault(depth, []).append(name)
    first = min(columns)
    tallest = max(len(names) for names in columns.values())
    height = 2 * MARGIN + tallest * (HEIGHT + GAP_Y) - GAP_Y
    width = 2 * MARGIN + (max(columns) - first + 1) * (WIDTH + GAP_X) - GAP_X
    at: dict[str, tuple[float, float]] = {}
    for depth, names in columns.items():
        top = (height - len(names) * (HEIGHT + GAP_Y) + GAP_Y) / 2
        for row, name in enumerate(names):
            at[name] = (MARGIN + (depth - first) * (WIDTH + GAP_X), top + row * (HEIGHT + GAP_Y))
    lines = []
    for edge in lineage.edges:
        (x1, y1), (x2, y2) = at[edge.source], at[edge.target]
        x1, y1, y2 = x1 + WIDTH, y1 + HEIGHT / 2, y2 + HEIGHT / 2
        bend = (x2 - x1) / 2
        curve = f"M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"
        lines.append(f'<path d="{curve}"><title>{escape(edge.relation)}</title></path>')
    for node in lineage.nodes:
        x, y = at[node.id]
        classes = [node.kind, *["live"] * node.live, *["flagged"] * node.flagged, *["of"] * (node.id == lineage.of.id)]
        said = " · champion" * node.live + " · faulty" * node.flagged
        label = node.label if len(node.label) <= 30 else node.label[:29] + "…"
        lines.append(
            f'<g class="{" ".join(classes)}" transform="translate({x:g} {y:g})"><title>{escape(node.id)}</title>'
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
            f'<text class="k" x="10" y="16">{escape(node.kind)}{said}</text>'
            f'<text x="10" y="33">{escape(label)}</text></g>'
        )
    title = escape(f"Lineage of {lineage.of.label}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{title}"><style>{_STYLE.strip()}</style>{"".join(lines)}</svg>\n'
    )
