"""The report as one page that needs nothing but itself."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape

from ppl_vae.report.section import Picture, Section, Table

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto;
       max-width: 62rem; padding: 1.5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .6rem; border-top: 1px solid #ddd; padding-top: 1.4rem; }
p { max-width: 46rem; margin: .5rem 0; }
.facts, figcaption, .time { color: #666; font-size: .9rem; }
nav ol { padding-left: 1.4rem; columns: 2; }
nav a { color: #0072b2; text-decoration: none; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .92rem;
        font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
caption { text-align: left; color: #666; padding-bottom: .3rem; }
th, td { padding: .2rem .9rem .2rem 0; text-align: right; border-bottom: 1px solid #eee;
         white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 1px solid #999; font-weight: 600; }
figure { margin: 1.4rem 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { max-width: 46rem; margin-top: .4rem; }
.unanswered { background: #f6f6f6; border-left: 4px solid #999; padding: .6rem 1rem; }
"""


def page(title: str, facts: Sequence[str], sections: Sequence[Section]) -> str:
    """One HTML page: pictures inlined, no script, nothing from a network.

    Args:
        title: The head.
        facts: What was looked at, one line each.
        sections: The answers, in order.
    """
    entries = "\n".join(
        f'<li><a href="#{section.name}">{escape(section.question)}</a></li>' for section in sections
    )
    lines = "<br>\n".join(escape(fact) for fact in facts)
    body = "\n".join(_section(number, section) for number, section in enumerate(sections, 1))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="facts">{lines}</p>\n'
        f"<nav><ol>\n{entries}\n</ol></nav>\n{body}\n</body>\n</html>\n"
    )


def _section(number: int, section: Section) -> str:
    parts = [f'<section id="{section.name}">\n<h2>{number}. {escape(section.question)}</h2>']
    if section.unanswered is not None:
        parts.append(f'<p class="unanswered">Not answered: {escape(section.unanswered)}.</p>')
    parts += [f"<p>{escape(paragraph)}</p>" for paragraph in section.text]
    parts += [_table(table) for table in section.tables]
    parts += [_picture(picture) for picture in section.pictures]
    parts.append(f'<p class="time">{section.seconds:.1f} seconds</p>\n</section>')
    return "\n".join(parts)


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return (
        f"<table>\n<caption>{escape(table.caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody>\n</table>"
    )


def _picture(picture: Picture) -> str:
    source = f"data:image/png;base64,{b64encode(picture.png).decode()}"
    caption = escape(picture.caption)
    return (
        f'<figure><img src="{source}" alt="{caption}" width="{picture.width}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
