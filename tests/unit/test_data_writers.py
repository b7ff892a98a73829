from __future__ import annotations

import pytest

from freerun.data.readers import Pair, read_pairs
from freerun.data.writers import tsv, write_pairs


def test_what_is_written_is_read_back(tmp_path):
    write_pairs(tmp_path / "x.tsv", [Pair("ä b", "c", 1), Pair("", "", 2)])
    assert (tmp_path / "x.tsv").read_bytes() == "ä b\tc\n\t\n".encode()
    assert list(read_pairs(tmp_path / "x.tsv")) == [Pair("ä b", "c", 1), Pair("", "", 2)]


@pytest.mark.parametrize("pair", [("a\tb", "c"), ("a", "b\n")])
def test_fields_that_tsv_cannot_hold(pair):
    with pytest.raises(ValueError, match="cannot hold a tab or line end"):
        tsv([pair])
