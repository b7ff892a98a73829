"""The commands: each parses and calls one module of ``commands``, imported inside it. The one place of exit codes.

Over 350 lines, because the options of all commands, which share types and help texts, are in one place.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from freerun.bounds import (
    BEAM_SIZE,
    EXAMPLES,
    LENGTH_PENALTY,
    MAX_LENGTH,
    MAX_LOSS,
    SAMPLES,
    SEED,
    TEMPERATURE,
    THREADS,
    TOP_K,
)
from freerun.errors import ConfigError, Interrupted, MissingExtraError, UserError
from freerun.streams import discard_output, prepare_streams, write_notice
from freerun.text import one_line, shown
from freerun.threads import in_a_command
from freerun.version import VERSION

__all__ = ["app", "main"]

app = typer.Typer(
    name="freerun",
    help="Turn a file of sequence pairs into a small, fast sequence-to-sequence model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="The built-in data sets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")


Mean = Literal["arithmetic", "geometric"]
Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A bundle folder, or a run folder (then its best bundle).")
]
Threads = Annotated[
    int,
    typer.Option(
        min=0,
        max=THREADS.high,
        help="Threads; 0: OMP_NUM_THREADS or every core for torch, one for an exported model in onnxruntime.",
    ),
]
Runtime = Annotated[
    Literal["torch", "onnx"] | None,
    typer.Option(help="What runs the model; otherwise torch where it was not exported, else the fastest way."),
]
Precision = Annotated[
    Literal["fp32", "int8"], typer.Option(help="int8: the graphs that freerun export --quantize int8 wrote.")
]
Pairs = Annotated[
    list[Path], typer.Argument(metavar="PAIRS.tsv|SRC TGT", help="Pairs, or two parallel files: source and target.")
]
PairsOrDev = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="PAIRS.tsv|SRC TGT", help="Pairs, or two parallel files. Default: the run's development pairs."
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="A,B", help="Columns of source and target in a TSV file, counted from 1. Default: those of MODEL's run."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
BeamSize = Annotated[
    int, typer.Option(min=1, max=BEAM_SIZE.high, help="Hypotheses kept at each step; 1 is greedy search.")
]
LengthPenalty = Annotated[
    float,
    typer.Option(
        min=0.0, max=LENGTH_PENALTY.high, help="Rank by score / ((5 + n) / 6) ** X; 0 ranks by the score itself."
    ),
]
EarlyStop = Annotated[
    bool, typer.Option("--early-stop", help="With --length-penalty: faster, but may miss the best output.")
]
MaxLength = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_LENGTH.high, help="Most tokens an output may have; otherwise the bundle's bound."),
]
Ensemble = Annotated[
    list[Path] | None, typer.Option(metavar="MODEL", help="Average with this model too; may be repeated.")
]
EnsembleMean = Annotated[Mean, typer.Option(help="The mean of the ensemble's distributions.")]


@app.command()
def train(
    subject: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="CONFIG.toml|PAIRS.tsv|SRC TGT",
            help="A configuration; or pairs: source<TAB>target lines; or two parallel files.",
        ),
    ] = None,
    dev: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DEV.tsv",
            help="Development pairs; twice for parallel files: source, then target. "
            "Default: 5 % of the sources are held out.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; otherwise runs/<name of the config or pairs>.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key, such as training.updates=5000; may be repeated."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=SEED.low, max=SEED.high, help="The same as --set training.seed=N.")
    ] = None,
    init: Annotated[Path | None, typer.Option(metavar="MODEL", help="Start from this model's weights.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume the run in the run directory, if there is one; training.updates or epochs may be larger now.",
        ),
    ] = False,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B", help="Columns of source and target in a TSV file, counted from 1.")
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="With --resume: import the Python code that the run directory names.")
    ] = False,
) -> None:
    """Train a model on pairs; without a configuration, everything is chosen from the data and explained."""
    from freerun.commands.train import train as run
    from freerun.experiment.pairs_spec import training_files
    from freerun.experiment.request import TrainRequest

    _refuse_without("train", "--resume", resume, {"--trust-code": trust_code or None})
    pairs, development = training_files(subject or [], dev or [])
    request = TrainRequest(
        source=pairs,
        dev=development,
        out=out,
        settings=tuple(settings or ()),
        seed=seed,
        init=init,
        resume=resume,
        columns=columns,
        trust_code=trust_code,
    )
    run(request)


@app.command()
def predict(
    model: Model,
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Source texts.")] = None,
    input_: Annotated[
        str | None, typer.Option("--input", metavar="FILE|-", help="One source text a line; -: standard input.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write here instead of to standard output.")] = None,
    line_buffered: Annotated[
        bool, typer.Option("--line-buffered", help="Answer each line before the next is read: slower, for dialogues.")
    ] = False,
    beam_size: BeamSize = 1,
    num_hypotheses: Annotated[
        int | None,
        typer.Option(min=1, max=SAMPLES.high, help="Print this many outputs an input, as rank, score and text."),
    ] = None,
    length_penalty: LengthPenalty = 0.0,
    early_stop: EarlyStop = False,
    max_length: MaxLength = None,
    prefix: Annotated[str, typer.Option(help="Text that every output is made to begin with.")] = "",
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw from the model instead of searching for the best.")
    ] = False,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.0, max=TEMPERATURE.high, help="With --sample: below 1 bolder, 0 greedy."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, max=TOP_K.high, help="With --sample: only among the N best tokens.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="With --sample: only among the best tokens of this share.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=SEED.low, max=SEED.high, help="With --sample: another seed, other draws.")
    ] = None,
    ensemble: Ensemble = None,
    ensemble_mean: EnsembleMean = "arithmetic",
    runtime: Runtime = None,
    precision: Precision = "fp32",
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Predict: one line out for each text in, in their order."""
    from freerun.commands.predict import PredictRequest
    from freerun.commands.predict import predict as run
    from freerun.search.methods import Beam, Sampling, Search

    drawing = {"--temperature": temperature, "--top-k": top_k, "--top-p": top_p, "--seed": seed}
    _refuse_without("predict", "--sample", sample, drawing)
    _refuse_without("predict", "--length-penalty", length_penalty > 0, {"--early-stop": early_stop or None})
    if sample and (beam_size > 1 or length_penalty):
        raise UserError(
            "predict", "--sample does not search", "Expected no --beam-size and no --length-penalty beside it"
        )
    search: Search
    if sample:
        warm = 1.0 if temperature is None else temperature
        search = Sampling(num_hypotheses or 1, warm, top_k, top_p, seed or 0)
    else:
        search = Beam(beam_size, num_hypotheses or 1, length_penalty, early_stop)
    run(
        PredictRequest(
            model=model,
            texts=texts or [],
            search=search,
            input=input_,
            output=output,
            prefix=prefix,
            max_length=max_length,
            ensemble=ensemble or [],
            mean=ensemble_mean,
            threads=threads,
            runtime=runtime,
            precision=precision,
            many=num_hypotheses is not None,
            json=as_json,
            line_buffered=line_buffered,
        )
    )


@app.command()
def score(
    model: Model,
    pairs: Pairs,
    columns: Columns = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Print the total natural-log probability of each given target, a line a pair; null if it has unknown tokens."""
    from freerun.commands.score import score as run
    from freerun.experiment.pairs_spec import chosen_columns, one_location

    run(model, one_location(pairs, "score"), as_json, threads, chosen_columns(columns))


@app.command()
def evaluate(
    model: Model,
    pairs: PairsOrDev = None,
    columns: Columns = None,
    beam_size: BeamSize = 1,
    length_penalty: LengthPenalty = 0.0,
    early_stop: EarlyStop = False,
    max_length: MaxLength = None,
    examples: Annotated[
        int, typer.Option(min=0, max=EXAMPLES.high, help="Print so many random outputs beside their references.")
    ] = 0,
    worst: Annotated[int, typer.Option(min=0, max=EXAMPLES.high, help="Print so many of the worst outputs.")] = 0,
    by_length: Annotated[bool, typer.Option("--by-length", help="Give the figures by source length too.")] = False,
    ensemble: Ensemble = None,
    ensemble_mean: EnsembleMean = "arithmetic",
    runtime: Runtime = None,
    precision: Precision = "fp32",
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Measure a model on pairs: fed with the right tokens and with its own, trivial baselines beside."""
    from freerun.commands.evaluate import EvaluateRequest
    from freerun.commands.evaluate import evaluate as run
    from freerun.experiment.pairs_spec import chosen_columns, named_files

    _refuse_without("evaluate", "PAIRS", bool(pairs), {"--columns": columns})
    _refuse_without("evaluate", "--length-penalty", length_penalty > 0, {"--early-stop": early_stop or None})
    if as_json and (examples or worst):
        raise UserError("evaluate", "--json prints figures only", "Expected no --examples and no --worst beside it")
    run(
        EvaluateRequest(
            model=model,
            pairs=named_files(pairs or [], "evaluate"),
            columns=chosen_columns(columns),
            beam_size=beam_size,
            length_penalty=length_penalty,
            early_stop=early_stop,
            max_length=max_length,
            ensemble=ensemble or [],
            mean=ensemble_mean,
            threads=threads,
            runtime=runtime,
            precision=precision,
            random=examples,
            worst=worst,
            by_length=by_length,
            json=as_json,
        )
    )


@app.command()
def compare(
    model_a: Annotated[Path, typer.Argument(metavar="MODEL", help="The one model.")],
    model_b: Annotated[Path, typer.Argument(metavar="MODEL", help="The other.")],
    pairs: Annotated[
        list[Path],
        typer.Argument(metavar="PAIRS.tsv|SRC TGT", help="Pairs that neither was trained on, or two parallel files."),
    ],
    columns: Columns = None,
    beam_size: BeamSize = 1,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Test two models on the same pairs: differences with intervals, and whether they could be chance."""
    from freerun.commands.compare import compare as run
    from freerun.experiment.pairs_spec import chosen_columns, one_location

    location = one_location(pairs, "compare")
    run(model_a, model_b, location, beam_size, threads, as_json, chosen_columns(columns))


@app.command()
def diagnose(
    model: Model,
    pairs: PairsOrDev = None,
    columns: Columns = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with pictures and single examples, too.")
    ] = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Show exposure bias: how a model does on right prefixes and on its own, where it derails, whether it recovers."""
    from freerun.commands.diagnose import DiagnoseRequest
    from freerun.commands.diagnose import diagnose as run
    from freerun.experiment.pairs_spec import chosen_columns, named_files

    _refuse_without("diagnose", "PAIRS", bool(pairs), {"--columns": columns})
    chosen = chosen_columns(columns)
    run(DiagnoseRequest(model, named_files(pairs or [], "diagnose"), html, threads, as_json, chosen))


@app.command()
def study(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Arms, seeds, control: see docs/study.md.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: runs/<stem of the config>.")] = None,
    as_json: Json = False,
) -> None:
    """Compare strategies over seeds, and say which differences are real; the same command goes on after a stop."""
    from freerun.commands.study import StudyRequest
    from freerun.commands.study import study as run

    run(StudyRequest(config, out, as_json))


@app.command()
def export(
    model: Model,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a bundle without torch weights here, instead of into MODEL."),
    ] = None,
    quantize: Annotated[
        Literal["int8"] | None, typer.Option(help="Write quantised graphs beside, and measure what that costs.")
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=MAX_LOSS.high,
            help="Points of sequence accuracy that int8 may lose, else nothing is written.  [1.0]",
        ),
    ] = None,
    dev: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PAIRS.tsv", help="Pairs to measure int8 on; twice for parallel files. Default: the run's own."
        ),
    ] = None,
    columns: Columns = None,
    as_json: Json = False,
) -> None:
    """Write ONNX graphs: the model then runs without torch, and faster."""
    from freerun.commands.export import DEFAULT_MAX_LOSS, ExportRequest
    from freerun.commands.export import export as run
    from freerun.experiment.pairs_spec import chosen_columns, named_files

    _refuse_without("export", "--quantize", quantize is not None, {"--max-loss": max_loss, "--dev": dev or None})
    _refuse_without("export", "--dev", bool(dev), {"--columns": columns})
    run(
        ExportRequest(
            model=model,
            out=out,
            quantize=quantize == "int8",
            max_loss=DEFAULT_MAX_LOSS if max_loss is None else max_loss,
            dev=named_files(dev or [], "export --dev"),
            json=as_json,
            columns=chosen_columns(columns),
        )
    )


@app.command()
def inspect(model: Model, as_json: Json = False) -> None:
    """Show what a model is: tokens, sizes, training and figures."""
    from freerun.commands.inspect import inspect as run

    run(model, as_json)


@data_app.command("list")
def data_list() -> None:
    """List the built-in data sets."""
    from freerun.commands.data import list_datasets

    list_datasets()


@data_app.command("make")
def data_make(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of those that `freerun data list` shows.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where train.tsv, dev.tsv and test.tsv are written.")],
    stress: Annotated[bool, typer.Option("--stress", help="cmudict: keep the stress marks of vowels.")] = False,
    seed: Annotated[int, typer.Option(min=SEED.low, max=SEED.high, help="For the synthetic sets.")] = 0,
) -> None:
    """Write a built-in data set as train, dev and test TSV."""
    from freerun.commands.data import make

    make(name, folder, stress, seed)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"freerun {VERSION}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn a file of sequence pairs into a small, fast sequence-to-sequence model."""
    context.with_resource(in_a_command())


def _refuse_without(command: str, option: str, given: bool, others: Mapping[str, object]) -> None:
    """An option that would be ignored is a mistake."""
    useless = [name for name, value in others.items() if value is not None]
    if useless and not given:
        what = f"{', '.join(useless)} without {option}"
        raise UserError(command, what, f"Expected {option} beside it", f"Add {option}")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for what the user can fix, 130 and 143 after signals, else 1."""
    prepare_streams()
    # read once, when torch is imported; threads that wait by spinning take the time of those they wait for where a
    # machine is shared (docs/decisions/0007)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the program that reads our output has ended
        discard_output()
        return 1
    except OSError as error:
        discard_output()
        return _fail(_of_the_system(error), 2)
    return code


def _run(arguments: list[str] | None) -> int:
    """Run a command; its errors become messages and exit codes, but for those of the operating system."""
    try:
        _check_arguments(sys.argv[1:] if arguments is None else arguments)
        code = app(args=arguments, standalone_mode=False, prog_name="freerun")
    except typer.TyperException as error:
        return _fail(_usage(error), 2)
    except typer.Exit as error:
        return error.exit_code
    except SystemExit as error:  # Typer's, when the program that reads our output has ended
        return error.code if isinstance(error.code, int) else 1
    except ConfigError as error:
        return _fail("\n".join(one_line(f"error: {problem}") for problem in error.problems), 2)
    except UserError as error:
        return _fail(one_line(f"error: {error}"), 2)
    except Interrupted as error:
        return 128 + error.signal
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return _fail(f"error: {MissingExtraError('torch', 'train', 'this command')}", 2)
    return code if isinstance(code, int) else 0


_ADVICE = {
    errno.ENOSPC: ("Expected enough space", "Free some space, or write elsewhere"),
    errno.EDQUOT: ("Expected enough space", "Free some space, or write elsewhere"),
    errno.EFBIG: ("Expected enough space", "Raise the limit on the size of files, or write elsewhere"),
    errno.EACCES: ("Expected a path that you have access to", "Check its permissions, or choose another path"),
    errno.EPERM: ("Expected a path that you have access to", "Check its permissions, or choose another path"),
    errno.EROFS: ("Expected a writable path", "Choose another path"),
    errno.EIO: ("Expected a working device", "Check the disk, or choose another path"),
    errno.ENOMEM: ("Expected enough memory", "End other programs, or use a smaller model or batch"),
    errno.EAGAIN: ("Expected room for another thread or process", "End other programs, or use fewer threads"),
}
_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


def _of_the_system(error: OSError) -> str:
    """The message for an error that no layer below describes better, such as a full disk or a name that is too long."""
    # files are named where they are written (freerun/files.py); what has no name is standard output
    where = error.filename or ("standard output" if error.errno in _WRITING else "the operating system")
    expected, fix = _ADVICE.get(error.errno or 0, ("Expected a usable path", "Check it"))
    return f"error: {UserError(where, error.strerror or str(error), expected, fix)}"


def _check_arguments(arguments: Sequence[str]) -> None:
    """Reject what a shell cannot pass but a program that calls ``main`` can, and no path may hold."""
    for number, argument in enumerate(arguments, start=1):
        if "\0" in argument:
            what, fix = f"{shown(argument)} has a NUL character in it", "Remove the character"
            raise UserError(f"argument {number}", what, "Expected text without NUL", fix)


def _usage(error: typer.TyperException) -> str:
    """What was wrong with the arguments, and where help is."""
    if "Usage:" in error.format_message():  # no arguments at all: the help itself
        return error.format_message()
    context: typer.Context | None = getattr(error, "ctx", None)
    command = context.command_path if context else "freerun"
    return one_line(f"error: {command}: {error.format_message().rstrip('.')}. See {command} --help.")


def _fail(message: str, code: int) -> int:
    # messages quote files and arguments that may come from anywhere, and be of any length
    write_notice("\n".join(_shortened(one_line(line)) for line in message.split("\n")) + "\n")
    return code


def _shortened(line: str, most: int = 2000) -> str:
    """A line without its middle if it is very long: where and what stand at its beginning, the fix at its end."""
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-(most // 2) :]}"
