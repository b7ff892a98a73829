"""The command line: each command parses its options and calls one module of ``commands``, which it imports itself.

Exit codes are decided here, those of errors by ``errors.exit_code``. Over 350 lines, because every option is declared
here, once, with its help.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from freerun.bounds import (
    BEAM_SIZE,
    CONNECTIONS,
    DEFAULT_RESTARTS,
    DEFAULT_TIMEOUT,
    EXAMPLES,
    LENGTH_PENALTY,
    MAX_LENGTH,
    MAX_LOSS,
    MINUTES,
    PORT,
    PROCESSES,
    QUEUE,
    REQUEST_SIZE,
    RESTARTS,
    SAMPLES,
    SEED,
    SERVE_SECONDS,
    TEMPERATURE,
    THREADS,
    TIMEOUT,
    TOP_K,
    TRIALS,
    WORKERS,
)
from freerun.distributed.status import is_launched, write_status
from freerun.errors import ConfigError, Ended, Interrupted, MissingExtraError, RankError, UserError, exit_code
from freerun.server.serve_settings import RequestLimits, ServeSettings, parse_languages, parse_models
from freerun.streams import discard_output, prepare_streams, write_notice
from freerun.text import one_line, shown
from freerun.threads import in_a_command
from freerun.version import VERSION

__all__ = ["app", "main", "set_wait_policy"]

app = typer.Typer(
    name="freerun",
    help="Turn a file of sequence pairs into a small, fast sequence-to-sequence model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    help="Write the built-in datasets, or prepare large data for training.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(data_app, name="data")


Mean = Literal["arithmetic", "geometric"]
Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A bundle directory, or a run directory (its best bundle).")
]
Threads = Annotated[
    int,
    typer.Option(
        min=0,
        max=THREADS.high,
        help="Number of threads. 0: OMP_NUM_THREADS or all cores; in onnxruntime 1.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="cpu|cuda|cuda:N|auto",
        help="cuda: a GPU, with torch. auto: a GPU if there is one. A CPU is faster for a few short texts.",
    ),
]
TrainingDevice = Annotated[
    str | None,
    typer.Option(
        metavar="auto|cpu|cuda|cuda:N", help="Same as --set training.device=... Default: auto, a GPU if there is one."
    ),
]
Runtime = Annotated[
    Literal["torch", "onnx"] | None,
    typer.Option(help="Backend. Default: the fastest that can run the model."),
]
Precision = Annotated[
    Literal["fp32", "int8"], typer.Option(help="int8 uses the graphs that freerun export --quantize int8 wrote.")
]
Pairs = Annotated[
    list[Path],
    typer.Argument(metavar="PAIRS.tsv|SRC TGT", help="A file of pairs, or two parallel files: source and target."),
]
PairsOrDev = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="PAIRS.tsv|SRC TGT",
        help="A file of pairs, or two parallel files. Default: the run's development pairs.",
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="A,B[,C]",
        help="Source, target and feature columns: numbers from 1 in a TSV file, names in a Parquet or Arrow file. "
        "Default: those of MODEL's run.",
    ),
]
TrainingColumns = Annotated[
    str | None,
    typer.Option(
        metavar="A,B[,C]",
        help="Source, target and feature columns: numbers from 1 in a TSV file, names in a Parquet or Arrow file.",
    ),
]
TrainingSeed = Annotated[int | None, typer.Option(min=SEED.low, max=SEED.high, help="Same as --set training.seed=N.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
BeamSize = Annotated[
    int, typer.Option(min=1, max=BEAM_SIZE.high, help="Number of hypotheses kept per step. 1 is greedy search.")
]
LengthPenalty = Annotated[
    float,
    typer.Option(min=0.0, max=LENGTH_PENALTY.high, help="Rank by score / ((5 + length) / 6) ** X. 0 ranks by score."),
]
EarlyStop = Annotated[
    bool, typer.Option("--early-stop", help="With --length-penalty: stop sooner; may miss the best output.")
]
MaxLength = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_LENGTH.high, help="Maximum output length in tokens. Default: the bundle's limit."),
]
Ensemble = Annotated[list[Path] | None, typer.Option(metavar="MODEL", help="Average with this model, too. Repeatable.")]
EnsembleMean = Annotated[Mean, typer.Option(help="How to average the models' distributions.")]


@app.command()
def train(
    context: typer.Context,
    subject: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="CONFIG.toml|PAIRS.tsv|SRC TGT",
            help="A configuration, a file of source<TAB>target lines, or two parallel files.",
        ),
    ] = None,
    dev: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DEV.tsv",
            help="Development pairs; for parallel files, give it twice: source, then target. "
            "Default: hold out 5 % of the sources.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory. Default: runs/<name of the config or pairs>.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set a configuration key, such as training.updates=5000. Repeatable."
        ),
    ] = None,
    seed: TrainingSeed = None,
    init: Annotated[Path | None, typer.Option(metavar="MODEL", help="Start from this model's weights.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume the run in the run directory, if there is one. training.updates or epochs may be raised.",
        ),
    ] = False,
    columns: TrainingColumns = None,
    device: TrainingDevice = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=MINUTES.low,
            max=MINUTES.high,
            metavar="M",
            help="Without a configuration: use up to M minutes on this machine. Default: what suits the data, at most "
            "30 minutes.",
        ),
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="With --resume: import the Python code that the run directory names.")
    ] = False,
    processes: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Train with N processes on this machine, each with its share of every update. auto: one per GPU, or "
            "else one for every two cores.",
        ),
    ] = None,
    max_restarts: Annotated[
        int | None,
        typer.Option(
            min=RESTARTS.low,
            max=RESTARTS.high,
            help="With --processes: restart from the last checkpoint up to N times if a process is killed.  "
            f"[{DEFAULT_RESTARTS}]",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            min=TIMEOUT.low,
            max=TIMEOUT.high,
            metavar="SECONDS",
            help="How long several processes wait for each other to join, and in the middle of an update.",
        ),
    ] = DEFAULT_TIMEOUT,
) -> int:
    """Train a model on pairs. Without a configuration, choose all settings from the data and explain the choices."""
    from freerun.commands.train import ProcessOptions
    from freerun.commands.train import train as run
    from freerun.experiment.pairs_spec import training_files
    from freerun.experiment.request import TrainRequest

    _check_requires("train", "--resume", resume, {"--trust-code": trust_code or None})
    _check_requires("train", "--processes", processes is not None, {"--max-restarts": max_restarts})
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
        device=device,
        minutes=minutes,
        trust_code=trust_code,
    )
    arguments: list[str] = context.find_object(list) or []
    restarts = DEFAULT_RESTARTS if max_restarts is None else max_restarts
    return run(request, ProcessOptions(processes, restarts, timeout, arguments))


@app.command()
def predict(
    model: Model,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Source texts, or source<TAB>features.")
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="FILE|-",
            help="Read one source text, or source<TAB>features, per line. -: standard input.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
    line_buffered: Annotated[
        bool,
        typer.Option(
            "--line-buffered", help="Answer each line before reading the next one: slower, for interactive use."
        ),
    ] = False,
    beam_size: BeamSize = 1,
    num_hypotheses: Annotated[
        int | None,
        typer.Option(min=1, max=SAMPLES.high, help="Print up to N outputs per text, as rank, score and text."),
    ] = None,
    length_penalty: LengthPenalty = 0.0,
    early_stop: EarlyStop = False,
    max_length: MaxLength = None,
    prefix: Annotated[str, typer.Option(help="Force every output to begin with this text.")] = "",
    sample: Annotated[bool, typer.Option("--sample", help="Sample outputs instead of searching for the best.")] = False,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=TEMPERATURE.high, help="With --sample: below 1 sharpens the distribution, 0 is greedy."
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, max=TOP_K.high, help="With --sample: sample from the N best tokens only.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="With --sample: nucleus sampling, only the top tokens holding this probability mass."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=SEED.low, max=SEED.high, help="Random seed for --sample.")] = None,
    ensemble: Ensemble = None,
    ensemble_mean: EnsembleMean = "arithmetic",
    runtime: Runtime = None,
    precision: Precision = "fp32",
    threads: Threads = 0,
    device: Device = "cpu",
    attention: Annotated[
        bool,
        typer.Option("--attention", help="With --json: add how much each output token attends to each source token."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Predict one line per source text, in input order.

    A model that was trained with features reads source<TAB>features.
    """
    from freerun.commands.predict import PredictRequest
    from freerun.commands.predict import predict as run
    from freerun.search.methods import Beam, Sampling, Search

    sampling = {"--temperature": temperature, "--top-k": top_k, "--top-p": top_p, "--seed": seed}
    _check_requires("predict", "--sample", sample, sampling)
    _check_requires("predict", "--length-penalty", length_penalty > 0, {"--early-stop": early_stop or None})
    _check_requires("predict", "--json", as_json, {"--attention": attention or None})
    if sample and (beam_size > 1 or length_penalty):
        raise UserError(
            "predict",
            "--sample with an option of beam search",
            "Expected either --sample or --beam-size and --length-penalty",
            "Remove one of them",
        )
    search: Search
    if sample:
        search = Sampling(num_hypotheses or 1, 1.0 if temperature is None else temperature, top_k, top_p, seed or 0)
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
            device=device,
            many=num_hypotheses is not None,
            attention=attention,
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
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Score given targets. Print each one's total log-probability (natural log), one line per pair."""
    from freerun.commands.score import score as run
    from freerun.experiment.pairs_spec import chosen_columns, one_location

    run(model, one_location(pairs, "score"), as_json, threads, chosen_columns(columns), device)


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
        int, typer.Option(min=0, max=EXAMPLES.high, help="Print N random outputs with their references.")
    ] = 0,
    worst: Annotated[int, typer.Option(min=0, max=EXAMPLES.high, help="Print the N worst outputs.")] = 0,
    by_length: Annotated[bool, typer.Option("--by-length", help="Print metrics by source length, too.")] = False,
    ensemble: Ensemble = None,
    ensemble_mean: EnsembleMean = "arithmetic",
    runtime: Runtime = None,
    precision: Precision = "fp32",
    threads: Threads = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Evaluate a model on pairs. Print its teacher-forced and free-running metrics, and those of trivial baselines."""
    from freerun.commands.evaluate import EvaluateRequest
    from freerun.commands.evaluate import evaluate as run
    from freerun.experiment.pairs_spec import chosen_columns, named_files

    _check_requires("evaluate", "PAIRS", bool(pairs), {"--columns": columns})
    _check_requires("evaluate", "--length-penalty", length_penalty > 0, {"--early-stop": early_stop or None})
    if as_json and (examples or worst):
        raise UserError(
            "evaluate",
            "--json with --examples or --worst",
            "Expected metrics only with --json",
            "Remove --json, or --examples and --worst",
        )
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
            device=device,
            random=examples,
            worst=worst,
            by_length=by_length,
            json=as_json,
        )
    )


@app.command()
def compare(
    model_a: Annotated[Path, typer.Argument(metavar="MODEL", help="First model.")],
    model_b: Annotated[Path, typer.Argument(metavar="MODEL", help="Second model.")],
    pairs: Annotated[
        list[Path],
        typer.Argument(
            metavar="PAIRS.tsv|SRC TGT", help="Pairs that neither model was trained on, or two parallel files."
        ),
    ],
    columns: Columns = None,
    beam_size: BeamSize = 1,
    threads: Threads = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Compare two models on the same pairs. Print differences with confidence intervals and p-values."""
    from freerun.commands.compare import compare as run
    from freerun.experiment.pairs_spec import chosen_columns, one_location

    location = one_location(pairs, "compare")
    run(model_a, model_b, location, beam_size, threads, as_json, chosen_columns(columns), device)


@app.command()
def diagnose(
    model: Model,
    pairs: PairsOrDev = None,
    columns: Columns = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with plots and examples, too.")
    ] = None,
    threads: Threads = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Measure a model's exposure bias. Compare free-running with teacher-forced errors; show where outputs derail and
    recover.
    """
    from freerun.commands.diagnose import DiagnoseRequest
    from freerun.commands.diagnose import diagnose as run
    from freerun.experiment.pairs_spec import chosen_columns, named_files

    _check_requires("diagnose", "PAIRS", bool(pairs), {"--columns": columns})
    chosen = chosen_columns(columns)
    run(
        DiagnoseRequest(
            model=model,
            pairs=named_files(pairs or [], "diagnose"),
            html=html,
            threads=threads,
            json=as_json,
            columns=chosen,
            device=device,
        )
    )


@app.command()
def tune(
    subject: Annotated[
        list[Path],
        typer.Argument(metavar="PAIRS.tsv|SRC TGT", help="A file of source<TAB>target lines, or two parallel files."),
    ],
    minutes: Annotated[
        float,
        typer.Option(min=MINUTES.low, max=MINUTES.high, metavar="M", help="For all trials together, on this machine."),
    ],
    dev: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DEV.tsv",
            help="Development pairs, by which trials are compared; for parallel files, give it twice. "
            "Default: hold out 5 % of the sources.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory. Default: runs/<name of the pairs>-tuning.")
    ] = None,
    trials: Annotated[
        int,
        typer.Option(
            min=TRIALS.low, max=TRIALS.high, help="Divide the minutes among this many trials; more if some end early."
        ),
    ] = 16,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key in all trials; it is not tuned. Repeatable."),
    ] = None,
    seed: TrainingSeed = None,
    columns: TrainingColumns = None,
    as_json: Json = False,
) -> None:
    """Try settings around those that train chooses, for equal times. Keep the best; rerun the command to resume."""
    from freerun.commands.tune import tune as run
    from freerun.experiment.pairs_spec import training_files
    from freerun.experiment.request import TrainRequest

    pairs, development = training_files(subject, dev or [], "freerun tune")
    request = TrainRequest(source=pairs, dev=development, settings=tuple(settings or ()), seed=seed, columns=columns)
    run(request, out, minutes, trials, as_json)


@app.command()
def study(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.toml", help="Arms, seeds and the control arm; see docs/study.md.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Study directory. Default: runs/<name of the config>.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="auto|cpu|cuda|cuda:N", help="Train all arms on this device. Default: as their configurations say."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare strategies over seeds. Test their differences for significance; rerun the command to resume."""
    from freerun.commands.study import StudyRequest
    from freerun.commands.study import study as run

    run(StudyRequest(config, out, as_json, device))


@app.command()
def export(
    model: Model,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a new bundle without torch weights, instead of adding to MODEL."),
    ] = None,
    quantize: Annotated[
        Literal["int8"] | None, typer.Option(help="Write quantized graphs, too, and measure their loss of accuracy.")
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=MAX_LOSS.high,
            help="Maximum loss of sequence accuracy in points; above it, nothing is written.  [1.0]",
        ),
    ] = None,
    dev: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PAIRS.tsv",
            help="Pairs to measure int8 on; for parallel files, give it twice. Default: the run's development pairs.",
        ),
    ] = None,
    columns: Columns = None,
    as_json: Json = False,
) -> None:
    """Export a model to ONNX. It then runs faster, and without torch."""
    from freerun.commands.export import DEFAULT_MAX_LOSS, ExportRequest
    from freerun.commands.export import export as run
    from freerun.experiment.pairs_spec import chosen_columns, named_files

    _check_requires("export", "--quantize", quantize is not None, {"--max-loss": max_loss, "--dev": dev or None})
    _check_requires("export", "--dev", bool(dev), {"--columns": columns})
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
def serve(
    models: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]MODEL", help="Bundle or run directories. Default name: the directory's."),
    ],
    host: Annotated[
        str, typer.Option(help="The address to listen on. 0.0.0.0: all of this machine's.")
    ] = ServeSettings.host,
    host_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Also accept requests for this host name, when listening on 127.0.0.1. Repeatable."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=PORT.high, help="0: any free port.")] = ServeSettings.port,
    workers: Annotated[
        int, typer.Option(min=1, max=WORKERS.high, help="Processes that answer requests.")
    ] = ServeSettings.workers,
    threads: Annotated[
        int, typer.Option(min=1, max=THREADS.high, help="Threads of each worker that decode a batch.")
    ] = ServeSettings.threads,
    queue: Annotated[
        int, typer.Option(min=1, max=QUEUE.high, help="Texts that may wait in each worker; beyond it, 503.")
    ] = ServeSettings.queue,
    timeout: Annotated[
        float,
        typer.Option(
            min=SERVE_SECONDS.low,
            max=SERVE_SECONDS.high,
            metavar="S",
            help="Time limit of a request in seconds; 503 after it.",
        ),
    ] = ServeSettings.timeout,
    drain: Annotated[
        float,
        typer.Option(
            min=SERVE_SECONDS.low,
            max=SERVE_SECONDS.high,
            metavar="S",
            help="Seconds that running requests have to finish when the service stops or a model is replaced.",
        ),
    ] = ServeSettings.drain,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with one key per line; clients must send one of them.")
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Let pages of this origin read answers. Repeatable.")
    ] = None,
    languages: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOURCE:TARGET",
            help="Codes for clients of LibreTranslate, such as demo=en:ja. Default: NAME=NAME:NAME. Repeatable.",
        ),
    ] = None,
    precision: Precision = ServeSettings.precision,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON Lines.")] = False,
    log_requests: Annotated[bool, typer.Option("--log-requests", help="Log a line for each request.")] = False,
    read_timeout: Annotated[
        float,
        typer.Option(
            min=SERVE_SECONDS.low,
            max=SERVE_SECONDS.high,
            metavar="S",
            help="Seconds without progress until a client that sends or reads too slowly is disconnected.",
        ),
    ] = ServeSettings.read_timeout,
    keep_alive: Annotated[
        float,
        typer.Option(
            min=SERVE_SECONDS.low, max=SERVE_SECONDS.high, metavar="S", help="Seconds that idle connections stay open."
        ),
    ] = ServeSettings.keep_alive,
    max_connections: Annotated[
        int, typer.Option(min=1, max=CONNECTIONS.high, help="Clients connected to each worker; beyond it, 503.")
    ] = ServeSettings.max_connections,
    max_texts: Annotated[
        int, typer.Option(min=1, max=QUEUE.high, help="Texts of a request.")
    ] = RequestLimits.max_texts,
    max_characters: Annotated[
        int, typer.Option(min=1, max=REQUEST_SIZE.high, help="Characters of a text.")
    ] = RequestLimits.max_characters,
    max_tokens: Annotated[
        int, typer.Option(min=1, max=MAX_LENGTH.high, help="Tokens of a text or target.")
    ] = RequestLimits.max_tokens,
    max_bytes: Annotated[
        int, typer.Option(min=1, max=REQUEST_SIZE.high, help="Bytes of a request, unless it is a stream.")
    ] = RequestLimits.max_bytes,
    max_beam_size: Annotated[
        int, typer.Option(min=1, max=BEAM_SIZE.high, help="Beam size and number of outputs of a request.")
    ] = RequestLimits.max_beam_size,
    max_length: Annotated[
        int, typer.Option(min=0, max=MAX_LENGTH.high, help="The largest max_length that a request may set.")
    ] = RequestLimits.max_length,
    max_cost: Annotated[
        int,
        typer.Option(
            min=1,
            max=REQUEST_SIZE.high,
            help="Steps that a text may take: beam size x length of the output x (1 + source tokens / 64).",
        ),
    ] = RequestLimits.max_cost,
    max_output_tokens: Annotated[
        int,
        typer.Option(min=1, max=REQUEST_SIZE.high, help="Sum of the length bounds of a request's outputs."),
    ] = RequestLimits.max_output_tokens,
    max_weights: Annotated[
        int, typer.Option(min=1, max=REQUEST_SIZE.high, help="Attention weights of an answer.")
    ] = RequestLimits.max_weights,
) -> None:
    """Answer HTTP requests with one or several models, and show a page to try them.

    Several models have names: en=runs/english ko=runs/korean. SIGHUP, or a bundle that is replaced, loads models again.
    The page is at /, and the API is described at /docs.
    """
    from freerun.commands.serve import serve as run

    named = parse_models(models)
    settings = ServeSettings(
        models=named,
        host=host,
        host_names=tuple(name.lower() for name in host_name or ()),
        port=port,
        workers=workers,
        threads=threads,
        queue=queue,
        timeout=timeout,
        drain=drain,
        api_key_file=api_key_file,
        cors=tuple(cors or ()),
        languages=parse_languages(languages or [], named),
        precision=precision,
        log_json=log_json,
        log_requests=log_requests,
        read_timeout=read_timeout,
        keep_alive=keep_alive,
        max_connections=max_connections,
        limits=RequestLimits(
            max_texts=max_texts,
            max_characters=max_characters,
            max_tokens=max_tokens,
            max_bytes=max_bytes,
            max_beam_size=max_beam_size,
            max_length=max_length,
            max_cost=max_cost,
            max_output_tokens=max_output_tokens,
            max_weights=max_weights,
        ),
    )
    raise typer.Exit(run(settings))


@app.command()
def inspect(model: Model, as_json: Json = False) -> None:
    """Show a model's architecture, vocabularies, training and metrics."""
    from freerun.commands.inspect import inspect as run

    run(model, as_json)


@data_app.command("list")
def data_list() -> None:
    """List the built-in datasets."""
    from freerun.commands.data import list_datasets

    list_datasets()


@data_app.command("make")
def data_make(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that `freerun data list` shows.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory for train.tsv, dev.tsv and test.tsv.")],
    stress: Annotated[bool, typer.Option("--stress", help="cmudict: keep the vowels' stress marks.")] = False,
    seed: Annotated[int, typer.Option(min=SEED.low, max=SEED.high, help="Random seed of the synthetic datasets.")] = 0,
) -> None:
    """Write a built-in dataset as train, dev and test TSV files."""
    from freerun.commands.data import make

    make(name, directory, stress, seed)


@data_app.command("prepare")
def data_prepare(
    subject: Annotated[
        list[Path],
        typer.Argument(
            metavar="PAIRS...|CONFIG.toml",
            help="Files of pairs, or a configuration, whose section [data] names them.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for the prepared pairs.")],
    dev: Annotated[
        list[Path] | None,
        typer.Option(metavar="DEV.tsv", help="Development pairs. Default: hold out 5 % of the sources."),
    ] = None,
    source_tokens: Annotated[
        str | None, typer.Option(metavar="TOKENS", help="char, whitespace, sentencepiece:N or auto (the default).")
    ] = None,
    target_tokens: Annotated[str | None, typer.Option(metavar="TOKENS", help="The same for targets.")] = None,
    columns: TrainingColumns = None,
    init: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Take this model's vocabularies, for train --init MODEL."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key of [data], such as data.minimum_count=5."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=PROCESSES.low, max=PROCESSES.high, metavar="N", help="Work in N processes. Default: one per core."
        ),
    ] = None,
) -> None:
    """Encode pairs once for many trainings, or for more than fit into memory: train then starts within seconds.

    An interrupted preparation continues when the command is run again.
    """
    from freerun.commands.data import data_config, initial_model, prepare

    options = {"source_tokens": source_tokens, "target_tokens": target_tokens, "columns": columns}
    given = {key: value for key, value in options.items() if value is not None}
    data = data_config(subject, dev or [], given, settings or [])
    prepare(data, out, processes, init or initial_model(subject))


def _show_version(requested: bool) -> None:
    if requested:
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


def _check_requires(command: str, option: str, given: bool, others: Mapping[str, object]) -> None:
    """Raise UserError for options that would be ignored, because they require ``option``, which is not ``given``."""
    ignored = [name for name, value in others.items() if value is not None]
    if ignored and not given:
        fix = f"Add {option}, or remove {', '.join(ignored)}"
        raise UserError(command, f"{', '.join(ignored)} without {option}", f"It requires {option}", fix)


def set_wait_policy(environment: MutableMapping[str, str]) -> None:
    """Let torch's threads spin briefly while they wait for each other, then sleep (docs/decisions/0034).

    torch reads the variables when it is imported; those that the user has set remain.
    """
    if not environment.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        environment["GOMP_SPINCOUNT"] = "2000"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0, 2 for an error that the user can fix, 128 + the number of a signal, or 1."""
    prepare_streams()
    set_wait_policy(os.environ)
    return _run_launched(arguments) if is_launched() else _run_to_the_end(arguments)


def _run_launched(arguments: list[str] | None) -> int:
    """Run a command in a process that the launcher started, and leave it the exit code in a file."""
    lost = ""
    try:
        code = _run_to_the_end(arguments)
    except RankError as error:  # the launcher knows better what has happened
        code, lost = 2, str(error)
    except Exception:  # noqa: BLE001 (a mistake of ours would repeat if all processes started again)
        traceback.print_exc()
        code = 1
    write_status(code, lost)
    return 0


def _run_to_the_end(arguments: list[str] | None) -> int:
    """Run a command and write all of its output; return the exit code."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has exited
        discard_output()
        return 1
    except OSError as error:
        discard_output()
        return _fail(_describe_system_error(error), 2)
    return code


def _run(arguments: list[str] | None) -> int:
    """Run a command and turn its errors into messages and exit codes, except those of the operating system."""
    try:
        given = sys.argv[1:] if arguments is None else arguments
        _check_arguments(given)
        code = app(args=given, standalone_mode=False, prog_name="freerun", obj=list(given))
    except typer.TyperException as error:
        return _fail(_usage(error), 2)
    except typer.Exit as error:
        return error.exit_code
    except SystemExit as error:  # raised by Typer when the reader of our output has exited
        return error.code if isinstance(error.code, int) else 1
    except ConfigError as error:
        return _fail("\n".join(one_line(f"error: {problem}") for problem in error.problems), 2)
    except UserError as error:
        if isinstance(error, RankError) and not error.is_explained and is_launched():
            raise
        return _fail(one_line(f"error: {error}"), 2)
    except (Interrupted, Ended) as error:
        return exit_code(error)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", exit_code(KeyboardInterrupt()))
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return _fail(f"error: {MissingExtraError('torch', 'train', 'this command')}", 2)
    return code if isinstance(code, int) else 0


_ADVICE = {
    errno.ENOSPC: ("Expected enough space", "Free some space, or write elsewhere"),
    errno.EDQUOT: ("Expected enough space", "Free some space, or write elsewhere"),
    errno.EFBIG: ("Expected enough space", "Raise the limit on the size of files, or write elsewhere"),
    errno.EACCES: ("Expected a path that you have access to", "Check the permissions, or choose another path"),
    errno.EPERM: ("Expected a path that you have access to", "Check the permissions, or choose another path"),
    errno.EROFS: ("Expected a writable path", "Choose another path"),
    errno.EIO: ("Expected a working device", "Check the disk, or choose another path"),
    errno.ENOMEM: ("Expected enough memory", "Close other programs, or use a smaller model or batch"),
    errno.EAGAIN: ("Expected room for another thread or process", "Close other programs, or use fewer threads"),
}
_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


def _describe_system_error(error: OSError) -> str:
    """Describe an error that no lower layer describes better, such as a full disk or a file name that is too long."""
    # freerun/files.py names the files it writes, so an error without a name is about standard output
    where = error.filename or ("standard output" if error.errno in _WRITING else "the operating system")
    expected, fix = _ADVICE.get(error.errno or 0, ("Expected a usable path", "Check it"))
    return f"error: {UserError(where, error.strerror or str(error), expected, fix)}"


def _check_arguments(arguments: Sequence[str]) -> None:
    """Reject NUL characters: a shell cannot pass them, but a program that calls ``main`` can."""
    for number, argument in enumerate(arguments, start=1):
        if "\0" in argument:
            what, fix = f"{shown(argument)} contains a NUL character", "Remove the character"
            raise UserError(f"argument {number}", what, "Expected text without NUL", fix)


def _usage(error: typer.TyperException) -> str:
    """Describe what is wrong with the arguments and point to the help."""
    if "Usage:" in error.format_message():  # no arguments at all: show the help
        return error.format_message()
    context: typer.Context | None = getattr(error, "ctx", None)
    command = context.command_path if context else "freerun"
    return one_line(f"error: {command}: {error.format_message().rstrip('.')}. See {command} --help.")


def _fail(message: str, code: int) -> int:
    # messages quote files and arguments, which may have any content and length
    write_notice("\n".join(_shortened(one_line(line)) for line in message.split("\n")) + "\n")
    return code


def _shortened(line: str, limit: int = 2000) -> str:
    """Cut the middle out of a very long line: its start says where and what, its end gives the fix."""
    return line if len(line) <= limit else f"{line[: limit // 2]} ... {line[-(limit // 2) :]}"
