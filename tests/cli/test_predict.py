from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Freerun


def test_one_line_out_for_each_text_in_their_order(freerun: Freerun, trained: Path) -> None:
    single = [freerun("predict", trained / "run", text).out for text in ("abc", "ba", "gfedcb")]
    assert freerun("predict", trained / "run", "abc", "ba", "gfedcb").out == "".join(single)


def test_an_empty_line_gives_an_empty_line(freerun: Freerun, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("abc\n\nba\n")
    lines = freerun("predict", trained / "run", "--input", tmp_path / "in").out.split("\n")
    assert len(lines) == 4
    assert lines[0] and lines[2]
    assert lines[1] == lines[3] == ""


def test_an_empty_line_does_not_shift_the_draws(freerun: Freerun, trained: Path, tmp_path: Path) -> None:
    drawing = ("--sample", "--temperature", "3", "--seed", "5")
    (tmp_path / "in").write_text("abc\n\ngfedcb\n")
    (tmp_path / "full").write_text("abc\nabc\ngfedcb\n")
    some = freerun("predict", trained / "run", "--input", tmp_path / "in", *drawing).out.split("\n")
    full = freerun("predict", trained / "run", "--input", tmp_path / "full", *drawing).out.split("\n")
    assert (some[0], some[2]) == (full[0], full[2])


def test_several_hypotheses_are_ranked_lines_and_a_blank_one(freerun: Freerun, trained: Path) -> None:
    result = freerun("predict", trained / "run", "abc", "ba", "--num-hypotheses", 3)
    blocks = result.out.split("\n\n")
    assert blocks[2] == "" and len(blocks) == 3
    for block in blocks[:2]:
        rows = [line.split("\t") for line in block.split("\n")]
        assert [row[0] for row in rows] == ["1", "2", "3"]
        assert [float(row[1]) for row in rows] == sorted((float(row[1]) for row in rows), reverse=True)


def test_json_has_the_keys_of_the_contract(freerun: Freerun, trained: Path) -> None:
    value = json.loads(freerun("predict", trained / "run", "abc", "--json").out)
    assert value.keys() == {"source", "hypotheses"}
    (best,) = value["hypotheses"]
    assert best.keys() == {"text", "tokens", "score", "rank_score", "token_scores", "truncated"}
    assert " ".join(best["tokens"]) == best["text"]
    assert len(best["token_scores"]) == len(best["tokens"]) + 1
    assert sum(best["token_scores"]) == pytest.approx(best["score"], abs=1e-6)


def test_score_gives_the_score_that_predict_printed(freerun: Freerun, trained: Path, tmp_path: Path) -> None:
    texts = ["abc", "ba", "gfedcb", "c"]
    found = [
        json.loads(x) for x in freerun("predict", trained / "run", *texts, "--beam-size", 4, "--json").out.splitlines()
    ]
    pairs = "".join(f"{x['source']}\t{x['hypotheses'][0]['text']}\n" for x in found)
    (tmp_path / "pairs.tsv").write_text(pairs)
    lines = freerun("score", trained / "run", tmp_path / "pairs.tsv", "--json").out.splitlines()
    for line, prediction in zip(map(json.loads, lines), found, strict=True):
        assert line.keys() == {"source", "target", "score", "token_scores"}
        assert line["score"] == pytest.approx(prediction["hypotheses"][0]["score"], abs=1e-5)
        assert line["token_scores"] == pytest.approx(prediction["hypotheses"][0]["token_scores"], abs=1e-5)


def test_plain_score_is_one_number_a_line(freerun: Freerun, trained: Path) -> None:
    lines = freerun("score", trained / "run", trained / "dev.tsv").out.splitlines()
    assert len(lines) == 20
    assert all(float(line) < 0 for line in lines)


def test_predictions_do_not_depend_on_batch_mates(freerun: Freerun, trained: Path) -> None:
    texts = [line.split("\t")[0] for line in (trained / "train.tsv").read_text().splitlines()]
    alone = freerun("predict", trained / "run", texts[0], "--json").out
    together = freerun("predict", trained / "run", *texts, "--json").out.splitlines()[0]
    one, other = (json.loads(x)["hypotheses"][0] for x in (alone, together))
    assert one["tokens"] == other["tokens"]
    assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_unknown_symbols_are_counted_and_the_other_case_suggested(freerun: Freerun, trained: Path) -> None:
    result = freerun("predict", trained / "run", "ABA")
    assert result.code == 0 and result.out.count("\n") == 1
    assert "3 source tokens are not in the vocabulary" in result.err
    assert "'A' (2), 'B' (1)" in result.err
    assert "lower case" in result.err


def test_no_case_is_suggested_where_it_would_not_help(freerun: Freerun, trained: Path) -> None:
    err = freerun("predict", trained / "run", "AZ").err
    assert "2 source tokens are not in the vocabulary" in err
    assert "case" not in err


def test_an_output_at_the_length_bound_is_counted(freerun: Freerun, trained: Path) -> None:
    result = freerun("predict", trained / "run", "gfedcb", "abcde", "--max-length", 1, "--json")
    assert all(json.loads(line)["hypotheses"][0]["truncated"] for line in result.out.splitlines())
    assert "2 of 2 inputs have an output that hit the length bound" in result.err


def test_output_goes_to_a_file_that_replaces_another_only_when_complete(
    freerun: Freerun, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("old")
    (tmp_path / "in").write_bytes(b"abc\n\xff\n")
    assert freerun("predict", trained / "run", "--input", tmp_path / "in", "--output", tmp_path / "out").code == 2
    assert (tmp_path / "out").read_text() == "old"
    assert freerun("predict", trained / "run", "abc", "--output", tmp_path / "out").out == ""
    assert (tmp_path / "out").read_text() == freerun("predict", trained / "run", "abc").out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_texts_come_from_standard_input(freerun: Freerun, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc\nba\n")))
    assert freerun("predict", trained / "run").out == freerun("predict", trained / "run", "abc", "ba").out


def test_a_prefix_begins_every_output(freerun: Freerun, trained: Path) -> None:
    out = freerun("predict", trained / "run", "abc", "--prefix", "G F", "--num-hypotheses", 2).out
    assert [line.split("\t")[2][:3] for line in out.splitlines() if line] == ["G F", "G F"]


def test_a_prefix_that_the_model_cannot_write(freerun: Freerun, trained: Path) -> None:
    result = freerun("predict", trained / "run", "abc", "--prefix", "G ?")
    assert result.code == 2 and "'?'" in result.err


def test_an_ensemble_of_a_model_with_itself_is_that_model(freerun: Freerun, trained: Path) -> None:
    one = json.loads(freerun("predict", trained / "run", "abc", "--json").out)
    for mean in ("arithmetic", "geometric"):
        arguments = ("abc", "--ensemble", trained / "run", "--ensemble-mean", mean, "--json")
        two = json.loads(freerun("predict", trained / "run", *arguments).out)
        assert two["hypotheses"][0]["score"] == pytest.approx(one["hypotheses"][0]["score"], abs=1e-5)


def test_the_same_seed_draws_the_same(freerun: Freerun, trained: Path) -> None:
    drawing = ("gfedcb", "--sample", "--temperature", 2, "--num-hypotheses", 5)
    first, again, other = (freerun("predict", trained / "run", *drawing, "--seed", seed).out for seed in (1, 1, 2))
    assert first == again != other


def test_sampling_at_temperature_0_is_greedy(freerun: Freerun, trained: Path) -> None:
    greedy = freerun("predict", trained / "run", "gfedcb", "abc").out
    assert freerun("predict", trained / "run", "gfedcb", "abc", "--sample", "--temperature", 0).out == greedy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--temperature", 2, "abc"), "--temperature without --sample"),
        (("--sample", "--beam-size", 2, "abc"), "--sample with an option of beam search"),
        (("--input", "x", "abc"), "both texts and --input"),
        (("a\tb",), "has a tab"),
        (("a\nb",), "has a line feed"),
        (("--beam-size", 0, "abc"), "--beam-size"),
        (("--input", "no-such-file"), "no-such-file"),
    ],
)
def test_bad_arguments(freerun: Freerun, trained: Path, arguments: tuple[object, ...], message: str) -> None:
    result = freerun("predict", trained / "run", *arguments)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err


def test_a_terminal_on_standard_input_gets_usage(
    freerun: Freerun, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    result = freerun("predict", trained / "run")
    assert result.code == 2 and "no texts" in result.err


def test_a_target_with_an_unknown_token_has_no_score(freerun: Freerun, trained: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("bcd\tB C\nce\tC q E\nad\tq\nad\tA x q\n")
    result = freerun("score", trained / "run", pairs, "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [line["score"] is None for line in lines] == [False, True, True, True]
    assert [[score is None for score in line["token_scores"]] for line in lines] == [
        [False, False, False],
        [False, True, False, False],
        [True, False],
        [False, True, True, False],
    ]
    assert lines[0]["score"] == pytest.approx(sum(lines[0]["token_scores"]))
    assert result.err.count("warning") == 1
    assert (
        "warning: 3 of 4 targets have no score (null), because they have tokens that are not in the vocabulary: "
        "'q' (3), 'x' (1). The model can never write them."
    ) in result.err
    plain = freerun("score", trained / "run", pairs)
    assert plain.out.splitlines()[1:] == ["null"] * 3
    assert float(plain.out.splitlines()[0]) == pytest.approx(lines[0]["score"], abs=1e-6)
    assert "warning: 3 of 4 targets" in plain.err
    assert freerun("score", trained / "run", trained / "dev.tsv").err == ""


def test_attention_needs_json_and_a_model_that_has_some(freerun: Freerun, trained: Path) -> None:
    result = freerun("predict", trained / "run", "abc", "--attention")
    assert (result.code, "--attention without --json" in result.err) == (2, True)
    result = freerun("predict", trained / "run", "abc", "--json", "--attention")
    assert (result.code, result.out, "no attention weights to return" in result.err) == (2, "", True)
