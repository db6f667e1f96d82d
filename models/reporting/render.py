"""Render the content of a report as one self-contained HTML page, or as Markdown beside its pictures."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template

from pipeline.store.atomic_write import write_whole
from pipeline.text import table

PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Text:
    """A paragraph; a `lead` one is set larger."""

    text: str
    lead: bool = False


@dataclass(frozen=True)
class Facts:
    """The most important numbers, (what, how much), shown side by side."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table of text cells; the first column holds the names of the rows."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG with a title and a caption that says how to read it; pictures that are not `wide` stand side by side."""

    title: str
    caption: str
    png: bytes
    wide: bool = True


@dataclass(frozen=True)
class Folded:
    """Text in a fixed pitch, folded until it is clicked."""

    title: str
    text: str


Block = Text | Facts | Table | Picture | Folded


@dataclass(frozen=True)
class Section:
    """A heading and its blocks; a section with an empty title has no heading."""

    title: str
    blocks: Sequence[Block]


def html(title: str, sections: Sequence[Section]) -> str:
    """One page with its pictures inside, and a content policy that forbids the browser to fetch anything.

    html("semi_mae:digits", [Section("", [Text("It was trained.", lead=True)])])
    """
    body = []
    for section in sections:
        body += [f"<h2>{escape(section.title)}</h2>"] if section.title else []
        for narrow, blocks in groupby(section.blocks, lambda block: isinstance(block, Picture) and not block.wide):
            inside = [_html(block) for block in blocks]
            body += ['<div class="grid">', *inside, "</div>"] if narrow else inside
    return Template(PAGE.read_text()).substitute(title=escape(title), body="\n".join(body))


def markdown(title: str, sections: Sequence[Section], pictures: Path) -> str:
    """The sections in Markdown. Their pictures are written to the folder `pictures`, to stand beside the Markdown file;
    pictures that an earlier report left there are removed.
    """
    pictures.mkdir(parents=True, exist_ok=True)
    lines, count, before = [f"# {title}", ""], 0, set(pictures.glob("[0-9][0-9]-*.png"))
    for section in sections:
        lines += [f"## {section.title}", ""] if section.title else []
        for block in section.blocks:
            if isinstance(block, Picture):
                count += 1
                path = pictures / f"{count:02d}-{re.sub(r'[^a-z0-9]+', '-', block.title.lower()).strip('-')}.png"
                write_whole(path, block.png)
                before.discard(path)
                caption = f"**{block.title}.** {block.caption}"
                lines += [caption, "", f"![{block.title}]({pictures.name}/{path.name})", ""]
            else:
                lines += [*_markdown(block), ""]
    for path in before:
        path.unlink()
    return "\n".join(lines)


def _html(block: Block) -> str:
    match block:
        case Text(text, lead):
            kind = ' class="lead"' if lead else ""
            return f"<p{kind}>{escape(text)}</p>"
        case Facts(items):
            cells = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in items)
            return f'<dl class="facts">{"".join(cells)}</dl>'
        case Table(head, rows):
            made = [_row("th", head), *(_row("td", row) for row in rows)]
            return f'<div class="scroll"><table>{"".join(made)}</table></div>'
        case Picture(title, caption, png):
            source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
            caption_html = f"<figcaption><b>{escape(title)}</b> {escape(caption)}</figcaption>"
            return f'<figure>{caption_html}<img alt="{escape(title)}" src="{source}"></figure>'
        case Folded(title, text):
            return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def _row(cell: str, values: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{cell}>{escape(value)}</{cell}>" for value in values) + "</tr>"


def _markdown(block: Text | Facts | Table | Folded) -> list[str]:
    match block:
        case Text(text):
            return [text]
        case Facts(items):
            return _markdown(Table(("", ""), items))
        case Table(head, rows):
            return table([head, *rows]).splitlines()
        case Folded(title, text):
            return [f"<details><summary>{escape(title)}</summary>", "", "```", text, "```", "", "</details>"]
