"""Small pieces of HTML that every section of the page is made of."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from matplotlib.figure import Figure

from .svg import inline_svg

Record = Mapping[str, Any]
Runs = Mapping[str, Record]


class Figures:
    """Turns figures into captioned elements and numbers them, so that their ids differ."""

    def __init__(self) -> None:
        self._number = 0

    def __call__(self, figure: Figure, label: str, caption: str = "") -> str:
        """One figure; the label is for screen readers."""
        self._number += 1
        heading = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        return f"<figure>{heading}{inline_svg(figure, label, f'f{self._number}')}</figure>"


def document(title: str, header: str, sections: Iterable[str]) -> str:
    """A whole page with its style inside; title is text, header and sections are HTML."""
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>",
            f"<header>\n<h1>{escape(title)}</h1>\n{header}\n</header>",
            *(section for section in sections if section),
            "</main>\n</body>\n</html>\n",
        ]
    )


def section(title: str, note: str, *content: str) -> str:
    """A headed section with a lead in small print; empty if there is no content."""
    body = "\n".join(part for part in content if part)
    lead = f'<p class="note">{note}</p>\n' if note else ""
    return f"<section>\n<h2>{title}</h2>\n{lead}{body}\n</section>" if body else ""


def gallery(figures: Iterable[str], kind: str = "") -> str:
    """Figures in as many columns as fit."""
    inside = "\n".join(figures)
    return f'<div class="figures {kind}">\n{inside}\n</div>' if inside else ""


def picture(png: str, alt: str, caption: str = "", kind: str = "") -> str:
    """A PNG file in base64, with a text for screen readers, a caption in HTML and a CSS class."""
    start = f'<figure class="{kind}">' if kind else "<figure>"
    heading = f"<figcaption>{caption}</figcaption>" if caption else ""
    source = f"data:image/png;base64,{escape(png)}"
    return f'{start}{heading}<img alt="{escape(alt)}" src="{source}"></figure>'


def details(title: str, content: str) -> str:
    """A part that opens on a click; empty if there is no content."""
    return f"<details><summary>{escape(title)}</summary>\n{content}\n</details>" if content else ""


def table(head: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    """A table that scrolls in itself; rows are cells in HTML."""
    heading = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    top = f"<thead><tr>{heading}</tr></thead>\n" if head else ""
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{kind}">\n{top}<tbody>\n{body}\n</tbody></table></div>'


def number(value: float | None, digits: int | None = 3, dash: str = "\N{EN DASH}") -> str:
    """A number with so many decimals (None: four significant digits), or a dash where there is none."""
    return dash if value is None or math.isnan(value) else formatted(value, digits)


def duration(seconds: float) -> str:
    """Hours, minutes, seconds: the two that matter."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def per_run(runs: Runs, content: Callable[[Record], str]) -> str:
    """The content for each run, under the run's name if there are several."""
    parts = {name: inside for name, record in runs.items() if (inside := content(record))}
    return "\n".join(f"<h3>{escape(name)}</h3>\n{part}" if len(runs) > 1 else part for name, part in parts.items())


def formatted(value: float, digits: int | None) -> str:
    """A number with so many decimals, or with four significant digits."""
    if digits is None:
        size = math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0
        if not -4 <= size < 7:
            return f"{value:.3e}"
        digits = max(0, 3 - size)
    return f"{value:.{digits}f}"


def listed(items: Sequence[str]) -> str:
    """Names as an English list: commas, and `and` before the last."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + f" and {items[-1]}" if items else ""
