"""Pages of text, figures and tables as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from kernelpot.report.style import CSS


@dataclass(frozen=True)
class Fact:
    """One number that a reader should take away.

    Attributes
    ----------
    value, unit
        The number as it is to be read, and its unit.
    label
        What it is.
    note
        What to compare it with.
    """

    value: str
    unit: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A plot with the words that explain it.

    Attributes
    ----------
    svg
        An inline ``<svg>`` element that carries its own alternative text.
    title
        What the plot is.
    caption
        How to read it.
    wide
        True gives it the whole width of the page.
    """

    svg: str
    title: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table of numbers.

    Attributes
    ----------
    caption
        What the numbers are, with units.
    groups
        Headings over neighbouring columns: (text, number of columns).
    head
        Column titles; the first column holds names.
    rows
        Cells as text.
    marked
        Rows to stress.
    """

    caption: str
    groups: Sequence[tuple[str, int]]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: Sequence[int] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, a few sentences, then figures or tables.

    Attributes
    ----------
    title, text
        Heading and introduction.
    blocks
        Figures stand side by side, two to a row unless wide.
    details
        Name and value pairs, set as a list of definitions below the blocks.
    """

    title: str
    text: str
    blocks: Sequence[Figure | Table] = ()
    details: Sequence[tuple[str, str]] = field(default_factory=tuple)


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes
    ----------
    kicker, title, lead
        The line above the title, the title, the paragraph below.
    facts
        The few numbers to take away.
    sections
        The body, in order.
    footer
        Where the page comes from.
    """

    kicker: str
    title: str
    lead: str
    facts: Sequence[Fact]
    sections: Sequence[Section]
    footer: str


def render(page: Page) -> str:
    """Write a page as HTML: no scripts, no links to other files.

    Parameters
    ----------
    page
        Text is escaped; the figures' SVG goes in as it is.
    """
    body = "\n".join(
        [
            "<header>",
            f'<p class="kicker">{escape(page.kicker)}</p>',
            f"<h1>{escape(page.title)}</h1>",
            f'<p class="lead">{escape(page.lead)}</p>',
            "</header>",
            '<ul class="facts">',
            *(_fact(fact) for fact in page.facts),
            "</ul>",
            *(_section(section, number) for number, section in enumerate(page.sections, start=1)),
            f"<footer>{escape(page.footer)}</footer>",
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(page.title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _fact(fact: Fact) -> str:
    unit = f' <span class="unit">{escape(fact.unit)}</span>' if fact.unit else ""
    return (
        f'<li><span class="label">{escape(fact.label)}</span>'
        f'<span class="value">{escape(fact.value)}{unit}</span>'
        f'<span class="note">{escape(fact.note)}</span></li>'
    )


def _section(section: Section, number: int) -> str:
    figures = [_figure(block) for block in section.blocks if isinstance(block, Figure)]
    tables = [_table(block) for block in section.blocks if isinstance(block, Table)]
    details = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in section.details)
    parts = [
        f'<section aria-labelledby="s{number}">',
        (f'<h2 id="s{number}"><span class="number" aria-hidden="true">{number}</span>{escape(section.title)}</h2>'),
        f'<p class="text">{escape(section.text)}</p>',
        f'<div class="figures">{"".join(figures)}</div>' if figures else "",
        *tables,
        f"<dl>{details}</dl>" if details else "",
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _figure(figure: Figure) -> str:
    css = ' class="wide"' if figure.wide else ""
    return (
        f"<figure{css}><h3>{escape(figure.title)}</h3>{figure.svg}"
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    groups = "".join(
        (f'<th scope="colgroup" colspan="{span}">{escape(text)}</th>' if text else f'<td colspan="{span}"></td>')
        for text, span in table.groups
    )
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.head)
    rows = "".join(
        f"<tr{' class=marked' if number in table.marked else ''}>"
        f'<th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for number, row in enumerate(table.rows)
    )
    return (
        f'<div class="table"><table><caption>{escape(table.caption)}</caption>'
        f'<thead><tr class="groups">{groups}</tr><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
