from __future__ import annotations

import gzip
import lzma
import os
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest

from freerun.data.decompression import open_lines
from freerun.data.readers import Pair, read_pairs, read_texts
from freerun.errors import DataError, MissingExtraError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd.compress, "": bytes}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def content(path: Path) -> bytes:
    with open_lines(path, "it") as stream:
        return stream.read()


def message(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_pairs(path))
    return str(caught.value)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_the_suffix_decides(tmp_path, suffix):
    compress = COMPRESS[suffix]
    parts = [b"a\tb\n" * 70_000, b"\n\xff\0", b""]
    whole = b"".join(map(compress, parts))
    assert content(write(tmp_path / f"x{suffix.upper()}", whole)) == b"".join(parts)


@pytest.mark.parametrize("name", ["x.tsv.zst", "x.jsonl.zst", "x.ZST"])
def test_pairs_and_texts(tmp_path, name):
    lines = b'{"source": "a", "target": "b"}\n' if "json" in name else b"\xef\xbb\xbfa\tb\r\n"
    path = write(tmp_path / name, zstd.compress(lines))
    assert list(read_pairs(path)) == [Pair("a", "b", 1)]
    assert list(read_texts(write(tmp_path / "t.zst", zstd.compress("ä\n\n".encode())), "t")) == ["ä", ""]


def test_damaged_zstd_files(tmp_path):
    lines = b"".join(b"%d\t%d\n" % (number, number**2) for number in range(20_000))
    whole = zstd.compress(lines, options={zstd.CompressionParameter.checksum_flag: 1})
    path = tmp_path / "x.tsv.zst"
    for length in (1, 5, len(whole) // 2, len(whole) - 1):
        assert message(write(path, whole[:length])) == (
            f"{path}: the compressed file is truncated. Expected a complete .gz, .xz or .zst file. Copy or compress "
            "the file again."
        )
    for wrong in (b"a\tb\n", whole + b"more", whole[:-4] + bytes(4)):
        assert message(write(path, wrong)).startswith(f"{path}: the compressed file is damaged: ")


def test_frames_to_skip(tmp_path):
    frame = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    assert content(write(tmp_path / "x.zst", frame + zstd.compress(b"a") + frame + zstd.compress(b"b"))) == b"ab"


def with_window(log: int) -> bytes:
    options = {zstd.CompressionParameter.window_log: log, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    return compressor.compress(b"a\tb\n") + compressor.flush()


def test_a_large_window(tmp_path):
    assert list(read_pairs(write(tmp_path / "x.tsv.zst", with_window(27)))) == [Pair("a", "b", 1)]
    path = write(tmp_path / "y.tsv.zst", with_window(28))
    assert message(path) == (
        f"{path}: the compressed file requires a window of more than 128 MiB. Expected a .zst file that can be read "
        "with little memory. Compress it again without --long, or with --long=27."
    )


def test_little_is_in_memory(tmp_path):
    path = write(tmp_path / "x.tsv.zst", zstd.compress(b"some source\tsome target\n" * 400_000))
    tracemalloc.start()
    count = sum(1 for _ in read_pairs(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 400_000
    assert peak < 2**20


def test_only_reading_is_reported(tmp_path):
    path = write(tmp_path / "x.gz", gzip.compress(b"a\n" * 10_000)[:-9])
    with pytest.raises(DataError, match="it: the compressed file is truncated"):
        content(path)
    with pytest.raises(OSError, match="of the caller"), open_lines(path, "it"):
        raise OSError("of the caller")
    with pytest.raises(DataError, match="it: no such file"):
        content(tmp_path / "y")


def test_a_pattern_outside_a_list(tmp_path):
    for name, more in (("x.tsv", ""), ("*.tsv", ", or write a pattern in a list, data.train = [...]")):
        path = tmp_path / name
        assert message(path) == f"{path}: no such file. Expected a file that exists. Check the path{more}."


def test_lines_of_a_pipe_are_read_as_they_come():
    inner, outer = os.pipe()
    with os.fdopen(outer, "wb", buffering=0) as writer:
        late = threading.Timer(20, writer.close)  # so that a reader that waits for more fails instead of hanging
        late.start()
        writer.write(b"one\n")
        with open_lines(Path(f"/dev/fd/{inner}"), "it") as stream:
            os.close(inner)
            assert stream.readline() == b"one\n"
            writer.write(b"two\n")
            assert stream.readline() == b"two\n"
        late.cancel()


def test_without_the_package(tmp_path, monkeypatch):
    for name in ("backports", "backports.zstd", "compression", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError) as caught:
        list(read_pairs(write(tmp_path / "x.tsv.zst", b"")))
    assert str(caught.value) == (
        f"backports.zstd: this package is not installed, and reading {tmp_path / 'x.tsv.zst'} needs it. Expected the "
        "extra 'zstd'. Install it with: pip install 'freerun[zstd]'."
    )
