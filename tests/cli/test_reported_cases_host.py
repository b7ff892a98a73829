"""What users reported of programs that host a library: threads, fork, argument types (cases 9, 10, 15 and 16)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import freerun
from freerun.bounds import THREADS
from freerun.config import parse_config
from freerun.errors import ConfigError, DataError
from freerun.forcing.registry import settings_of
from tests.notices import logged_notices
from tests.trained import bundles

ROOT = Path(__file__).parents[2]
MAX_THREADS = THREADS.high


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Paths by name: the run of each model for torch, its bundle for onnxruntime and the compiled library."""
    found = {}
    for name, bundle in bundles(tmp_path_factory).items():
        found[name], found[f"{name} exported"] = bundle.parent / "run", bundle
    return found


@pytest.fixture
def four_threads():
    """A host program that gave torch four threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


# -------------------------------------------------------------------------------------------------------------- threads


def seen_by_searches(monkeypatch):
    """The number of torch's threads in each step from now on."""
    from freerun.models.torch_stepper import TorchStepper

    seen = set()
    step = TorchStepper._step

    def spy(self, *arguments):
        seen.add(torch.get_num_threads())
        return step(self, *arguments)

    monkeypatch.setattr(TorchStepper, "_step", spy)
    return seen


@pytest.mark.parametrize(("threads", "used"), [(0, 4), (1, 1), (3, 3)])
def test_a_library_leaves_the_threads_of_its_program_alone(models, monkeypatch, four_threads, threads, used):
    seen = seen_by_searches(monkeypatch)
    model = freerun.load(models["words"], threads=threads, runtime="torch")
    assert torch.get_num_threads() == 4
    model.predict_batch(["A B", "C"])
    assert (torch.get_num_threads(), seen) == (4, {used})


def test_the_threads_come_back_after_an_error(models, monkeypatch, four_threads):
    from freerun.models.torch_stepper import TorchStepper

    def fail(self, *_):
        assert torch.get_num_threads() == 2
        raise ZeroDivisionError

    monkeypatch.setattr(TorchStepper, "_step", fail)
    with pytest.raises(ZeroDivisionError):
        freerun.load(models["words"], threads=2, runtime="torch").predict("A")
    assert torch.get_num_threads() == 4


def test_a_thread_of_the_program_uses_the_requested_number_too(models, monkeypatch, four_threads):
    seen = seen_by_searches(monkeypatch)
    model = freerun.load(models["words"], threads=2, runtime="torch")
    thread = threading.Thread(target=model.predict, args=("A B",))
    thread.start()
    thread.join()
    assert (seen, torch.get_num_threads()) == ({2}, 4)


def test_evaluating_diagnosing_and_training_leave_them_alone_too(models, tmp_path, four_threads):
    pairs = models["words"].parent / "pairs.tsv"
    freerun.evaluate(models["words"], pairs)
    freerun.diagnose(models["words"], pairs)
    assert torch.get_num_threads() == 4
    config = tmp_path / "c.toml"
    config.write_text(
        f'[data]\ntrain = "{pairs}"\ndev = "{pairs}"\n[model]\nhidden_size = 4\nembedding_size = 4\nnum_layers = 1\n'
        "[training]\nupdates = 1\n"
    )
    for threads in (0, 2):
        freerun.train(config, out=tmp_path / f"run {threads}", settings=[f"training.threads={threads}"])
        assert torch.get_num_threads() == 4


def test_training_uses_the_threads_of_its_configuration(models, tmp_path, four_threads):
    pairs = models["words"].parent / "pairs.tsv"
    small = ["model.hidden_size=4", "model.embedding_size=4", "training.updates=1"]
    for threads, used in ((0, "4 threads"), (1, "1 thread;"), (3, "3 threads")):
        settings = [*small, f"training.threads={threads}"]
        with logged_notices() as notices:
            freerun.train(pairs, out=tmp_path / f"run {threads}", dev=pairs, settings=settings)
        assert f"on {used}" in notices[-1]


@pytest.mark.parametrize(("variable", "used"), [("3", 3), (" 2,1", 2), ("none", None), ("0", None), (None, None)])
@pytest.mark.parametrize("command", ["predict", "diagnose"])
def test_a_command_takes_omp_num_threads_or_every_core(
    models, freerun_command, monkeypatch, four_threads, command, variable, used
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    seen = seen_by_searches(monkeypatch)
    more = ["A B", "--runtime", "torch"] if command == "predict" else [models["words"].parent / "pairs.tsv"]
    assert freerun_command(command, models["words"], *more) == (0, "")
    assert seen == {used or len(os.sched_getaffinity(0))}
    assert freerun_command(command, models["words"], *more, "--threads", 5) == (0, "")
    assert seen == {used or len(os.sched_getaffinity(0)), 5}
    assert torch.get_num_threads() == 4
    freerun.load(models["words"], runtime="torch").predict("A")
    assert 4 in seen, "a command's meaning of 0 ends with the command"


def threads_of_the_library(monkeypatch):
    """The threads of every search of the compiled library from now on."""
    from freerun import loading

    seen, greedy = [], loading.CompiledGreedy
    monkeypatch.setattr(
        loading, "CompiledGreedy", lambda model, threads: seen.append(threads) or greedy(model, threads)
    )
    return seen


@pytest.mark.parametrize(("variable", "used"), [("3", 3), (" 2,1", 2), ("none", None), (None, None)])
def test_the_library_has_the_threads_of_a_command_or_one(models, freerun_command, monkeypatch, variable, used):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    seen = threads_of_the_library(monkeypatch)
    assert freerun_command("predict", models["words"], "A B") == (0, "")
    assert freerun_command("predict", models["words"], "A B", "--threads", 5) == (0, "")
    freerun.load(models["words"])
    freerun.load(models["words"], threads=4)
    assert seen == [used or len(os.sched_getaffinity(0)), 5, 1, 4]


@pytest.fixture
def freerun_command(capfd):
    """Run a command in this process; returns its exit code and error message."""
    from freerun.cli import main

    def run(*arguments):
        capfd.readouterr()
        code = main([*map(str, arguments)])
        err = capfd.readouterr().err
        return code, err if code else ""

    return run


@pytest.mark.parametrize("threads", [MAX_THREADS + 1, 100_000, 10**21])
@pytest.mark.parametrize("command", ["predict", "score", "evaluate", "compare", "diagnose"])
def test_more_threads_than_any_machine_uses_are_rejected(models, freerun_command, command, threads):
    pairs = models["words"].parent / "pairs.tsv"
    rest = {"predict": ["ab"], "compare": [models["words"], pairs]}.get(command, [pairs])
    for name in ("words", "words exported", "characters exported"):
        code, err = freerun_command(command, models[name], *rest, "--threads", threads)
        assert code == 2
        assert "--threads" in err
        assert "1024" in err
        assert "Traceback" not in err


def test_too_many_threads_in_the_environment_are_rejected(models, freerun_command, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    assert freerun_command("predict", models["words"], "A") == (
        2,
        "error: OMP_NUM_THREADS: the value is 100000. Expected 0 to 1,024 threads. Choose another number.\n",
    )
    assert freerun_command("predict", models["words"], "A", "--threads", "1") == (0, "")


@pytest.mark.parametrize("name", ["words", "words exported", "characters exported"])
def test_a_number_of_threads_out_of_range_is_rejected_before_a_model_is_read(models, name):
    for threads in (-1, MAX_THREADS + 1, 10**5000):
        with pytest.raises(ConfigError, match=r"threads: the value is .*Expected 0 to 1,024 threads"):
            freerun.load(models[name], threads=threads)
    for threads in (True, False, 2.0, "2", None):
        with pytest.raises(TypeError, match=r"^threads: the value is .*Expected an int from 0 to 1,024"):
            freerun.load(models[name], threads=threads)
    assert freerun.load(models[name], threads=1).predict("A").text is not None


@pytest.mark.parametrize("threads", ["1025", "-1", "true", '"2"', "1e2"])
def test_training_threads_are_bounded(threads, models, freerun_command, tmp_path):
    pairs = models["words"].parent / "pairs.tsv"
    code, err = freerun_command("train", pairs, "--out", tmp_path / "run", "--set", f"training.threads={threads}")
    assert (code, "Expected a whole number from 0 to 1,024." in err) == (2, True)
    assert not (tmp_path / "run").exists()


def test_the_largest_number_of_threads_is_accepted():
    raw = {"data": {"train": "t"}, "training": {"threads": MAX_THREADS}}
    assert parse_config(raw, "c", settings_of).training.threads == MAX_THREADS


# ----------------------------------------------------------------------------------------------------------------- fork

LIMIT = """
import os, signal
signal.alarm(60)  # what hangs is ended, in children too, which inherit no alarm
os.register_at_fork(after_in_child=lambda: signal.alarm(30))
"""
FORKED = """
import sys
import freerun
from freerun.runtime import compiled_greedy, session

def load():
    return freerun.load(model, threads=threads, runtime=runtime, precision=precision)

if __name__ == "__main__":
    kind, model, runtime, precision, threads, beam_size, is_long = eval(sys.argv[1])
    if is_long:  # every call of a graph in a thread of its own, so that signals can end it
        session._SHORT = compiled_greedy._SHORT = -1
    search = freerun.Beam(beam_size)
    texts = ["ab", "cab", "A B", "C A B", "bca"] * 40
    predictor = load()
    expected = [each.text for each in predictor.predict_batch(texts, search)]
    assert any(expected)

    def answers(which):
        chosen = predictor if which == "before" else load()
        return [each.text for each in chosen.predict_batch(texts, search)]

    if kind == "fork":
        child = os.fork()
        if not child:
            assert answers("before") == expected
            assert answers("after") == expected
            sys.exit(7)  # with everything that ends an interpreter: no destructor waits for threads of the parent
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert answers("before") == expected
    else:
        import multiprocessing
        with multiprocessing.get_context("fork").Pool(2) as pool:
            for found in pool.map(answers, ["before", "after", "before"]):
                assert found == expected
    print("done")
"""


@pytest.mark.parametrize("kind", ["fork", "pool"])
@pytest.mark.parametrize(
    ("name", "runtime", "precision", "threads", "beam_size", "is_long"),
    [
        ("words", "torch", "fp32", 0, 1, False),
        ("words", "torch", "fp32", 4, 3, False),
        ("words exported", "onnx", "fp32", 0, 1, False),
        ("words exported", "onnx", "fp32", 2, 1, True),
        ("words exported", None, "fp32", 2, 3, False),
        ("words exported", None, "fp32", 2, 3, True),
        ("characters exported", None, "fp32", 2, 1, True),
        ("characters exported", None, "int8", 2, 1, False),
        ("characters exported", "onnx", "int8", 2, 2, False),
    ],
)
def test_a_forked_child_answers(models, tmp_path, kind, name, runtime, precision, threads, beam_size, is_long):
    """With the predictor of its parent, and with one of its own, and it ends."""
    script = tmp_path / "forked.py"
    script.write_text(LIMIT + FORKED)
    arguments = (kind, str(models[name]), runtime, precision, threads, beam_size, is_long)
    done = subprocess.run(
        [sys.executable, script, repr(arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-2000:]


CHILD = """
import torch
torch.set_num_threads(4)
import freerun
{use}
child = os.fork()
if not child:
    {inside}
    os._exit(torch.get_num_threads())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), torch.get_num_threads())
"""


@pytest.mark.parametrize(
    ("use", "inside", "printed"),
    [
        ("m = freerun.load(MODEL, threads=3, runtime='torch')", "m.predict('A')", "1 4"),
        (
            "m = freerun.load(MODEL, runtime='torch')",
            "freerun.load(MODEL, threads=3, runtime='torch').predict('A')",
            "1 4",
        ),
        ("m = freerun.load(MODEL, threads=3)", "m.predict('A')", "4 4"),  # the library has no threads between calls
        ("", "pass", "4 4"),  # a program that predicts nothing keeps its threads
    ],
)
def test_a_forked_child_has_one_thread(models, use, inside, printed):
    code = LIMIT + CHILD.format(use=use, inside=inside).replace("MODEL", repr(str(models["words"])))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, printed), done.stderr


def test_a_fork_imports_no_torch(models):
    code = (
        f"import os, sys, freerun; m = freerun.load({str(models['characters exported'])!r}); m.predict('ab')\n"
        "child = os.fork()\n"
        "if not child: os._exit('torch' in sys.modules)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


LOCKED = """
import threading, time
import freerun
from freerun.runtime.bundle import Bundle
m = freerun.load(MODEL, runtime=RUNTIME)
read, entered = Bundle.checked_bytes, threading.Event()
def slow(self, name):
    entered.set()
    time.sleep(2)
    return read(self, name)
Bundle.checked_bytes = slow
threading.Thread(target=m.predict, args=("ab",)).start()
entered.wait()
child = os.fork()  # while the other thread opens a graph, and holds the lock
Bundle.checked_bytes = read
if not child:
    m.predict("ab")
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("runtime", [None, "onnx"])
def test_a_lock_that_a_thread_held_at_the_fork_is_free_in_the_child(models, runtime):
    code = LIMIT + LOCKED.replace("MODEL", repr(str(models["characters exported"]))).replace("RUNTIME", repr(runtime))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "7"), done.stderr


# --------------------------------------------------------------------------------------------------- types of arguments


@pytest.fixture(scope="module")
def predictor(models):
    return freerun.load(models["characters exported"])


class Pair:
    """What ``score_stream`` takes."""

    def __init__(self, source, target):
        self.source, self.target = source, target


TEXTS = "Expected a list or another iterable of str (predict() takes a single one)."
PAIRS = "Expected a list or another iterable of pairs with the attributes source and target."
PAIR = "Expected an object with the attributes source and target, both str."
IN_MEMORY = "pairs: the value is 7 (int). Expected a path, or an iterable of pairs (source, target)."
SOURCE = "source: the value is 7 (int). Expected a path, or an iterable of pairs (source, target), or a configuration."
DEV = "dev: the value is 7 (int). Expected a path, or an iterable of pairs (source, target)."
WRONG = [
    (lambda m: m.predict(b"ab"), "text: the value is b'ab' (bytes). Expected a str, for example value.decode()."),
    (lambda m: m.predict(None), "text: the value is None. Expected a str."),
    (lambda m: m.predict(["ab"]), "text: the value is ['ab'] (list). Expected a str."),
    (lambda m: m.predict("ab", prefix=None), "prefix: the value is None. Expected a str."),
    (
        lambda m: m.predict("ab", "beam"),
        "search: the value is 'beam' (str). Expected a freerun.Greedy, a freerun.Beam or a freerun.Sampling.",
    ),
    (lambda m: m.predict_batch("abc"), f"texts: the value is 'abc' (str). {TEXTS}"),
    (lambda m: m.predict_batch(b"abc"), f"texts: the value is b'abc' (bytes). {TEXTS}"),
    (lambda m: m.predict_batch(None), f"texts: the value is None. {TEXTS}"),
    (lambda m: m.predict_batch({"ab"}), f"texts: the value is {{'ab'}} (set). {TEXTS}"),
    (lambda m: m.predict_batch({"ab": 1}), f"texts: the value is {{'ab': 1}} (dict). {TEXTS}"),
    (lambda m: m.predict_batch(["ab", 3]), "texts[1]: the value is 3 (int). Expected a str."),
    (
        lambda m: m.predict_batch(["ab", b"c"]),
        "texts[1]: the value is b'c' (bytes). Expected a str, for example value.decode().",
    ),
    (
        lambda m: m.predict_batch([], 1),
        "search: the value is 1 (int). Expected a freerun.Greedy, a freerun.Beam or a freerun.Sampling.",
    ),
    (lambda m: m.predict_stream("abc"), f"texts: the value is 'abc' (str). {TEXTS}"),
    (lambda m: m.predict_stream(5), f"texts: the value is 5 (int). {TEXTS}"),
    (
        lambda m: m.predict_stream(["abc"], 5),
        "search: the value is 5 (int). Expected a freerun.Greedy, a freerun.Beam or a freerun.Sampling.",
    ),
    (lambda m: list(m.predict_stream(iter(["a", None]))), "texts[1]: the value is None. Expected a str."),
    (lambda m: m.score_stream("abc"), f"pairs: the value is 'abc' (str). {PAIRS}"),
    (lambda m: m.score_stream(None), f"pairs: the value is None. {PAIRS}"),
    (lambda m: list(m.score_stream([("a", "b")])), f"pairs[0]: the value is ('a', 'b') (tuple). {PAIR}"),
    (lambda m: freerun.load(123), "model: the value is 123 (int). Expected a path (str or os.PathLike)."),
    (lambda m: freerun.load(b"m"), "model: the value is b'm' (bytes). Expected a path (str or os.PathLike)."),
    (lambda m: freerun.load(None), "model: the value is None. Expected a path (str or os.PathLike)."),
    (
        lambda m: freerun.load("m", ensemble="m"),
        "ensemble: the value is 'm' (str). Expected a list or another iterable of paths.",
    ),
    (
        lambda m: freerun.load("m", ensemble=[3]),
        "ensemble[0]: the value is 3 (int). Expected a path (str or os.PathLike).",
    ),
    (lambda m: freerun.load("m", max_length=True), "max_length: the value is True (bool). Expected an int."),
    (lambda m: freerun.load("m", max_length=2.0), "max_length: the value is 2.0 (float). Expected an int."),
    (lambda m: freerun.evaluate(7), "model: the value is 7 (int). Expected a path (str or os.PathLike)."),
    (lambda m: freerun.evaluate("m", 7), IN_MEMORY),
    (lambda m: freerun.evaluate("m", "p", beam_size="2"), "beam_size: the value is '2' (str). Expected an int."),
    (lambda m: freerun.evaluate("m", "p", beam_size=True), "beam_size: the value is True (bool). Expected an int."),
    (lambda m: freerun.diagnose(7), "model: the value is 7 (int). Expected a path (str or os.PathLike)."),
    (lambda m: freerun.diagnose("m", 7), IN_MEMORY),
    (lambda m: freerun.train(7), SOURCE),
    (lambda m: freerun.train("c", out=7), "out: the value is 7 (int). Expected a path (str or os.PathLike)."),
    (lambda m: freerun.train("c", dev=7), DEV),
    (
        lambda m: freerun.train("c", settings="a.b=1"),
        (
            "settings: the value is 'a.b=1' (str). Expected a list or another iterable of str, for example "
            '["training.seed=3"].'
        ),
    ),
    (lambda m: freerun.train("c", settings=[("a", 1)]), "settings[0]: the value is ('a', 1) (tuple). Expected a str."),
    (lambda m: freerun.train("c", resume="yes"), "resume: the value is 'yes' (str). Expected True or False."),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_an_argument_of_another_type_is_a_type_error_that_names_it(predictor, call, message):
    with pytest.raises(TypeError) as error:
        call(predictor)
    assert str(error.value) == message


def test_the_model_of_an_export_is_a_path_and_no_predictor(predictor):
    with pytest.raises(TypeError, match=r"model: the value is <freerun.*\(Predictor\). Expected the path"):
        freerun.export(predictor)


def test_a_digest_is_a_str(models):
    with pytest.raises(TypeError, match=r"digest: the value is 5 \(int\)\. Expected a str"):
        freerun.load(models["words"], digest=5)


def test_an_unknown_mean_is_rejected_when_the_model_is_loaded(models):
    with pytest.raises(ConfigError, match=r"mean: unknown mean 'median'\. Expected 'arithmetic' or 'geometric'"):
        freerun.load(models["words"], ensemble=[models["words"]], mean="median")


def test_every_iterable_in_an_order_is_a_batch(predictor):
    expected = predictor.predict_batch(["ab", "ba"])
    for texts in (
        ("ab", "ba"),
        iter(["ab", "ba"]),
        (text for text in ["ab", "ba"]),
        {"ab": 1, "ba": 2}.keys().__iter__(),
    ):
        assert predictor.predict_batch(texts) == expected
    assert list(predictor.predict_stream(text for text in ["ab", "ba"])) == expected
    assert predictor.predict_batch([]) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a\tb", "contains a tab. Expected one line of text. Replace it with a space."),
        ("a\nb", "contains a line feed. Expected one line of text. Replace it with a space."),
        ("ab\0", "contains a NUL character. Expected one line of text. Replace it with a space."),
        (
            "a\ud83db",
            (
                "contains half a surrogate pair (U+D83D). Expected complete Unicode characters. Decode the text with "
                "the right encoding, and without surrogateescape."
            ),
        ),
    ],
)
def test_a_text_that_no_file_of_texts_can_hold_is_a_data_error(predictor, text, what):
    """As on the command line and in files of pairs."""
    for call in (lambda: predictor.predict_batch(["ab", text]), lambda: list(predictor.predict_stream(["ab", text]))):
        with pytest.raises(DataError) as error:
            call()
        assert str(error.value) == f"text 2: {what}"
    for pair, side in ((Pair(text, "A"), "source"), (Pair("ab", text), "target")):
        with pytest.raises(DataError) as error:
            list(predictor.score_stream([Pair("ab", "A"), pair]))
        assert str(error.value) == f"{side} of pair 2: {what}"


def test_other_unusual_characters_are_texts(predictor):
    for text in ("\x1b[31m", "\u2028", "a\u200db", "\r", "", "\U0010ffff", "\ufffe"):
        assert len(predictor.predict(text).hypotheses) == 1
    assert next(iter(predictor.score_stream([Pair("ab", "A\x1b")]))).score is None


def test_every_function_of_the_package_is_tried(predictor):
    """A new one needs a test of what it says of a wrong type, as here and in ``test_python_operations``."""
    functions = {name for name in freerun.__all__ if name.islower() and name != "__version__"}
    assert functions == {"load", "train", "evaluate", "diagnose", "compare", "export", "study", "tune"}
    methods = {name for name in vars(type(predictor)) if re.fullmatch(r"[a-z]\w*", name)}
    of_attention = {"has_attention", "check_attention"}
    for_services = {"encode", "predict_encoded", "prefix_ids", "encode_pairs", "score_encoded"}
    assert methods == {"predict", "predict_batch", "predict_stream", "score_stream"} | of_attention | for_services
