"""Pages of text, figures and tables as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape


@dataclass(frozen=True)
class Fact:
    """One number that a reader should take away."""

    value: str  # The number as it is to be read
    unit: str
    label: str  # What it is
    note: str = ""  # What to compare it with

    def html(self) -> str:
        """Write it as an item of a list."""
        unit = f' <span class="unit">{escape(self.unit)}</span>' if self.unit else ""
        return (
            f'<li><span class="label">{escape(self.label)}</span>'
            f'<span class="value">{escape(self.value)}{unit}</span>'
            f'<span class="note">{escape(self.note)}</span></li>'
        )


@dataclass(frozen=True)
class Figure:
    """A plot with the words that explain it."""

    svg: str  # An inline ``<svg>`` element that carries its own alternative text
    title: str  # What the plot is
    caption: str  # How to read it
    wide: bool = False  # True gives it the whole width of the page

    def html(self) -> str:
        """Write the plot between its title and its caption."""
        css = ' class="wide"' if self.wide else ""
        return (
            f"<figure{css}><h3>{escape(self.title)}</h3>{self.svg}"
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )


@dataclass(frozen=True)
class Table:
    """A table of numbers."""

    caption: str  # What the numbers are, with units
    groups: Sequence[tuple[str, int]]  # Headings over neighbouring columns: (text, number of columns)
    head: Sequence[str]  # Column titles; the first column holds names
    rows: Sequence[Sequence[str]]  # Cells as text
    marked: Sequence[int] = ()  # Rows to stress

    def html(self) -> str:
        """Write the table with its headings."""
        groups = "".join(
            (f'<th scope="colgroup" colspan="{span}">{escape(text)}</th>' if text else f'<td colspan="{span}"></td>')
            for text, span in self.groups
        )
        head = "".join(f'<th scope="col">{escape(text)}</th>' for text in self.head)
        rows = "".join(
            f"<tr{' class=marked' if number in self.marked else ''}>"
            f'<th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
            for number, row in enumerate(self.rows)
        )
        return (
            f'<div class="table"><table><caption>{escape(self.caption)}</caption>'
            f'<thead><tr class="groups">{groups}</tr><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        )


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, a few sentences, then figures or tables."""

    title: str  # Heading
    text: str
    blocks: Sequence[Figure | Table] = ()  # Figures stand side by side, two to a row unless wide
    # Name and value pairs, set as a list of definitions below the blocks
    details: Sequence[tuple[str, str]] = field(default_factory=tuple)

    def html(self, number: int) -> str:
        """Write the part under its number."""
        figures = [block.html() for block in self.blocks if isinstance(block, Figure)]
        tables = [block.html() for block in self.blocks if isinstance(block, Table)]
        details = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in self.details)
        parts = [
            f'<section aria-labelledby="s{number}">',
            (f'<h2 id="s{number}"><span class="number" aria-hidden="true">{number}</span>{escape(self.title)}</h2>'),
            f'<p class="text">{escape(self.text)}</p>',
            f'<div class="figures">{"".join(figures)}</div>' if figures else "",
            *tables,
            f"<dl>{details}</dl>" if details else "",
            "</section>",
        ]
        return "\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Page:
    """A whole report."""

    kicker: str  # The line above the title
    title: str
    lead: str
    facts: Sequence[Fact]  # The few numbers to take away
    sections: Sequence[Section]  # The body, in order
    footer: str  # Where the page comes from


def render(page: Page) -> str:
    """Write a page as HTML: no scripts, no links to other files."""
    body = "\n".join(
        [
            "<header>",
            f'<p class="kicker">{escape(page.kicker)}</p>',
            f"<h1>{escape(page.title)}</h1>",
            f'<p class="lead">{escape(page.lead)}</p>',
            "</header>",
            '<ul class="facts">',
            *(fact.html() for fact in page.facts),
            "</ul>",
            *(section.html(number) for number, section in enumerate(page.sections, start=1)),
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


CSS = """
:root { --ink: #1d2329; --quiet: #5d6770; --hair: #e2dfd7; --paper: #f7f5f0; --card: #fffefb; --accent:
  #b93d15; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 56px 32px 72px; }
header { max-width: 860px; }
.kicker { margin: 0 0 14px; color: var(--accent); font-size: 14px; font-weight: 600; letter-spacing: .04em; }
h1, h2 { font-family: "Iowan Old Style", "Palatino Linotype", Palatino, "URW Palladio L", Georgia,
  "Liberation Serif", serif;
  font-weight: 600; text-wrap: balance; }
h1 { margin: 0 0 18px; font-size: clamp(32px, 5vw, 50px); line-height: 1.08; letter-spacing: -.015em; }
.lead { margin: 0; font-size: 20px; line-height: 1.5; color: #343c44; text-wrap: pretty; }
.facts { list-style: none; display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 0;
  margin: 44px 0 0; padding: 0; border-top: 2px solid var(--ink); border-bottom: 1px solid var(--hair); }
.facts li { padding: 18px 20px 20px; border-left: 1px solid var(--hair); display: flex; flex-direction:
  column; }
.facts li:first-child { border-left: 0; padding-left: 0; }
.facts .label { font-size: 14px; font-weight: 600; }
.facts .value { font-size: 33px; white-space: nowrap; font-weight: 650; letter-spacing: -.02em; line-height:
  1.25; color:
  var(--accent);
  font-variant-numeric: tabular-nums; }
.facts .unit { font-size: 16px; font-weight: 500; letter-spacing: 0; color: var(--quiet); }
.facts .note { font-size: 14px; line-height: 1.4; color: var(--quiet); }
section { margin-top: 64px; }
h2 { margin: 0 0 10px; font-size: 30px; line-height: 1.2; }
h2 .number { display: inline-block; min-width: 1.15em; color: var(--accent); }
.text { max-width: 760px; margin: 0 0 24px; text-wrap: pretty; }
.figures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 24px; }
figure { margin: 0; padding: 20px 22px 18px; background: var(--card); border: 1px solid var(--hair);
  border-radius: 6px;
  display: flex; flex-direction: column; }
figure.wide { grid-column: 1 / -1; }
figure h3 { margin: 0 0 10px; font-size: 17px; line-height: 1.3; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; margin: auto 0; }
figcaption { margin-top: 12px; padding-top: 10px; border-top: 1px solid var(--hair); font-size: 15px;
  line-height: 1.5;
  color: var(--quiet); }
figure.wide figcaption { max-width: none; }
.table { margin-top: 24px; overflow-x: auto; background: var(--card); border: 1px solid var(--hair);
  border-radius: 6px;
  padding: 6px 22px 10px; }
table { width: 100%; border-collapse: collapse; font-size: 15px; font-variant-numeric: tabular-nums
  lining-nums; }
caption { caption-side: bottom; padding: 12px 0 8px; text-align: left; color: var(--quiet); font-size: 15px; }
th, td { padding: 8px 10px; text-align: right; white-space: nowrap; }
tbody th, thead th:first-child { text-align: left; padding-left: 0; }
tbody th { font-weight: 500; }
thead th { font-size: 14px; font-weight: 600; color: var(--quiet); border-bottom: 1.5px solid var(--ink); }
thead .groups th { border-bottom: 1px solid var(--hair); text-align: center; padding-bottom: 4px; color:
  var(--ink); }
tbody tr + tr > * { border-top: 1px solid var(--hair); }
tr.marked > * { color: var(--accent); font-weight: 650; }
dl { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 40px; margin: 0; border-top: 1px
  solid var(--hair); }
dl div { padding: 10px 0; border-bottom: 1px solid var(--hair); }
dt { font-size: 14px; color: var(--quiet); }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
footer { margin-top: 64px; padding-top: 16px; border-top: 1px solid var(--hair); color: var(--quiet);
  font-size: 14px; }
@media (max-width: 760px) {
  main { padding: 32px 18px 48px; }
  .figures, dl { grid-template-columns: minmax(0, 1fr); }
  figure { padding: 16px 14px; }
  .facts li { border-left: 0; border-top: 1px solid var(--hair); padding-left: 0; }
}
@media print { body { background: #fff; } figure, .table { break-inside: avoid; } main { padding: 0; } }
"""
"""One style sheet: light, no script, no font to fetch."""
