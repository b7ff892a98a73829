"""Random streams are independent: no two places draw for the same purpose, except where that is meant."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Strategies under one seed share their dropout masks, coins and draws.
SHARED = {"dropout": 3, "coins": 2, "draws": 3, "samples": 2}
# These are never compared, or one draws with a hash and the other with a generator.
SHARED |= {"seeds of a study": 2, "examples": 2, "road exam": 2}
"""Purposes with more than one call, and the number of calls."""


def trees():
    return [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "freerun").rglob("*.py"))]


def takers(trees):
    """Functions with a parameter ``purpose``, and the generators of freerun.randomness."""
    functions = {
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and (any(argument.arg == "purpose" for argument in node.args.args + node.args.kwonlyargs))
    }
    randomness = ast.parse((ROOT / "freerun" / "randomness.py").read_text(encoding="utf-8"))
    return functions | {node.name for node in randomness.body if isinstance(node, ast.ClassDef)}


def calls():
    """How often each purpose is drawn for: {purpose: number of calls}."""
    found, every = defaultdict(int), trees()
    names = takers(every)
    for node in (node for tree in every for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)] if name in names else []
        for argument in arguments:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                found[argument.value] += 1
    return found


def test_each_purpose_has_one_call():
    found = calls()
    assert len(found) > 20
    assert {purpose: number for purpose, number in found.items() if number > SHARED.get(purpose, 1)} == {}
