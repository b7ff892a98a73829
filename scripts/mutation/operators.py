"""Generated mutants: small changes of a syntax tree, in the places where a wrong program looks like the right one.

Docstrings, annotations, assertions, error messages and other text stay unchanged. Changes are made in the source text,
so that a diff shows one changed line.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from mutation.mutant import Mutant, digest

COMPARE = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
BOOLEAN = {ast.And: ("and", "or"), ast.Or: ("or", "and")}
ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.MatMult: ("@", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
_PAIRS = (
    ("min", "max"),
    ("minimum", "maximum"),
    ("amin", "amax"),
    ("argmin", "argmax"),
    ("any", "all"),
    ("floor", "ceil"),
    ("sum", "mean"),
)
NAMES = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])} | {
    "no_grad": "enable_grad",
    "inference_mode": "enable_grad",
}
"""Functions and methods that are easily taken for each other."""
RECEIVERS = {"self", "settings", "config", "options"}


@dataclass(frozen=True)
class Knowledge:
    """Facts about a whole project: each option's default, and the names of the random streams.

    ``defaults`` maps an option of the config to the text of its default. ``streams`` maps the name of a function with a
    parameter ``purpose`` to all purposes that it is called with.
    """

    defaults: Mapping[str, str] = field(default_factory=dict)
    streams: Mapping[str, list[str]] = field(default_factory=dict)


def know(sources: Mapping[str, bytes]) -> Knowledge:
    """Read the options of ``*/config/*.py`` and the random streams of all ``sources`` (path to text)."""
    trees = {path: ast.parse(source) for path, source in sources.items()}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    takers = {
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef) and any(a.arg == "purpose" for a in node.args.args + node.args.kwonlyargs)
    }
    streams = defaultdict(set)
    for node in nodes:
        if isinstance(node, ast.Call) and _callee(node) in takers:
            streams[_callee(node)] |= {argument.value for argument in _texts(node)}
    sections = [
        item
        for path, tree in trees.items()
        if "/config/" in path
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for item in node.body
    ]
    return Knowledge(_defaults(sections), {name: sorted(purposes) for name, purposes in streams.items()})


def generate(file: str, source: bytes, knowledge: Knowledge) -> list[Mutant]:
    """Return the mutants of one file, in its order.

    An id is made of the changed lines and the name of the function, so it survives changes elsewhere in the file.
    """
    tree = ast.parse(source)
    settings = [item for node in tree.body if isinstance(node, ast.ClassDef) for item in node.body]
    found = _Finder(source, replace(knowledge, defaults={**knowledge.defaults, **_defaults(settings)}))
    found.block(tree.body, "")
    times: Counter[tuple[object, ...]] = Counter()
    mutants = []
    for scope, operator, start, end, replacement in sorted(set(found.edits), key=lambda edit: (edit[2:], edit[1])):
        first = source.rfind(b"\n", 0, start) + 1
        last = source.find(b"\n", end)
        lines = source[first:last]
        column = start - first - (len(lines) - len(lines.lstrip()))
        key = (scope, operator, lines.strip(), column, end - start, replacement)
        name = f"{file.partition('/')[2]}:{scope or 'module'}:{operator}:{digest(*key, times[key])}"
        times[key] += 1
        mutant = Mutant(id=name, file=file, scope=scope, start=start, end=end, replacement=replacement)
        if _parses(mutant.apply(source)):
            mutants.append(mutant)
    return mutants


def _parses(source: bytes) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _defaults(body: Iterable[ast.stmt]) -> dict[str, str]:
    """Return the constant defaults of a class's fields, as text."""
    return {
        item.target.id: ast.unparse(item.value)
        for item in body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and _is_constant(item.value)
    }


def _is_constant(node: ast.AST | None) -> bool:
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return isinstance(node, ast.Constant) and node.value is not None


def _callee(node: ast.Call) -> str:
    """Return the last part of the called name, or nothing."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _texts(node: ast.Call) -> Iterator[ast.Constant]:
    for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            yield argument


class _Finder:
    """Walks a module and collects edits: (scope, operator, start, end, replacement)."""

    def __init__(self, source: bytes, knowledge: Knowledge) -> None:
        self.edits: list[tuple[str, str, int, int, bytes]] = []
        self._source, self._knowledge = source, knowledge
        self._starts = [0, *(match.end() for match in re.finditer(rb"\n", source))]
        self._defaults = dict(knowledge.defaults)
        self._parameters: dict[str, str] = {}
        self._optional = False  # whether the function may return None

    # ------------------------------------------------------------------------------------------------- positions

    def _start(self, node: ast.AST) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.AST) -> int:
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.AST) -> str:
        return self._source[self._start(node) : self._end(node)].decode()

    def _replace(self, scope: str, operator: str, node: ast.AST, text: str) -> None:
        if text != self._text(node):
            self.edits.append((scope, operator, self._start(node), self._end(node), text.encode()))

    def _swap(self, scope: str, operator: str, after: int, before: int, signs: tuple[str, str]) -> None:
        """Replace the operator between two operands."""
        pattern = r"\s+".join(map(re.escape, signs[0].split()))
        match = re.search(pattern.encode(), self._source[after:before])
        if match is not None:
            self.edits.append((scope, operator, after + match.start(), after + match.end(), signs[1].encode()))

    # ------------------------------------------------------------------------------------------------ statements

    def block(self, body: list[ast.stmt], scope: str) -> None:
        """Visit statements, except for docstrings."""
        for statement in body:
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                self._visit(statement, scope)

    def _visit(self, node: ast.AST, scope: str) -> None:
        method = getattr(self, f"_visit_{type(node).__name__.lower()}", None)
        if method is None:
            self._children(node, scope)
        else:
            method(node, scope)

    def _children(self, node: ast.AST, scope: str) -> None:
        for child in ast.iter_child_nodes(node):
            self._visit(child, scope)

    def _skip(self, node: ast.AST, scope: str) -> None:
        """Skip text, types and assertions."""

    _visit_assert = _visit_raise = _visit_import = _visit_importfrom = _visit_joinedstr = _skip

    def _visit_classdef(self, node: ast.ClassDef, scope: str) -> None:
        outside, self._defaults = self._defaults, self._defaults | _defaults(node.body)
        for item in node.body:
            self.block([item], f"{scope}.{node.name}".lstrip(".") if isinstance(item, ast.FunctionDef) else "")
        self._defaults = outside

    def _visit_functiondef(self, node: ast.FunctionDef, scope: str) -> None:
        scope = f"{scope}.{node.name}".lstrip(".")
        outside = self._parameters, self._optional
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)][::-1]
        pairs = [*zip(names, node.args.defaults[::-1], strict=False)]
        pairs += [(a.arg, value) for a, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
        self._parameters = {name: ast.unparse(value) for name, value in pairs if _is_constant(value)}
        self._optional = node.returns is not None and "None" in ast.unparse(node.returns).split(" | ")[1:]
        # Another default of a seed gives other numbers, but right ones.
        defaults = [value for name, value in pairs if value is not None and name != "seed"]
        for part in (*node.decorator_list, *defaults):
            self._visit(part, scope)
        self.block(node.body, scope)
        self._parameters, self._optional = outside

    def _visit_annassign(self, node: ast.AnnAssign, scope: str) -> None:
        if node.value is not None:
            self._visit(node.value, scope)

    def _visit_augassign(self, node: ast.AugAssign, scope: str) -> None:
        self._replace(scope, "statement", node, "pass")
        old, new = ARITHMETIC.get(type(node.op), ("", ""))
        self._swap(scope, "arithmetic", self._end(node.target), self._start(node.value), (f"{old}=", f"{new}="))
        self._visit(node.value, scope)

    def _visit_return(self, node: ast.Return, scope: str) -> None:
        if node.value is not None:
            if self._optional:
                self._replace(scope, "return", node.value, "None")
            self._visit(node.value, scope)

    def _visit_if(self, node: ast.If, scope: str) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return
        self._replace(scope, "guard", node.test, f"not ({self._text(node.test)})" if node.orelse else "False")
        self._children(node, scope)

    def _visit_ifexp(self, node: ast.IfExp, scope: str) -> None:
        self._replace(scope, "guard", node.test, f"not ({self._text(node.test)})")
        self._children(node, scope)

    def _visit_continue(self, node: ast.Continue, scope: str) -> None:
        self._replace(scope, "statement", node, "break")

    def _visit_break(self, node: ast.Break, scope: str) -> None:
        self._replace(scope, "statement", node, "continue")

    # ----------------------------------------------------------------------------------------------- expressions

    def _visit_compare(self, node: ast.Compare, scope: str) -> None:
        operands = [node.left, *node.comparators]
        for left, op, right in zip(operands, node.ops, operands[1:], strict=False):
            self._swap(scope, "compare", self._end(left), self._start(right), COMPARE[type(op)])
        self._children(node, scope)

    def _visit_boolop(self, node: ast.BoolOp, scope: str) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._swap(scope, "boolean", self._end(left), self._start(right), BOOLEAN[type(node.op)])
        self._children(node, scope)

    def _visit_binop(self, node: ast.BinOp, scope: str) -> None:
        is_text = any(
            isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
            for side in (node.left, node.right)
        )
        if type(node.op) in ARITHMETIC and not is_text:
            after, before = self._end(node.left), self._start(node.right)
            self._swap(scope, "arithmetic", after, before, ARITHMETIC[type(node.op)])
        self._children(node, scope)

    def _visit_unaryop(self, node: ast.UnaryOp, scope: str) -> None:
        self._replace(scope, "unary", node, self._text(node.operand))
        self._children(node, scope)

    def _visit_constant(self, node: ast.Constant, scope: str) -> None:
        value = node.value
        if isinstance(value, bool):
            self._replace(scope, "constant", node, str(not value))
        elif isinstance(value, int):
            # One more hardly matters to a large number, for example of resamples.
            self._replace(scope, "constant", node, str({0: 1, 1: 0}.get(value, value + 1 if value < 10 else value * 2)))
        elif isinstance(value, float):
            self._replace(scope, "constant", node, str({0.0: 1.0, 1.0: 0.0}.get(value, value * 2)))

    def _visit_name(self, node: ast.Name, scope: str) -> None:
        if isinstance(node.ctx, ast.Load) and node.id in self._parameters:
            self._replace(scope, "option", node, self._parameters[node.id])

    def _visit_attribute(self, node: ast.Attribute, scope: str) -> None:
        is_option = isinstance(node.value, ast.Name) and node.value.id in RECEIVERS and isinstance(node.ctx, ast.Load)
        if is_option and node.attr.lstrip("_") in self._defaults:
            self._replace(scope, "option", node, self._defaults[node.attr.lstrip("_")])
        self._children(node, scope)

    def _visit_call(self, node: ast.Call, scope: str) -> None:
        name = _callee(node)
        if name.endswith(("Error", "Warning")):
            return
        if name in NAMES:
            renamed = re.sub(rf"\b{name}$", NAMES[name], self._text(node.func))
            self._replace(scope, "name", node.func, renamed)
        if name == "detach" and isinstance(node.func, ast.Attribute):
            self._replace(scope, "detach", node, self._text(node.func.value))
        for argument in _texts(node) if name in self._knowledge.streams else ():
            purposes = self._knowledge.streams[name]
            other = purposes[(purposes.index(argument.value) + 1) % len(purposes)]
            self._replace(scope, "stream", argument, f'"{other}"')
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != "strict"]  # of zip: an assertion
        for keyword in node.keywords:
            self._drop(keyword, scope)
        self._children(node, scope)

    def _drop(self, keyword: ast.keyword, scope: str) -> None:
        """Remove an argument and the comma after it."""
        if keyword.arg is not None:
            comma = re.match(rb"\s*,[ ]?", self._source[self._end(keyword) :])
            end = self._end(keyword) + (comma.end() if comma else 0)
            self.edits.append((scope, "argument", self._start(keyword), end, b""))
