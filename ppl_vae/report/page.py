"""The report as one page that needs nothing but itself, from the templates in `templates/`."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from ppl_vae.report.section import Section

__all__ = ["number", "page", "rendered"]


def page(
    title: str,
    facts: Sequence[str],
    verdict: str,
    sections: Sequence[Section],
    how: str,
    split: str,
) -> str:
    """One HTML page: pictures inlined, no script, nothing from a network.

    `how` is how the images were chosen from the `split`: any other way than `random` gets a
    warning.
    """
    return _template("page").render(
        title=title, facts=facts, verdict=verdict, sections=sections, how=how, split=split
    )


def rendered(section: Section, **values: Any) -> str:
    """The template of a section, filled in with its numbers, facts and pictures.

    All templates take the values `log_p`, `x`, `which` and `split` beside those.
    """
    context = {**values, **section.numbers, **section.facts, "pictures": section.pictures}
    return _template(section.name).render(context)


def number(value: float | None, digits: int = 2) -> str:
    """A number for people, with a true minus sign; a dash where there is none."""
    if value is None or value != value:
        return "–"
    value = round(float(value), digits) + 0.0  # no -0.00
    return f"{value:,.{digits}f}".replace("inf", "∞").replace("-", "\u2212")


def _counted(count: int, noun: str = "image") -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "counted": _counted}
    return environment


def _template(name: str) -> jinja2.Template:
    return _environment().get_template(f"{name}.html.jinja")
