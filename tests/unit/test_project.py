"""The scaffolding keeps its word: dependencies, licence, Makefile, and nothing of the machine it was written on."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import itertools
import os
import re
import shutil
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    name: [Requirement(line) for line in lines]
    for name, lines in PROJECT["optional-dependencies"].items()
    if name != "all"
}
DECLARED = [Requirement(line) for line in PROJECT["dependencies"]] + list(itertools.chain(*EXTRAS.values()))
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
)

# ------------------------------------------------------------------------------------------------------- dependencies


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_a_declared_dependency_is_pinned_within_its_range(requirement):
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def needed_by_all(every_platform):
    """Names of all that freerun[all] brings, directly or through others, as far as it is installed here."""
    found, todo = set(), [(canonicalize_name(r.name), frozenset(r.extras)) for r in DECLARED]
    while todo:
        name, extras = todo.pop()
        found.add(name)
        for requirement in map(Requirement, requirements_of(name)):
            marker = requirement.marker
            here = marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
            elsewhere = every_platform and "extra" not in str(marker)
            if (here or elsewhere) and canonicalize_name(requirement.name) not in found:
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


def requirements_of(name):
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:  # another platform's
        return []


def test_everything_that_comes_with_the_dependencies_is_pinned():
    of_torch_builds = re.compile(r"nvidia-|cuda-|triton|pytorch-triton")
    assert {name for name in needed_by_all(every_platform=False) if not of_torch_builds.match(name)} <= PINS.keys()


def test_nothing_is_pinned_that_nobody_needs():
    assert PINS.keys() <= needed_by_all(every_platform=True)


def test_all_names_every_extra():
    (line,) = PROJECT["optional-dependencies"]["all"]
    assert Requirement(line).name == "freerun"
    assert Requirement(line).extras == EXTRAS.keys()


def test_train_can_do_what_subword_can():
    assert set(map(str, EXTRAS["subword"])) <= set(map(str, EXTRAS["train"]))


# -------------------------------------------------------------------------------------------------- what is handed out


def test_the_entry_point_exists():
    module, _, function = PROJECT["scripts"]["freerun"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "freerun" / "py.typed").is_file()


def test_the_licence_is_the_whole_apache_licence():
    assert PROJECT["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_bytes()
    assert hashlib.sha256(text).hexdigest() == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_changelog_knows_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(PROJECT['version'])}\]", text, re.MULTILINE)


def test_ci_runs_what_make_test_runs():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "make test"


def tracked_files():
    """Every text file that is or would be committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in listing.stdout.splitlines()]
    return [path for path in files if path.is_file() and path.suffix not in {".png", ".gz", ".xz", ".model"}]


# Put together here, so that this file does not name what it forbids.
HOSTS = [".".join(host) for host in (("pypi", "org"), ("pythonhosted", "org"), ("pytorch", "org"), ("npmjs", "org"))]
FOLDERS = "|".join(["root", "home", "work", "opt", "Users"])
FOREIGN = re.compile(rf"(?<![\w.~$}}-])/(?:{FOLDERS})/\w|" + "|".join(map(re.escape, HOSTS)))


def test_no_file_names_a_path_of_a_machine_or_a_registry():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if FOREIGN.search(line)
    ]
    assert found == []


# ---------------------------------------------------------------------------------------------------------- Markdown

PROSE_WIDTH = 120
README_LINES = 90


def pages():
    return [path for path in tracked_files() if path.suffix == ".md"]


def without_code(text):
    """The text with fenced code blanked, so that line numbers stay."""
    blank = lambda match: "\n" * match.group().count("\n")  # noqa: E731
    return re.sub(r"^( *)```.*?^ *```$", blank, text, flags=re.MULTILINE | re.DOTALL)


def wide_lines(text):
    """Numbers of the prose lines above the limit: not tables, code, or lines that are one long link."""
    for number, line in enumerate(without_code(text).splitlines(), start=1):
        table_or_code = line.startswith(("|", "    ")) and not re.match(r" +([-*]|\d+\.) ", line)
        unbreakable = re.fullmatch(r"\s*([-*>]|\d+\.)?\s*!?\[[^\]]*\]\([^)]*\)\W*", line)
        if len(line) > PROSE_WIDTH and not table_or_code and not unbreakable:
            yield number


def test_no_line_of_prose_is_wider_than_the_limit():
    found = [f"{path.relative_to(ROOT)}:{number}" for path in pages() for number in wide_lines(path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("text", "wide"),
    [
        ("word " * 30, [1]),
        ("- " + "word " * 30, [1]),
        ("a\n\n  - " + "word " * 30, [3]),
        ("```\n" + "word " * 30 + "\n```\n" + "word " * 30, [4]),
        ("| " + "word " * 30 + "|", []),
        ("    " + "word " * 30, []),
        (f"[text]({'path/' * 30})", []),
        (f"text and a [link]({'path/' * 30})", [1]),
        ("x" * PROSE_WIDTH, []),
    ],
)
def test_what_counts_as_a_wide_line(text, wide):
    assert list(wide_lines(text)) == wide


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def anchors(text):
    """The anchors that GitHub makes of the headings."""
    for heading in re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        yield re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def test_every_link_of_the_documentation_leads_somewhere():
    broken = []
    for path in pages():
        text = re.sub(r"`[^`\n]*`", "", without_code(path.read_text()))
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"https?:|mailto:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / name) if name else path
            if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
                broken.append(f"{path.relative_to(ROOT)}: {link}")
    assert broken == []


def test_every_file_that_the_documentation_names_exists():
    named = re.compile(r"`((?:freerun|native|tests|scripts|benchmarks|configs|docs)/[\w./*-]+\.\w+)`")
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in pages()
        for name in named.findall(path.read_text())
        if not any(ROOT.glob(name))
    ]
    assert missing == []


def test_every_page_can_be_reached_from_the_readme():
    todo, reached = [ROOT / "README.md"], set()
    while todo:
        path = todo.pop().resolve()
        if path.is_dir():
            todo += path.glob("*.md")
        elif path.suffix == ".md" and path not in reached and path.is_file():
            reached.add(path)
            links = re.findall(r"\]\(([^)#\s]+)", without_code(path.read_text()))
            todo += [path.parent / link for link in links if "://" not in link]
    assert [str(path.relative_to(ROOT)) for path in pages() if path not in reached] == []


def test_the_index_of_decisions_has_their_titles():
    pages_of_decisions = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    rows = re.findall(
        r"^\| (\d{4}) \| \[(.*)\]\((.*)\) \|$", (ROOT / "docs/decisions/README.md").read_text(), re.MULTILINE
    )
    titles = [
        (page.name[:4], page.read_text().splitlines()[0].partition(". ")[2], page.name) for page in pages_of_decisions
    ]
    assert rows == titles


def test_the_table_of_layers_is_the_import_contract():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (contract,) = [each for each in settings["contracts"] if each["type"] == "layers"]
    section = (ROOT / "CONTRIBUTING.md").read_text().split("\n## Layers\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| \S", section, re.MULTILINE)
    assert [re.findall(r"`(\w+)`", row) for row in rows] == [re.findall(r"\w+", each) for each in contract["layers"]]


# ----------------------------------------------------------------------------------------------------------- structure

MAX_POSITIONAL = 6
MAX_LINES = 350
MAX_BODY = 60


def sources(*directories):
    """The path of each Python file that is or would be committed, and its syntax tree."""
    for path in tracked_files():
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in directories:
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def is_constructor(call):
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    return name.lstrip("_")[:1].isupper()


def wide_calls(tree):
    """Lines of the constructor calls with too many values by position; ``*values`` count as one."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and is_constructor(node))
    return [call.lineno for call in calls if len(call.args) > MAX_POSITIONAL]


def wide_classes(tree):
    """Lines of the classes that take too many values by position; a NamedTuple cannot forbid it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            count = len(node.args.posonlyargs + node.args.args) - 1
        elif isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(each) for each in node.decorator_list):
            is_open = not any("kw_only=True" in ast.unparse(each) for each in node.decorator_list)
            annotated = [each for each in node.body if isinstance(each, ast.AnnAssign)]
            fields = list(itertools.takewhile(lambda each: ast.unparse(each.annotation) != "KW_ONLY", annotated))
            count = is_open * sum("ClassVar" not in ast.unparse(each.annotation) for each in fields)
        else:
            continue
        if count > MAX_POSITIONAL:
            yield node.lineno


def test_constructors_of_many_values_take_them_by_name():
    found = [
        f"{path}:{line}"
        for path, tree in sources("freerun", "scripts", "benchmarks", "tests")
        for line in [*wide_calls(tree), *wide_classes(tree)]
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "calls", "classes"),
    [
        ("module._Point(1, 2, 3, 4, 5, 6, 7)", 1, 0),
        ("Point(1, 2, 3, 4, 5, 6)", 0, 0),
        ("point(1, 2, 3, 4, 5, 6, 7)", 0, 0),
        ("class A:\n    def __init__(self, a, b, c, d, e, f, g): ...", 0, 1),
        ("class A:\n    def __init__(self, a, b, c, d, e, f, *, g): ...", 0, 0),
        ("@dataclass(frozen=True)\nclass A:\n    " + "\n    ".join(f"{name}: int" for name in "abcdefg"), 0, 1),
        (
            "@dataclass\nclass A:\n    a: int\n    _: KW_ONLY\n    "
            + "\n    ".join(f"{name}: int" for name in "bcdefg"),
            0,
            0,
        ),
        ("@dataclass(kw_only=True)\nclass A:\n    " + "\n    ".join(f"{name}: int" for name in "abcdefg"), 0, 0),
    ],
)
def test_what_counts_as_a_wide_constructor(source, calls, classes):
    tree = ast.parse(source)
    assert (len(wide_calls(tree)), len(list(wide_classes(tree)))) == (calls, classes)


def test_a_long_file_says_why():
    paths = {path: ast.get_docstring(tree) or "" for path, tree in sources("freerun", "scripts", "benchmarks")}
    long = [path for path in paths if len((ROOT / path).read_text(encoding="utf-8").splitlines()) > MAX_LINES]
    assert [str(path) for path in long if f"{MAX_LINES} lines" not in paths[path]] == []


def test_no_function_is_longer_than_a_screen():
    found = []
    for path, tree in sources("freerun", "scripts", "benchmarks"):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[ast.get_docstring(node) is not None :]
                if body and body[-1].end_lineno - body[0].lineno >= MAX_BODY:
                    found.append(f"{path}:{node.lineno}: {node.name}")
    assert found == []


def modules_by_name(*directories):
    names = {}
    for path, _ in sources(*directories):
        if path.name != "__init__.py":
            names.setdefault(path.name, []).append(str(path.parent))
    return {name: places for name, places in names.items() if len(places) > 1}


def test_modules_have_names_of_their_own():
    """Except the plans of a run and of a study."""
    assert modules_by_name("freerun", "scripts", "benchmarks") == {"plan.py": ["freerun/experiment", "freerun/studies"]}


def test_public_classes_have_names_of_their_own():
    """A private class is seen in one file only, so it may share its name."""
    names = Counter(
        node.name
        for _, tree in sources("freerun")
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


# ----------------------------------------------------------------------------------------------------------- benchmark


def test_the_benchmark_config_is_whole_once_it_is_filled_in():
    text = (ROOT / "benchmarks" / "train_speed.toml").read_text(encoding="utf-8")
    values = {"TRAIN": "t.tsv", "DEV": "d.tsv", "HIDDEN": "256", "ATTENTION": "none", "FORCING": 'strategy = "teacher"'}
    for token, value in values.items():
        assert token in text
        text = text.replace(token, value)
    config = tomllib.loads(text)
    assert config["data"] | {"train": "t.tsv", "dev": "d.tsv"} == config["data"]
    assert config["model"]["embedding_size"] == config["model"]["hidden_size"] == 256
    assert config["forcing"] == {"strategy": "teacher"}
    assert (config["training"]["epochs"], config["training"]["batch_size"], config["evaluation"]["every"]) == (1, 64, 0)


# ------------------------------------------------------------------------------------------------------------ Makefile

MAKE = shutil.which("make")
needs_make = pytest.mark.skipif(MAKE is None, reason="make is not installed")

# An interpreter that only writes down what it was asked for. Copied into .venv, it goes on doing so there.
INTERPRETER = """#!/bin/sh
echo "{name} $*" >>'{log}'
case "$*" in
*'< (3, 11)'*) exit {old} ;;
*ensurepip*) exit {bare} ;;
*'%d.%d'*) echo 3.12 ;;
'-m venv '*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
'-m pip install '*) if [ -e signal ]; then kill -$(cat signal) $PPID; exit 1; fi; [ ! -e offline ] ;;
esac
"""


class Workshop:
    """A copy of the Makefile in a folder of its own, with interpreters that are fakes and no others on the PATH."""

    def __init__(self, folder):
        self.root, self.bin, self.log = folder / "a project", folder / "bin", folder / "log"
        self.bin.mkdir(parents=True)
        (self.root / "scripts").mkdir(parents=True)
        for name in ("Makefile", "scripts/make_venv.sh", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root / name)
        for tool in ("sh", "cat", "cp", "mkdir", "rm"):
            (self.bin / tool).symlink_to(shutil.which(tool))

    def interpreter(self, name, *, old=0, bare=0):
        path = self.bin / name
        path.write_text(INTERPRETER.format(name=name, log=self.log, old=old, bare=bare))
        path.chmod(0o755)

    def use_shell(self, name):
        path = shutil.which(name) or pytest.skip(f"{name} is not installed")
        (self.bin / "sh").unlink()
        (self.bin / "sh").symlink_to(path)

    def touch_later(self, name):
        later = (self.root / ".venv" / ".installed").stat().st_mtime + 5
        os.utime(self.root / name, (later, later))

    def install(self, *variables):
        """Run make install; the result, and what the interpreters were asked for (but for looking at themselves)."""
        self.log.write_text("")
        command = [MAKE, "install", *variables]
        done = subprocess.run(command, cwd=self.root, env={"PATH": str(self.bin)}, capture_output=True, text=True)
        return done, re.findall(r"^(\S+) -m (venv|pip install)\b", self.log.read_text(), re.MULTILINE)


@pytest.fixture
def workshop(tmp_path):
    return Workshop(tmp_path)


def made_with(name):
    return [(name, "venv"), (name, "pip install")]


@needs_make
def test_the_first_interpreter_that_runs_is_chosen(workshop):
    workshop.interpreter("python3.11", old=127)  # there, but fails: a shim
    workshop.interpreter("python3.12")
    workshop.interpreter("python3.13")
    done, asked = workshop.install()
    assert done.returncode == 0, done.stderr
    assert asked == made_with("python3.12")


@needs_make
def test_the_interpreter_that_was_named_comes_first(workshop):
    workshop.interpreter("python3.11")
    workshop.interpreter("snake")
    assert workshop.install("PYTHON=snake")[1] == made_with("snake")


@needs_make
def test_a_named_interpreter_that_does_not_run_is_told_and_passed_over(workshop):
    workshop.interpreter("python3.14")
    done, asked = workshop.install("PYTHON=nonsuch")
    assert "PYTHON=nonsuch is not a Python 3.11 or newer that runs" in done.stderr
    assert asked == made_with("python3.14")


@needs_make
def test_no_interpreter_at_all_is_answered_in_one_line(workshop):
    workshop.interpreter("python3.11", old=1)
    done, asked = workshop.install()
    told, failed = done.stderr.splitlines()
    assert "No Python 3.11 to 3.14" in told
    assert "make install PYTHON=" in told
    assert failed.startswith("make: ***")
    assert asked == []
    assert not (workshop.root / ".venv").exists()


@needs_make
def test_an_interpreter_without_ensurepip_is_answered_in_one_line(workshop):
    workshop.interpreter("python3.12", bare=1)
    done, asked = workshop.install()
    told, failed = done.stderr.splitlines()
    assert told.startswith("python3.12 cannot make an environment")
    assert "apt install python3.12-venv" in told
    assert failed.startswith("make: ***")
    assert asked == []
    assert not (workshop.root / ".venv").exists()


@needs_make
def test_an_interpreter_without_ensurepip_gives_way_to_one_that_has_it(workshop):
    workshop.interpreter("python3.11", bare=1)
    workshop.interpreter("python3.13")
    assert workshop.install()[1] == made_with("python3.13")


@needs_make
def test_arguments_for_pip_are_passed_on_with_the_pins(workshop):
    workshop.interpreter("python3.11")
    workshop.install("PIP_ARGS=--no-index --find-links wheels")
    assert "--no-index --find-links wheels -c constraints.txt -e .[all]" in workshop.log.read_text()


@needs_make
def test_a_second_install_does_nothing(workshop):
    workshop.interpreter("python3.11")
    workshop.install()
    done, asked = workshop.install()
    assert asked == []
    assert ".venv is up to date" in done.stdout


@needs_make
@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "hatch_build.py", "native/step.c"])
def test_a_changed_dependency_is_installed_into_the_same_environment(workshop, name):
    workshop.interpreter("python3.11")
    workshop.install()
    (workshop.root / name).parent.mkdir(exist_ok=True)
    (workshop.root / name).touch()
    workshop.touch_later(name)
    assert workshop.install()[1] == [("python3.11", "pip install")]


@needs_make
def test_an_environment_whose_making_was_killed_is_made_again(workshop):
    workshop.interpreter("python3.11")
    (workshop.root / "signal").write_text("KILL")
    assert workshop.install()[0].returncode != 0
    (workshop.root / "signal").unlink()
    assert workshop.install()[1] == made_with("python3.11")


@needs_make
@pytest.mark.parametrize("signal", ["INT", "TERM", "KILL"])
@pytest.mark.parametrize("shell", ["sh", "bash"])  # shells differ in what they do after a signal
def test_an_environment_whose_update_was_stopped_is_made_again(workshop, shell, signal):
    workshop.use_shell(shell)
    workshop.interpreter("python3.11")
    workshop.install()
    workshop.touch_later("constraints.txt")
    (workshop.root / "signal").write_text(signal)
    assert workshop.install()[0].returncode != 0
    (workshop.root / "signal").unlink()
    assert workshop.install()[1] == made_with("python3.11")


@needs_make
def test_an_environment_that_lost_its_interpreter_is_made_again(workshop):
    workshop.interpreter("python3.11")
    workshop.install()
    (workshop.root / ".venv" / "bin" / "python").unlink()
    assert workshop.install()[1] == made_with("python3.11")


@needs_make
def test_an_environment_that_was_moved_is_made_again(workshop):
    workshop.interpreter("python3.11")
    workshop.install()
    workshop.root = workshop.root.rename(workshop.root.with_name("elsewhere"))
    assert workshop.install()[1] == made_with("python3.11")


@needs_make
def test_an_environment_that_was_never_filled_is_made_again(workshop):
    workshop.interpreter("python3.11")
    (workshop.root / "offline").touch()
    assert "pip could not install freerun" in workshop.install()[0].stderr
    (workshop.root / "offline").unlink()
    assert workshop.install()[1] == made_with("python3.11")


@needs_make
def test_an_update_that_fails_keeps_the_environment_and_is_tried_again(workshop):
    workshop.interpreter("python3.11")
    workshop.install()
    workshop.touch_later("constraints.txt")
    (workshop.root / "offline").touch()
    done, asked = workshop.install()
    assert "pip could not install freerun" in done.stderr
    assert asked == [("python3.11", "pip install")]
    (workshop.root / "offline").unlink()
    assert workshop.install()[1] == [("python3.11", "pip install")]


def test_every_target_of_the_makefile_is_in_its_help():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()) - {"stale"}
    assert set(re.findall(r"^([a-z-]+):.*## \w", text, re.MULTILINE)) == phony
