"""Print SHA-256 hashes of what eight small trainings write, their exports and predictions: a refactor changes none.

python scripts/fingerprints.py DIR > benchmarks/runs/NAME.json
python scripts/fingerprints.py DIR --predict-with OLD_DIR    # with the bundles that another commit wrote

Hashes repeat on one machine only: matrix products differ between CPUs in their last bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

COMMON = """
[data]
train = "data/train.tsv"
dev = "data/dev.tsv"
source_tokens = "whitespace"
target_tokens = "whitespace"

[model]
embedding_size = 24
hidden_size = 48
num_layers = 1
{model}

[training]
updates = 60
batch_size = 32
learning_rate = 4e-3
precision = "fp32"
threads = 1
seed = 5

[evaluation]
every = 30
max_sources = 100

[forcing]
{forcing}
"""
TEACHER = 'strategy = "teacher"'
RUNS = {
    "lstm": ('cell = "lstm"\nnum_layers = 2', TEACHER),
    "gru": ('cell = "gru"', TEACHER),
    "rnn": ('cell = "rnn"\ncontext = "every_step"', TEACHER),
    "luong": ('attention = "luong"\nbidirectional = true', TEACHER),
    "bahdanau": ('attention = "bahdanau"', TEACHER),
    "input_feeding": ('attention = "luong"\ninput_feeding = true', TEACHER),
    "scheduled_sampling": (
        "",
        'strategy = "scheduled_sampling"\nschedule = { kind = "inverse_sigmoid", k = 20.0 }',
    ),
    "professor": ("", 'strategy = "professor"'),
}
QUANTIZED = "luong"
WRITTEN = (
    "model.safetensors",
    "encoder.onnx",
    "step.onnx",
    "greedy.onnx",
    "greedy.npz",
    "encoder.int8.onnx",
    "step.int8.onnx",
    "greedy.int8.onnx",
)


def freerun(*arguments: str, where: Path) -> str:
    """Standard output of a command, run in ``where``."""
    command = [sys.executable, "-m", "freerun", *arguments]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


def sha256(value: bytes) -> str:
    """As 64 hexadecimal digits."""
    return hashlib.sha256(value).hexdigest()


def train(directory: Path) -> None:
    """Write the runs and their exports that are not there yet."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "data").exists():
        freerun("data", "make", "reverse", "data", where=directory)
    for name, (model, forcing) in RUNS.items():
        keys = {line.partition(" =")[0] for line in model.splitlines()}
        lines = COMMON.format(model=model, forcing=forcing).splitlines()
        given = set(model.splitlines())
        kept = [line for line in lines if line in given or line.partition(" =")[0] not in keys]
        (directory / f"{name}.toml").write_text("\n".join(kept), encoding="utf-8")
        freerun("train", f"{name}.toml", "--out", name, "--resume", where=directory)
        if not (directory / f"{name}-exported").exists():
            freerun("export", name, "--out", f"{name}-exported", where=directory)
    if not (directory / "int8").exists():
        freerun("export", QUANTIZED, "--out", "int8", "--quantize", "int8", "--max-loss", "1", where=directory)


def predictions(directory: Path, old: Path) -> dict[str, str]:
    """Hashes of what the bundles in ``old`` write for the first development sources, greedily and with a beam."""
    sources = [line.split("\t")[0] for line in (old / "data" / "dev.tsv").read_text(encoding="utf-8").splitlines()]
    (directory / "sources.txt").write_text("\n".join(sources[:100]) + "\n", encoding="utf-8")
    texts = {}
    for model in [*RUNS, *(f"{name}-exported" for name in RUNS), "int8"]:
        for beam in ("1", "4"):
            arguments = (
                "--input",
                "sources.txt",
                "--beam-size",
                beam,
                "--num-hypotheses",
                "1",
                "--threads",
                "1",
                "--json",
            )
            lines = freerun("predict", str((old / model).resolve()), *arguments, where=directory).splitlines()
            texts[f"{model}, beam {beam}"] = sha256("".join(map(_without_last_bits, lines)).encode())
    return texts


def _without_last_bits(line: str) -> str:
    """Texts and scores; the last bits of a score may depend on how rows were batched."""
    hypotheses = json.loads(line)["hypotheses"]
    return json.dumps([[each["text"], round(each["score"], 4)] for each in hypotheses])


def main() -> None:
    """Read the arguments, train where needed, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--predict-with", type=Path, metavar="OLD_DIR")
    options = parser.parse_args()
    if options.predict_with:
        options.directory.mkdir(parents=True, exist_ok=True)
        print(json.dumps(predictions(options.directory, options.predict_with), indent=1))
        return
    train(options.directory)
    hashes = {
        f"{run}/{name}": sha256((options.directory / run / name).read_bytes())
        for run in [*(f"{name}/best" for name in RUNS), *(f"{name}-exported" for name in RUNS), "int8"]
        for name in WRITTEN
        if (options.directory / run / name).exists()
    }
    print(json.dumps({"hashes": hashes, "predictions": predictions(options.directory, options.directory)}, indent=1))


if __name__ == "__main__":
    main()
