"""The report of a run: `report.md`, and made from the same text `report.html`, a single file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import mimetypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markdown import Markdown

from lwd.files import write_text
from lwd.report import tables
from lwd.report.tables import Table

SYNTHETIC = (
    "The demonstrations behind these numbers are synthetic: a script made them, no human did. "
    "Scores on them do not compare with scores on human demonstrations."
)
NOT_TEXT = ("html", "entity", "link", "reference", "short_reference", "image_link", "image_reference", "short_image_ref", "autolink")
STYLE = """
:root { color-scheme: light dark; --soft: #68727d; --line: #8886; --card: #8881; }
body { max-width: 1180px; margin: 0 auto; padding: 2rem 1.25rem; font: 16px/1.55 system-ui, sans-serif; }
h2 { font-size: 1.2rem; margin-top: 2.5rem; } p, li { max-width: 76ch; }
code { background: var(--card); padding: .1em .35em; border-radius: 4px; overflow-wrap: anywhere; }
blockquote { background: var(--card); border-left: 4px solid #e69f00; padding: .2rem 1rem; margin: 1.25rem 0; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th, figcaption, table + p { color: var(--soft); font-size: .9rem; }
figure { display: inline-block; vertical-align: top; width: min(100%, 35rem); margin: 0 1rem 1rem 0; }
figure.gif { width: 14rem; } figure.wide { width: 100%; } img { width: 100%; background: #fff; }
"""


@dataclass(frozen=True)
class Picture:
    """An image with its title, and a caption that says how to read it. A `wide` one gets the whole width."""

    path: Path
    title: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Content:
    """What both forms of the report show. Text may hold `code` in backticks and **bold**; a blank line begins a paragraph."""

    title: str
    intro: str  # what was done and what came out, in a few sentences
    tables: Sequence[Table] = ()
    figures: Sequence[Picture] = ()
    videos: Sequence[Picture] = ()
    steps: Sequence[str] = ()  # what to do next, a sentence each
    notes: Sequence[str] = ()  # what a reader should know before believing the numbers
    facts: Mapping[str, str] = field(default_factory=dict)  # how this was made: command, hardware, seeds, data, versions

    def blocks(self) -> list[str | Picture]:
        """The report from top to bottom: pictures, and text in Markdown. Where a script made the demonstrations, it says so at the top."""
        synthetic = any("synthetic" in value.lower() for value in self.facts.values())
        blocks: list[str | Picture] = [f"# {self.title}", self.intro, *([f"> **Note.** {SYNTHETIC}"] if synthetic else [])]
        for table in self.tables:
            blocks += [f"## {table.title}", tables.markdown(table)]
        facts = [f"{key}: {value}" for key, value in self.facts.items()]
        for heading, pictures in (("Episodes", self.videos), ("Figures", self.figures)):
            blocks += [f"## {heading}", *pictures] if pictures else []
        for heading, lines in (("What to do next", self.steps), ("How this was made", facts), ("Notes", self.notes)):
            blocks += [f"## {heading}", "\n".join(f"* {line}" for line in lines)] if lines else []
        return blocks


def write_report(directory: Path, content: Content) -> Path:
    """Writes `report.html` and `report.md` to a directory, which is made if it is missing. Returns the path of `report.html`."""
    write_text(directory / "report.md", markdown(directory, content))
    renderer = Markdown(extensions=["tables"])
    renderer.preprocessors.deregister("html_block")
    for name in NOT_TEXT:  # what a data file says about itself must not become a link or a tag
        renderer.inlinePatterns.deregister(name)
    body = []
    for block in content.blocks():
        if isinstance(block, Picture):
            title, kind = html.escape(block.title), "wide" if block.wide else block.path.suffix[1:]
            source = f"data:{mimetypes.guess_type(block.path)[0]};base64,{base64.b64encode(block.path.read_bytes()).decode()}"
            text = f"<figcaption><b>{title}.</b> {html.escape(block.caption)}</figcaption>"
            body.append(f'<figure class="{kind}"><img src="{source}" alt="{title}">{text}</figure>')
        else:
            body.append(renderer.convert(block))
    head = f'<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n<title>{html.escape(content.title)}</title>'
    page = "\n".join(["<!doctype html>", '<html lang="en">', head, f"<style>{STYLE}</style>", *body, "</html>\n"])
    write_text(directory / "report.html", page)
    return directory / "report.html"


def markdown(directory: Path, content: Content) -> str:
    """The text of `report.md`; pictures are links relative to the directory."""
    lines = []
    for block in content.blocks():
        if isinstance(block, Picture):
            path = Path(os.path.relpath(block.path.resolve(), directory.resolve())).as_posix().replace(" ", "%20")
            block = f"![{block.title}]({path})\n\n" + f"**{block.title}.** {block.caption}".strip()
        lines.append(block)
    return "\n\n".join(lines) + "\n"
