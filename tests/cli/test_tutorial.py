"""The tutorial's commands, in their order, with its configurations; only the trainings are cut short."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()


def masked(text: str) -> str:
    """The text with N for each number and one space for any whitespace."""
    return re.sub(r"\s+", " ", re.sub(r"\d[\d,.]*\d|\d", "N", text))


@pytest.mark.slow
def test_the_commands_of_the_tutorial_do_what_it_says(freerun, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(toml|sh)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    commands, printed = [], ""
    for kind, text in blocks:
        if kind == "toml":
            name = re.match(r"# (\S+)\n", text).group(1)
            short = text.replace("updates = 1000", "updates = 4").replace("every = 250", "every = 0\nmax_sources = 20")
            Path(name).write_text(short.replace("pairs =", "processes = 2\npairs ="))
            continue
        for line in text.splitlines():
            words = shlex.split(line)
            assert words[0] == "freerun"
            result = freerun(*words[1:])
            assert result.code == 0, (line, result.err)
            commands.append(words[1])
            printed += result.out
            if words[1] == "predict":
                assert '"token_scores"' in result.out
            if words[1:3] == ["data", "make"]:
                for path in Path("tutorial").glob("t*.tsv"):  # a few pairs will do
                    path.write_text("".join(path.read_text().splitlines(keepends=True)[:60]))
    assert commands.count("train") == 4 and commands.count("diagnose") == 4 and commands[-1] == "study"
    assert Path("tutorial/teacher.html").exists() and Path("tutorial/study/report.html").exists()
    quoted = [text for kind, text in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if not kind]
    lines = [masked(line.removesuffix("...")).strip() for block in quoted for line in block.splitlines()]
    assert len(lines) == 11
    assert [line for line in lines if line not in masked(printed)] == []
