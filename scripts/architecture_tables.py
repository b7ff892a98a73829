"""Write the tables of cells and attentions in docs/configuration.md from the registries in freerun.architecture.

python scripts/architecture_tables.py            # rewrite the page
python scripts/architecture_tables.py --check    # fail if it is out of date
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from freerun.architecture import ATTENTIONS, CELLS, AttentionSpec, CellSpec

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"


def cell_table() -> str:
    """Return the cells with what each can do."""
    rows = [_cell_row(spec) for spec in CELLS.values()]
    head = ["| cell | what | training on a CPU | export |", "|---|---|---|---|"]
    return "\n".join([*head, *rows])


def _cell_row(spec: CellSpec) -> str:
    training = "compiled" if spec.compiled_training else "torch's kernels" if spec.fused else "in torch"
    kinds = [*(["ONNX"] if spec.onnx else []), *(["int8"] if spec.onnx and spec.is_bounded else [])]
    exported = ", ".join([*kinds, *(["C"] if spec.compiled_greedy else [])]) or "none"
    return f'| `"{spec.name}"` | {spec.description} | {training} | {exported} |'


def attention_table() -> str:
    """Return the attentions with their score functions."""
    rows = [_attention_row(spec) for spec in ATTENTIONS.values()]
    head = ["| attention | score | what | a target is decoded | export |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


def _attention_row(spec: AttentionSpec) -> str:
    score = f'`"{spec.score}"`' if spec.score else ""
    passes = "step by step" if spec.within_recurrence else "in one pass"
    exported = ", ".join([*(["ONNX, int8"] if spec.onnx else []), *(["C"] if spec.compiled_greedy else [])]) or "none"
    return f'| `"{spec.kind}"` | {score} | {spec.description} | {passes} | {exported} |'


def with_tables(page: str) -> str:
    """Return the page with both tables up to date."""
    for name, table in (("cells", cell_table()), ("attentions", attention_table())):
        pattern = rf"(<!-- {name}: scripts/architecture_tables.py -->\n).*?(\n<!-- end -->)"
        page, count = re.subn(pattern, lambda match, new=table: match[1] + new + match[2], page, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{PAGE.name}: {count} places for the table of {name}. Expected one, between comments.")
    return page


def main(check: bool) -> None:
    """Write the page, or compare."""
    page = PAGE.read_text(encoding="utf-8")
    new = with_tables(page)
    if not check:
        PAGE.write_text(new, encoding="utf-8")
    elif new != page:
        raise SystemExit(f"{PAGE} is out of date. Run: python scripts/architecture_tables.py")


if __name__ == "__main__":
    main(check="--check" in sys.argv[1:])
