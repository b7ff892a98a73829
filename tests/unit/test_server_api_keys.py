"""Keys of clients, and the file that they are read from."""

from __future__ import annotations

import pytest

from freerun.errors import UserError
from freerun.server.api_keys import ApiKeys, others_can_read, read_keys

KEY, OTHER = "k" * 16, "0123456789abcdef0"


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "keys"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_each_key_of_a_file_is_accepted(file):
    keys = read_keys(file(f"# mine\n{KEY}\r\n\n  {OTHER}  \n"))
    assert keys.accept(KEY)
    assert keys.accept(OTHER)


@pytest.mark.parametrize("given", [None, "", "# mine", KEY[:-1], KEY + "k", KEY.upper(), f" {KEY}", "\ud800", "é" * 16])
def test_nothing_else_is_accepted(file, given):
    assert not read_keys(file(f"# mine\n{KEY}\n")).accept(given)


def test_keys_are_not_in_the_memory_that_messages_are_made_of():
    assert KEY not in repr(vars(ApiKeys([KEY])))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "there is no key in it"),
        ("# only a comment\n\n", "there is no key in it"),
        (f"{KEY}\nshort\n", r"keys:2: not a key \(5 bytes\)"),
        ("two words in a line\n", r"keys:1: not a key \(19 bytes\)"),
        (f"{KEY}é\n", "not a key"),
        (b"\xff" * 20, "not a key"),
        (f"{KEY}\0\n", "not a key"),
        ("k" * 1_000_001, "larger than 1 MB"),
    ],
)
def test_a_file_that_is_no_list_of_keys_is_rejected(file, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read_keys(file(content))
    assert KEY not in str(caught.value)
    assert "openssl rand -hex 32" in str(caught.value)


def test_a_missing_file_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r"none: cannot be read \(No such file or directory\)"):
        read_keys(tmp_path / "none")


@pytest.mark.parametrize(("mode", "expected"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_can_read_is_noticed(file, mode, expected):
    path = file(KEY)
    path.chmod(mode)
    assert others_can_read(path) is expected
