"""Only the commands write to standard output and standard error."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import freerun

PACKAGE = Path(freerun.__file__).parent
WRITERS = ("cli.py", "__main__.py", "commands/")
STREAMS = "streams.py"
"""It defines how commands write."""
LIBRARY = sorted(
    path for path in PACKAGE.rglob("*.py") if not path.relative_to(PACKAGE).as_posix().startswith((*WRITERS, STREAMS))
)


def outputs(code):
    """The lines that write to a standard stream, or may be used to."""
    found = []
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                # into a file of its own is no output
                is_output = not any(keyword.arg == "file" for keyword in node.keywords)
            case ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr" | "__stdout__" | "__stderr__"):
                is_output = True
            case ast.Name(id="write_notice" | "CountLine") | ast.alias(name="write_notice" | "stdout" | "stderr"):
                is_output = True
            case ast.Attribute(attr="write_notice"):
                is_output = True
            case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr="write"), args=[ast.Constant(1 | 2), *_]):
                is_output = True
            case _:
                is_output = False
        if is_output:
            found.append(getattr(node, "lineno", 0))
    return found


def test_there_is_a_library():
    assert len(LIBRARY) > 100


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_library_module_writes_to_standard_output_or_standard_error(path):
    assert outputs(path.read_text()) == []


@pytest.mark.parametrize(
    "code",
    [
        "print('x')",
        "import sys\nsys.stderr.write('x')",
        "import sys\nout = sys.stdout",
        "from sys import stderr",
        "from freerun.streams import write_notice",
        "from freerun import streams\nstreams.write_notice('x')",
        "import os\nos.write(2, b'x')",
    ],
)
def test_the_test_finds_it(code):
    assert outputs(code)
