from __future__ import annotations

import pytest

from freerun.data.normalisation import normalise


@pytest.mark.parametrize(
    ("form", "expected"),
    [("NFC", "\xe9ﬁ"), ("NFD", "e\u0301ﬁ"), ("NFKC", "\xe9fi"), ("NFKD", "e\u0301fi"), ("none", "e\u0301ﬁ")],
)
def test_forms(form, expected):
    assert normalise("e\u0301ﬁ", form) == expected


def test_default_is_nfc_with_case_kept():
    assert normalise("E\u0301A") == "\xc9A"


def test_lower_case_stays_in_form():
    assert normalise("ÀB", "NFD", "lower") == "a\u0300b"
    assert normalise("\u212b", "NFC", "lower") == "\xe5"  # the Ångström sign
    assert normalise("\u210c", "NFKC", "lower") == "h"  # a symbol that the form turns into a capital
    assert normalise("J\u030c", "NFC", "lower") == "\u01f0"  # composed in lower case only
    assert normalise("AB", "none", "lower") == "ab"
