"""The report of a run: one self-contained `report.html` (nothing is loaded from elsewhere) and its twin `report.md`."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lwd.errors import LWDError
from lwd.files import write_text
from lwd.report import tables
from lwd.report.tables import Table, numeric

EMBED_MAX = 8_000_000  # bytes; a larger file is linked beside the report instead of carried inside
MIME = {".png": "image/png", ".jpg": "image/jpeg", ".gif": "image/gif", ".svg": "image/svg+xml"}
SYNTHETIC = (
    "The demonstrations behind these numbers are synthetic: a script made them, no human did. "
    "Scores on them do not compare with scores on human demonstrations."
)

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --soft: #59636e; --line: #d8dee4; --card: #f6f8fa; --accent: #0072b2;
  --warn: #fff4d6; --warn-line: #e69f00; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e6e9ec; --soft: #9aa4af; --line: #313840; --card: #1c2229;
  --accent: #56b4e9; --warn: #33290f; --warn-line: #e69f00; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .75rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .75rem; }
p { margin: 0 0 .75rem; max-width: 72ch; }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--card); padding: .1em .35em;
  border-radius: 4px; overflow-wrap: anywhere; }
.intro { font-size: 1.05rem; }
.warn { background: var(--warn); border-left: 4px solid var(--warn-line); padding: .7rem 1rem; border-radius: 4px; margin: 1.25rem 0; }
.warn p { margin: 0; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .6rem; text-align: left; vertical-align: top; }
thead th { background: var(--card); color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody tr { border-top: 1px solid var(--line); }
tbody th { font-weight: 600; }
.number { text-align: right; }
td.number { white-space: nowrap; }
td .range { display: block; color: var(--soft); font-size: .86em; }
.caption, figcaption { color: var(--soft); font-size: .9rem; margin: .5rem 0 0; max-width: 80ch; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 1.25rem; align-items: start; }
.grid.clips { grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); }
.wide { grid-column: 1 / -1; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; overflow: hidden; background: var(--card); }
figure img { display: block; width: 100%; height: auto; background: #ffffff; }
figcaption { padding: .65rem .9rem .8rem; margin: 0; }
figcaption b { color: var(--ink); display: block; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .45rem 1.5rem; margin: 0; font-size: .95rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .6rem; } }
ul { padding-left: 1.2rem; max-width: 76ch; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft); font-size: .85rem; }
"""


@dataclass(frozen=True)
class Picture:
    """An image with its caption.

    Args:
        path: a PNG, JPEG, GIF or SVG.
        title: what it shows, in a few words.
        caption: how to read it.
        wide: give it the whole width.
    """

    path: Path
    title: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Content:
    """What both forms of the report show. Text may hold `code` in backticks and **bold**; a blank line begins a paragraph.

    Args:
        title: heading.
        intro: what was done and what came out, in a few sentences.
        tables: tables of numbers, with intervals where there are any.
        figures: plots.
        videos: episodes.
        steps: what to do next, a sentence each.
        notes: what a reader should know before believing the numbers.
        facts: how this was made: command, hardware, seeds, data, versions.
    """

    title: str
    intro: str
    tables: Sequence[Table] = ()
    figures: Sequence[Picture] = ()
    videos: Sequence[Picture] = ()
    steps: Sequence[str] = ()
    notes: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def synthetic(self) -> bool:
        """Whether a script made the demonstrations. The report then says so at the top."""
        return any("synthetic" in value.lower() for value in self.facts.values())


def write_report(directory: Path, content: Content) -> Path:
    """Writes `report.html` and `report.md` to a directory, which is made if it is missing. Returns the path of `report.html`.

    Raises:
        LWDError: a picture is missing or of an unknown kind.
    """
    for picture in (*content.figures, *content.videos):
        if picture.path.suffix.lower() not in MIME:
            raise LWDError(f"{picture.path} cannot be shown in a report: give one of {', '.join(MIME)}")
        if not picture.path.is_file():
            raise LWDError(f"{picture.path} is missing: write the picture before the report")
    write_text(directory / "report.md", markdown(directory, content))
    write_text(directory / "report.html", _html(directory, content))
    return directory / "report.html"


def _html(directory: Path, content: Content) -> str:
    parts = [f"<h1>{_inline(content.title)}</h1>", f'<div class="intro">{_paragraphs(content.intro)}</div>']
    if content.synthetic:
        parts.append(f'<div class="warn" role="note"><p>{SYNTHETIC}</p></div>')
    parts += [_html_table(table) for table in content.tables]
    if content.videos:
        parts += ["<h2>Episodes</h2>", '<div class="grid clips">', *(_html_picture(directory, v) for v in content.videos), "</div>"]
    if content.figures:
        parts += ["<h2>Figures</h2>", '<div class="grid">', *(_html_picture(directory, f) for f in content.figures), "</div>"]
    if content.steps:
        parts += ["<h2>What to do next</h2>", "<ul>", *(f"<li>{_inline(step)}</li>" for step in content.steps), "</ul>"]
    if content.facts:
        facts = (f"<dt>{_inline(k)}</dt><dd>{_inline(v)}</dd>" for k, v in content.facts.items())
        parts += ["<h2>How this was made</h2>", "<dl>", *facts, "</dl>"]
    if content.notes:
        parts += ["<h2>Notes</h2>", "<ul>", *(f"<li>{_inline(note)}</li>" for note in content.notes), "</ul>"]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(content.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n"
        "<footer>Written by lwd. This page loads nothing from elsewhere.</footer>\n</main>\n</body>\n</html>\n"
    )


def _html_table(table: Table) -> str:
    # a column of numbers reads best when aligned at the right, words at the left
    kinds = [' class="number"' if i and all(map(numeric, cells)) else "" for i, cells in enumerate(zip(*table.rows, strict=True))]
    kinds = kinds or [""] * len(table.columns)
    head = "".join(f'<th scope="col"{kind}>{_inline(name)}</th>' for name, kind in zip(table.columns, kinds, strict=True))
    rows = []
    for row in table.rows:
        cells = "".join(f"<td{kind}>{_ranged(cell) if kind else _inline(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True))
        rows.append(f'<tr><th scope="row">{_inline(row[0])}</th>{cells}</tr>')
    caption = f'<p class="caption">{_inline(table.caption)}</p>' if table.caption else ""
    return (
        f'<h2>{_inline(table.title)}</h2>\n<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + f"\n</tbody></table></div>\n{caption}"
    )


def _html_picture(directory: Path, picture: Picture) -> str:
    source, alt = html.escape(_source(directory, picture.path)), html.escape(picture.title, quote=True)
    media = f'<img src="{source}" alt="{alt}">'
    caption = f"<figcaption><b>{_inline(picture.title)}</b>{_inline(picture.caption)}</figcaption>"
    wide = ' class="wide"' if picture.wide else ""
    return f"<figure{wide}>{media}{caption}</figure>"


def _source(directory: Path, path: Path) -> str:
    """The file itself as a data URI, or a relative link if it is too large for that."""
    if path.stat().st_size > EMBED_MAX:
        return _link(directory, path)
    return f"data:{MIME[path.suffix.lower()]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _link(directory: Path, path: Path) -> str:
    return Path(os.path.relpath(path.resolve(), directory.resolve())).as_posix().replace(" ", "%20")


def markdown(directory: Path, content: Content) -> str:
    """The text of `report.md`; pictures are links relative to the directory."""
    blocks = [f"# {content.title}", content.intro.strip()]
    if content.synthetic:
        blocks.append(f"> **Note.** {SYNTHETIC}")
    for table in content.tables:
        blocks += [f"## {table.title}", tables.markdown(table)]
    for heading, pictures in (("Episodes", content.videos), ("Figures", content.figures)):
        blocks += [f"## {heading}"] if pictures else []
        for picture in pictures:
            blocks += [f"![{picture.title}]({_link(directory, picture.path)})", f"**{picture.title}.** {picture.caption}".strip()]
    if content.steps:
        blocks += ["## What to do next", "\n".join(f"* {step}" for step in content.steps)]
    if content.facts:
        blocks += ["## How this was made", "\n".join(f"* {key}: {value}" for key, value in content.facts.items())]
    if content.notes:
        blocks += ["## Notes", "\n".join(f"* {note}" for note in content.notes)]
    return "\n\n".join(blocks) + "\n"


def _ranged(cell: str) -> str:
    """`0.76 [0.70, 0.82]` with its bracket on a line below, in smaller print: a table of intervals stays narrow."""
    return re.sub(r"(?<=\S )([\[(].*[\])])$", r'<span class="range">\1</span>', _inline(cell))


def _inline(text: str) -> str:
    """Escaped text with `code` and **bold**."""
    pieces = re.split(r"`([^`]+)`", text)
    plain = [re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(p)) for p in pieces[::2]]
    code = [f"<code>{html.escape(p)}</code>" for p in pieces[1::2]]
    return "".join(a + b for a, b in zip(plain, [*code, ""], strict=True))


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_inline(p.strip())}</p>" for p in re.split(r"\n\s*\n", text) if p.strip())
