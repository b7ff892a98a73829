"""scripts/mutants.py on a toy project; and, slowly, a sample of this project's own mutants."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.compiled import COMPILER

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

SOURCE = '''"""A toy."""

from __future__ import annotations

WIDTH = 3


def clip(value: int, limit: int = 4) -> int:
    """At most ``limit``, which is 4."""
    if value > limit:
        return limit
    return value


def unused(value: int) -> int:
    return value + 1


def slowly(count: int) -> int:
    while count > 0:
        count -= 1
    return count
'''
TESTS = """
from freerun.search.toy import clip, slowly

def test_clip():
    assert clip(9, 5) == 5

def test_slowly():
    assert slowly(2) == 0
"""
PLANTED = """
[[mutant]]
name = "no limit"
file = "freerun/search/toy.py"
find = "return limit"
replace = "return value"
tests = ["tests/test_toy.py::test_clip"]
"""


@pytest.fixture(scope="module")
def script():
    """The script as a module, without the libraries that its workers load for the tests of freerun."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        module = importlib.import_module("mutants")
        patch.setattr(importlib.import_module("mutation.workshop"), "PRELOAD", ())
        patch.setattr(importlib.import_module("mutation.calls"), "LEAST", 0.2)
        yield module


@pytest.fixture
def part(script):
    """Modules of the script by name."""
    return lambda name: importlib.import_module(f"mutation.{name}")


class Toy:
    """A small project with one source, two tests and one planted mutant."""

    def __init__(self, root, script, capsys):
        self.root, self._script, self._capsys = root, script, capsys
        self.source, self.tests = root / "freerun/search/toy.py", root / "tests/test_toy.py"
        self.planted, self.accepted = root / "tests/mutants/toy.toml", root / "benchmarks/mutants.toml"
        self.results = root / "build/mutants/results.jsonl"
        settings = '[tool.pytest.ini_options]\npythonpath = ["."]\nmarkers = ["slow: slow"]\n'
        texts = {
            self.source: SOURCE,
            self.tests: TESTS,
            self.planted: PLANTED,
            root / "freerun/search/__init__.py": "",
            root / "freerun/__init__.py": "",
            root / "pyproject.toml": settings,
            root / ".gitignore": "/build/\n__pycache__/\n",
        }
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (root / "benchmarks").mkdir()
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)

    def run(self, *options):
        """Exit code, standard output and standard error."""
        code = self._script.main(["--root", str(self.root), *options])
        return code, *self._capsys.readouterr()

    def kinds(self):
        """What became of each mutant: {operator and line: kind}."""
        return {line["id"]: line["kind"] for line in map(json.loads, self.results.read_text().splitlines())}


@pytest.fixture
def toy(tmp_path, script, capsys):
    return Toy(tmp_path, script, capsys)


def kind_of(kinds, *words):
    (kind,) = {kind for name, kind in kinds.items() if all(word in name for word in words)}
    return kind


# ----------------------------------------------------------------------------------------------------------- operators


def mutations(part, source, **knowledge):
    operators = part("operators")
    text = source.encode()
    found = operators.generate("freerun/search/toy.py", text, operators.Knowledge(**knowledge))
    return {mutant.apply(text).decode().strip().splitlines()[-1].strip() for mutant in found}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", {"a <= b"}),
        ("a is not b", {"a is b"}),
        ("a not  in b", {"a in b"}),
        ("a < b == c", {"a <= b == c", "a < b != c"}),
        ("a and b and c", {"a or b and c", "a and b or c"}),
        ("(a) + (b)", {"(a) - (b)"}),
        ("a @ b", {"a * b"}),
        ("a & b", {"a | b"}),
        ("a ** b // c % d", {"a * b // c % d", "a ** b / c % d", "a ** b // c * d"}),
        ("a = 0, 1, 7", {"a = 1, 1, 7", "a = 0, 0, 7", "a = 0, 1, 8"}),
        ("a = 1000", {"a = 2000"}),
        ("a = 0.5, True", {"a = 1.0, True", "a = 0.5, False"}),
        ("é = 'é', 1  # 1", {"é = 'é', 0  # 1"}),
        ("not a", {"a"}),
        ("-a", {"a"}),
        ("a.detach().b", {"a.b"}),
        ("min(a)", {"max(a)"}),
        ("a.any()", {"a.all()"}),
        ("with torch.no_grad(): pass", {"with torch.enable_grad(): pass"}),
        ("f(a, b=c, d=e)", {"f(a, d=e)", "f(a, b=c, )"}),
        ("a += b", {"pass", "a -= b"}),
        ("a if b else c", {"a if not (b) else c"}),
        ("if a: b", {"if False: b"}),
        ("def f(a: int = 2): b(a)", {"def f(a: int = 3): b(a)", "def f(a: int = 2): b(2)"}),
        ("def f() -> A | None: return b", {"def f() -> A | None: return None"}),
        ("def f() -> A: return b", set()),
        # Text is left alone: docstrings, annotations, messages, assertions.
        ("'a'", set()),
        ("a: Literal[1]", set()),
        ("raise ValueError(a + b)", set()),
        ("assert a < b", set()),
        ("f'{a + 1}' + b", set()),
        ("e = KeyError(a + 1)", set()),
        ("'a' + b", set()),
        ("zip(a, b, strict=True)", set()),
        ("def f(*, seed: int = 0): pass", set()),
        ("def f(*, a: int, b: int = 0): pass", {"def f(*, a: int, b: int = 1): pass"}),
        ("if TYPE_CHECKING: a = 1", set()),
    ],
)
def test_operators(part, source, expected):
    assert mutations(part, source) == expected


def test_an_option_becomes_its_default(part):
    source = "def f(): return self._temperature * other.temperature"
    wrong = {"def f(): return 1.0 * other.temperature", "def f(): return self._temperature / other.temperature"}
    assert mutations(part, source, defaults={"temperature": "1.0"}) == wrong


def test_a_stream_becomes_another_one(part):
    streams = {"draw": ["coins", "draws"]}
    assert mutations(part, "draw(a, 'coins')", streams=streams) == {'draw(a, "draws")'}
    assert mutations(part, "draw(a, 'draws')", streams=streams) == {'draw(a, "coins")'}


def test_options_and_streams_are_read_from_the_sources(part):
    known = part("operators").know(
        {
            "freerun/config/sections.py": b"class Section:\n    temperature: float = 1.0\n    width: int = f()\n",
            "freerun/randomness.py": b"def draw(seed, purpose): pass\n",
            "freerun/other.py": b"draw(1, 'b')\ndraw(1, 'a')\nprint('c')\n",
        }
    )
    assert known.defaults == {"temperature": "1.0"}
    assert known.streams == {"draw": ["a", "b"]}


def test_an_id_survives_edits_elsewhere_and_equal_lines_have_their_own(part):
    generate, nothing = part("operators").generate, part("operators").Knowledge()
    before = [m.id for m in generate("freerun/a/b.py", b"def f():\n    x = y + z\n    x = y + z\n", nothing)]
    after = [m.id for m in generate("freerun/a/b.py", b"q = w\n\n\ndef f():\n  x = y + z\n  x = y + z\n", nothing)]
    assert before == after
    assert len(set(before)) == 2
    assert before[0].startswith("a/b.py:f:arithmetic:")
    changed = [m.id for m in generate("freerun/a/b.py", b"def f():\n    x = y + w\n", nothing)]
    assert set(changed).isdisjoint(before)


# -------------------------------------------------------------------------------------------------------------- a run


def test_a_run_kills_what_tests_notice_and_shows_the_rest(toy):
    before = toy.source.read_bytes()
    code, out, _ = toy.run()
    kinds = toy.kinds()
    assert code == 1
    assert kinds["planted:no limit"] == "killed"
    assert kind_of(kinds, "clip:guard") == "killed"
    assert kind_of(kinds, "clip:compare") == "survived"  # at the limit both are equal
    assert kind_of(kinds, "clip:constant") == "survived"  # the default is not tested
    assert kind_of(kinds, "unused:arithmetic") == kind_of(kinds, "unused:constant") == "untested"
    assert kind_of(kinds, "module:constant") == "survived"
    assert "-    if value > limit:\n+    if value >= limit:" in out
    assert "planted" in out
    assert toy.source.read_bytes() == before
    assert not list(toy.root.rglob("*.pyc"))


def test_a_copy_is_as_before_when_a_mutant_is_done(toy, part):
    (mutant,) = part("planted").planted(toy.root)
    with part("workshop").workshops(toy.root, 1) as (workshop,):
        copy = workshop.path / mutant.file
        before = copy.read_bytes(), copy.stat().st_mtime_ns
        with workshop.mutated(mutant, before[0]):
            assert copy.read_bytes() == before[0].replace(b"return limit", b"return value")
        assert (copy.read_bytes(), copy.stat().st_mtime_ns) == before
    assert not copy.exists()


def test_a_mutant_that_never_ends_is_noticed(toy):
    toy.run("--only", "generated")
    assert kind_of(toy.kinds(), "slowly:statement") == "timeout"
    assert kind_of(toy.kinds(), "slowly:arithmetic") == "timeout"


def test_the_same_command_goes_on(toy):
    code, out, _ = toy.run("--minutes", "0")
    assert (code, toy.results.exists()) == (0, False)
    assert "run the same command again" in out
    toy.run("--only", "planted")
    assert list(toy.kinds()) == ["planted:no limit"]
    toy.run()
    lines = toy.results.read_text().splitlines()
    assert len(lines) == len(toy.kinds()) > 10  # none twice
    toy.results.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:9])  # stopped while writing
    code, out, _ = toy.run()
    assert "measured" not in out
    *same, broken, again = toy.results.read_text().splitlines()
    assert (same, broken) == (lines[:-1], lines[-1][:9])
    assert json.loads(again)["id"] == json.loads(lines[-1])["id"]


WITHOUT_LIBRARIES = """
import sys
import mutants, mutation.workshop
mutation.workshop.PRELOAD = ()
sys.exit(mutants.main(sys.argv[1:]))
"""


def test_a_stopped_run_leaves_no_copy_and_goes_on(toy, tmp_path):
    toy.tests.write_text(TESTS + "\nimport time\n\ndef test_slow():\n    time.sleep(clip(60))\n")
    copies = tmp_path / "temporary"
    copies.mkdir()
    command = [sys.executable, "-c", WITHOUT_LIBRARIES, "--root", str(toy.root)]
    environment = {**os.environ, "TMPDIR": str(copies), "PYTHONPATH": str(ROOT / "scripts")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "measured" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert "Run the same command again to resume" in process.communicate()[1]
    assert process.returncode == 130
    assert list(copies.glob("freerun-*")) == []
    assert "measured" not in toy.run("--only", "planted")[1]


@pytest.mark.slow
def test_another_source_or_test_is_tried_again(toy):
    toy.run()
    first = len(toy.results.read_text().splitlines())
    toy.tests.write_text(TESTS + "\ndef test_at_the_limit():\n    assert clip(1) == 1 and clip(9) == 4\n")
    _, out, _ = toy.run()
    assert "measured tests/test_toy.py" in out
    assert kind_of(dict(reversed(toy.kinds().items())), "clip:constant") == "killed"
    assert len(toy.results.read_text().splitlines()) > first


def test_a_planted_mutant_may_name_slow_tests(toy):
    toy.tests.write_text("import pytest\n" + TESTS.replace("def test_clip", "@pytest.mark.slow\ndef test_clip"))
    assert toy.run("--only", "planted")[0] == 0
    assert toy.kinds() == {"planted:no limit": "killed"}


def test_a_mutant_that_no_test_can_load_is_noticed(toy):
    toy.source.write_text(SOURCE.replace("WIDTH = 3", "WIDTH = 3 / 1"))
    (toy.root / "tests" / "conftest.py").write_text("import freerun.search.toy\n")
    toy.run("--only", "generated")
    ends = sorted(kind for name, kind in toy.kinds().items() if "module:constant" in name)
    assert ends == ["killed", "survived"]  # 3 / 0 and 4 / 1


def test_only_what_a_change_concerns_is_tried_again(toy):
    toy.run("--only", "generated")
    first = toy.results.read_text().splitlines()
    (toy.root / "tests" / "test_more.py").write_text("from freerun.search.toy import clip\n\ndef test(): clip(1)\n")
    toy.run("--only", "generated")
    again = [json.loads(line)["id"] for line in toy.results.read_text().splitlines()[len(first) :]]
    killed = [json.loads(line)["id"] for line in first if json.loads(line)["kind"] == "killed"]
    assert again
    assert set(again).isdisjoint(killed)
    assert all("clip" in name or "module" in name for name in again)


@pytest.mark.slow
def test_survivors_are_tried_again_with_more_tests(toy):
    toy.run("--only", "generated", "--test-seconds", "10")
    first = toy.results.read_text().splitlines()
    toy.run("--only", "generated", "--test-seconds", "5")
    assert toy.results.read_text().splitlines() == first
    toy.run("--only", "generated", "--test-seconds", "20")
    again = [json.loads(line)["kind"] for line in toy.results.read_text().splitlines()[len(first) :]]
    assert set(again) == {"survived", "untested"}


def test_a_budget_goes_to_the_quickest_tests_of_all_files(part):
    files = {"a": ["a::slow", "a::quick", "a::more"], "b": ["b::slow", "b::quick"]}
    costs = {"a::slow": 9.0, "a::quick": 0.5, "a::more": 1.0, "b::slow": 2.0, "b::quick": 0.25}
    assert part("calls")._within(files, costs, 1.75) == ("b::quick", "a::quick", "a::more")
    assert part("calls")._within(files, costs, 4.0) == ("a::quick", "a::more", "b::slow", "b::quick")
    assert part("calls")._within(files, costs, 99.0) == ("b::slow", "b::quick", "a::slow", "a::quick", "a::more")


def test_a_sample_is_drawn_by_its_seed(toy):
    def tried(seed):
        toy.results.unlink(missing_ok=True)
        toy.run("--only", "generated", "--sample", "3", "--seed", seed)
        return list(toy.kinds())

    first = tried("1")
    assert (len(first), tried("1")) == (3, first)
    assert tried("2") != first


def test_only_the_requested_files_and_tests_count(toy):
    (toy.root / "freerun" / "search" / "other.py").write_text("WIDTH = 3\n")
    toy.run("--only", "generated", "--file", "freerun/search/other.py", "--tests", "tests/unit")
    assert list(toy.kinds().values()) == ["untested"]
    assert kind_of(toy.kinds(), "search/other.py:module:constant") == "untested"


def test_a_survivor_with_a_reason_is_accepted(toy):
    code, out, _ = toy.run("--record")
    assert code == 1
    assert "survivors added to benchmarks/mutants.toml" in out
    assert toy.run("--record")[0] == 1  # an empty reason is none
    text = toy.accepted.read_text()
    assert text.count("[[survivor]]") == sum(kind in ("survived", "untested") for kind in toy.kinds().values())
    toy.accepted.write_text(text.replace('reason = ""', 'reason = "equal"'))
    code, out, _ = toy.run()
    assert code == 0
    assert "+++" not in out
    toy.accepted.write_text(toy.accepted.read_text() + '\n[[survivor]]\nid = "a/b.py:f:name:00"\nreason = "gone"\n')
    assert "a/b.py:f:name:00: accepted, but there is no such mutant" in toy.run()[1]


def test_an_accepted_mutant_that_is_noticed_is_named(toy):
    toy.accepted.write_text('[[survivor]]\nid = "planted:no limit"\nreason = "equal"\n')
    assert "planted:no limit: accepted, but a test notices it now" in toy.run("--only", "planted")[1]


@pytest.mark.slow
def test_two_processes_find_the_same(toy):
    toy.run()
    alone = toy.kinds()
    toy.results.unlink()
    toy.run("--processes", "2")
    assert toy.kinds() == alone


# ------------------------------------------------------------------------------------------------------------ mistakes


def test_a_red_test_stops_the_run(toy):
    toy.tests.write_text(TESTS.replace("== 5", "== 6"))
    code, _, err = toy.run()
    assert code == 2
    assert "tests/test_toy.py::test_clip without any mutant" in err
    assert "assert 5 == 6" in err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('find = "return limit"', 'find = "return nothing"', "`find` occurs 0 times in freerun/search/toy.py"),
        ('find = "return limit"', 'find = "value"', "`find` occurs 5 times in freerun/search/toy.py"),
        ("search/toy.py", "search/gone.py", "there is no file freerun/search/gone.py"),
        ("tests/test_toy.py::test_clip", "tests/test_gone.py", "no such tests: ['tests/test_gone.py']"),
        ('replace = "return value"', 'replace = "return limit"', "`find` and `replace` are the same"),
        ("replace =", "replaced =", "wrong keys: ['replace', 'replaced']"),
    ],
)
def test_a_planted_mutant_that_does_not_fit_is_named(toy, old, new, message):
    toy.planted.write_text(PLANTED.replace(old, new))
    code, _, err = toy.run("--only", "planted")
    assert code == 2
    assert f"tests/mutants/toy.toml, 'no limit': {message}" in err


def test_a_planted_mutant_whose_test_is_gone_is_named(toy):
    toy.planted.write_text(PLANTED.replace("::test_clip", "::test_gone"))
    code, _, err = toy.run("--only", "planted")
    assert code == 2
    assert "planted:no limit: pytest cannot run ['tests/test_toy.py::test_gone']" in err


# -------------------------------------------------------------------------------------------------------- this project


def test_the_planted_mutants_fit_the_sources(part):
    for mutant in part("planted").planted(ROOT):
        source = mutant.apply((ROOT / mutant.file).read_bytes())
        if mutant.file.endswith(".py"):
            compile(source, mutant.file, "exec")
        elif COMPILER and mutant.file.endswith((".c", ".h")):
            command = [COMPILER, "-fsyntax-only", "-DFREERUN_STEP=base", "-Inative", "-xc", "-"]
            subprocess.run(command, input=source, cwd=ROOT, check=True)


def test_the_planted_mutants_are_of_sources_that_are_read(script, part):
    assert {Path(mutant.file).suffix for mutant in part("planted").planted(ROOT)} <= set(script.SUFFIXES)


def test_every_survivor_has_a_reason():
    entries = tomllib.loads((ROOT / "benchmarks" / "mutants.toml").read_text(encoding="utf-8")).get("survivor", [])
    assert [entry["id"] for entry in entries if not entry["reason"].strip()] == []


@pytest.mark.slow
def test_a_sample_of_the_planted_bugs_is_noticed():
    """Eight minutes of them at most, after their tests have been measured once; ``make mutants`` has the others."""
    command = [sys.executable, str(ROOT / "scripts" / "mutants.py"), "--only", "planted"]
    command += ["--sample", "30", "--minutes", "8"]
    done = subprocess.run([*command, "--processes", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
