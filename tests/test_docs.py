"""README and documentation: their commands parse, the cheap ones run, lists agree with the code, and links lead somewhere."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwd.cli import COMMANDS, command, main
from lwd.config import METHODS, Config, EvalSettings, Stage
from lwd.data.formats import npz
from lwd.data.prepare import choose, load_data
from lwd.presets import PRESETS
from lwd.studies import STUDIES
from lwd.studies.study import choose_axes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()


def blocks(text: str) -> list[str]:
    """Python blocks of a page."""
    return [textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def prose(text: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"(?m)^    .*$", "", re.sub(r"(?ms)^```.*?^```", "", text))


def commands(page: Path) -> Iterator[list[str]]:
    """Words of every command line of a page: in code blocks (indented, or fenced), and in the text where it has options."""
    text = page.read_text().replace("\\\n", " ")
    fenced = re.sub(r"(?m)^", "    ", "".join(re.findall(r"(?ms)^```(?!python)\w*\n(.*?)^```", text)))
    lines = re.findall(r"^ {4}(?:\$ )?((?:lwd|make|python|pip install)\b.*)$", f"{text}\n{fenced}", re.MULTILINE)
    spans = re.findall(r"`((?:lwd|make|python|pip install) [^`]*)`", prose(text))
    for line in [*lines, *(span for span in spans if " --" in span or not span.startswith("lwd"))]:
        words = shlex.split(line, comments=True)
        if "..." not in words:
            yield words


EVERY = sorted({(page.name, *words) for page in PAGES for words in commands(page)})


def of(program: str) -> list[Any]:
    """The command lines of a program, each once."""
    return sorted({words[1:] for words in EVERY if words[1] == program})


@pytest.mark.parametrize("words", of("lwd"), ids=" ".join)
def test_commands_of_lwd_parse(words: tuple[str, ...]) -> None:
    verb, *rest = words[1:] or ["--help"]
    if verb == "--help":
        assert main([verb]) == 0
        return
    try:
        asked = command(verb, rest)
    except SystemExit as end:
        assert end.code == 0 and "--help" in rest
        return
    if verb == "study" and asked.name not in ("", "NAME"):
        choose_axes(importlib.import_module(f"lwd.studies.{asked.name}").STUDY, asked)


def test_other_commands_name_what_is_there() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {words[1] for words in of("make")} <= targets
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for words in of("pip"):
        named = re.findall(r"\[([\w,]+)\]", " ".join(words))
        assert set(",".join(named).split(",")) <= {*extras, ""}
    printed = set(re.findall(r"`(\w+\.py)`", "".join(page.read_text() for page in PAGES)))
    for _, script, *options in of("python"):
        file = ROOT / script
        assert file.exists() or script in printed, f"{script} is nowhere"
        for option in options if file.exists() else ():
            names = (f'"{option}"', f"    {option[2:].replace('-', '_')}:")
            assert not option.startswith("--") or option == "--help" or any(name in file.read_text() for name in names), option


def known_options() -> set[str]:
    """The last part of the name of every option of lwd."""
    kinds: list[Any] = [Config, EvalSettings, Stage, *METHODS.values()]
    for module in {module for module, _, _ in COMMANDS.values()} | {"collect"}:
        found = vars(importlib.import_module(f"lwd.commands.{module}")).values()
        kinds += [kind for kind in found if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    return {field.name.replace("_", "-") for kind in kinds for field in dataclasses.fields(kind)} | {"help"}


def test_options_in_the_text_exist() -> None:
    known = known_options()
    for page in PAGES:
        for span in re.findall(r"`([^`\n]*--[a-z][^`\n]*)`", prose(page.read_text())):
            for option in re.findall(r"(?:^|\s)--([a-z][\w.-]*)", span) if not span.startswith(("pip", "python")) else ():
                name = option.rpartition(".")[2]
                assert {name, name.removeprefix("no-")} & known, f"{page.name}: --{option}"


def test_lists_agree_with_the_code() -> None:
    cli, studies = (ROOT / "docs" / "cli.md").read_text(), (ROOT / "docs" / "studies.md").read_text()
    assert re.findall(r"^\| `lwd (\w+)` \|", cli, re.MULTILINE) and set(re.findall(r"^\| `lwd (\w+)` \|", cli, re.MULTILINE)) == set(
        COMMANDS
    )
    table = cli.partition("| preset | for |")[2].partition("\n\n")[0]
    assert {name for row in table.splitlines() for name in re.findall(r"`([\w/-]+)`", row.split("|")[1] if row else "")} == set(PRESETS)
    assert set(re.findall(r"^\| `(\w+)` \|.*(?:PushT|Metaworld|robosuite|MuJoCo) \|$", studies, re.MULTILINE)) == set(STUDIES)
    data = (ROOT / "docs" / "data.md").read_text()
    assert all(line.strip() in data for line in npz.LAYOUT.splitlines()[1:])


def test_python_snippets_are_python() -> None:
    for page in PAGES:
        for block in blocks(page.read_text()):
            compile(block, page.name, "exec")


def output_of(script: str) -> str:
    """What a script in the present directory prints."""
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name, block in zip(("robot.py", "record.py", "use.py"), blocks(TUTORIAL), strict=True):
        (tmp_path / name).write_text(block)
    assert f"$ python record.py\n    {output_of('record.py')}" in TUTORIAL
    config = dataclasses.replace(PRESETS["lwd"][1], data="my_demos.npz")
    training, held = load_data(config)
    assert held is not None
    for setting, value, why in choose(config, training, len(held))[1]:
        row = [cell.strip() for cell in next(line for line in TUTORIAL.splitlines() if f"│ {setting} " in line).split("│")[1:-1]]
        assert row == [setting, value, why]
    for line in (
        "lwd data show my_demos.npz",
        "lwd train --data my_demos.npz --out runs/mine",
        "lwd report runs/mine",
        "lwd diagnose runs/mine",
    ):
        assert f"    {line}\n" in TUTORIAL
        words = line.split()[1:] + (["--debug", "--threads", "1", "--quiet"] if " train " in line else [])
        assert main(words) == 0, capfd.readouterr().err
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    capfd.readouterr()
    assert output_of("use.py").count(" away at the start, ") == 2


def test_cheap_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], trained: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(trained)
    text = "".join(page.read_text() for page in PAGES)
    for line in (
        "lwd data list",
        "lwd data show embedded",
        "lwd data convert embedded pusht.zarr",
        "lwd data convert pusht.zarr pusht.npz",
        "lwd info runs/mine",
        "lwd generate runs/mine --obs 250,50 --replan-every 32 --rate 25",
        "lwd study",
        "lwd study horizon --plan",
    ):
        assert re.search(rf"^    {line}(\s+#.*)?$", text, re.MULTILINE), line
        assert main(line.split()[1:]) == 0, capfd.readouterr().err


def anchors(page: Path) -> set[str]:
    """Names of the headings of a page, as links spell them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"(?ms)^```.*?^```", "", page.read_text()), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


def test_shape_of_readme_and_navigation() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    navigation = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert navigation[:2] == ["index.md", "tutorial.md"]
    assert sorted(navigation) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))
