"""The report as one HTML file that needs nothing beside it."""

import base64
import html
import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from qsdt_jax.energy.report import Section

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24 }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .8rem; text-align: right }
td:first-child, th:first-child { text-align: left } tr { border-bottom: 1px solid #e3e6ea }
img { max-width: 100% } figure { margin: 2rem 0 } figcaption { color: #57606a } small { color: #57606a }
"""


def page(
    title: str,
    facts: Sequence[str],
    sections: Sequence[Section],
    figures: Mapping[str, Figure],
    conventions: str,
) -> str:
    """The report as HTML.

    Args:
      title: of the page.
      facts: where the numbers come from, a line each.
      sections: the numbers.
      figures: by their captions.
      conventions: text about the conventions.
    """
    pictures = [
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{_png(figure)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, figure in figures.items()
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>"
        f"<p>{'<br>'.join(map(html.escape, facts))}</p>"
        f"{''.join(map(_section, sections))}"
        f"{''.join(pictures)}<h2>Conventions</h2><pre>{html.escape(conventions)}</pre></html>\n"
    )


def _section(section: Section) -> str:
    heading, *rows = section.table
    table = f"<table>{_row('th', heading)}{''.join(_row('td', row) for row in rows)}</table>"
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in section.sentences)
    return f"{table}<ul>{lines}</ul>" if lines else table


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _png(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return base64.b64encode(stream.getvalue()).decode()
