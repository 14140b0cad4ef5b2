"""Runs the code of the documentation, small: what it names lies in a folder, programs are answered.

The pages say `runs/quickstart`, `encoders/minilm`, `bert-base-cased`, `MNRE/mnre_txt`, `user/data`;
the folder that a page runs in has tiny things of these names. Bash is the real one, but its
programs are stubs that hand their arguments to this process: `hmgrl` and `train.py` run in it, with
two training steps, and what cannot run here is checked for its options and files.
"""

import io
import json
import random
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import traceback
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
import tiny_world
from accelerate.commands.launch import launch_command_parser
from hub_server import HubServer
from packaging.requirements import Requirement
from pyarrow import parquet
from tiny_world import LABELS, save_backbones, tiny_picture, tiny_sample
from torch.distributed.run import get_args_parser

import hmgrl_cli.train
from dataset_scripts import load_gzs
from dataset_scripts.export import export
from dataset_scripts.sources import sample
from hmgrl_cli.cli import main, parse_arguments
from modeling_hmgrl import HMGRLTrainingArguments

ROOT = Path(__file__).parents[2]

NOT_RUN = {
    "pip": "installs from a registry: requirements must parse, extras must exist",
    "make": "makes an environment, trains for minutes: the target must exist",
    "accelerate": "starts processes: options must parse; without --config_file it is run as one",
    "torchrun": "starts processes: its options and those of the program must parse",
    "python": "but for train.py: takes minutes or serves; the script must know its options",
}
"""Programs that are checked and not run, and why; `hmgrl` and train.py are run."""

_TOOLS = ("cat", "head", "mkdir")
_SAMPLES = 12
_STEPS = 2

# Hands arguments and input to this process and does what it answers.
_STUB = """#!{python} -SEs
import json, os, socket, sys
name = os.path.basename(sys.argv[0])
given = "" if sys.stdin.isatty() else sys.stdin.buffer.read().decode("latin-1")
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({socket!r})
    message = {{"argv": [name, *sys.argv[1:]], "cwd": os.getcwd(), "input": given}}
    connection.sendall(json.dumps(message).encode() + b"\\n")
    answer = json.loads(connection.makefile("rb").readline())
sys.stdout.buffer.write(answer["out"].encode("latin-1"))
sys.stderr.buffer.write(answer["err"].encode("latin-1"))
sys.exit(answer["code"])
"""


class Shell:
    """Bash whose programs are this process.

    Args:
        folder: Folder for stubs and the socket.

    Attributes:
        calls: The programs that the last block called, as (argv, exit code, standard error).
    """

    def __init__(self, folder: Path):
        self.folder, self.calls = folder, []
        folder.mkdir()
        address = str(folder / "socket")
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(address)
        self._server.listen()
        self._server.settimeout(0.05)
        for name in ("hmgrl", *NOT_RUN):
            stub = folder / name
            stub.write_text(_STUB.format(python=sys.executable, socket=address))
            stub.chmod(0o755)
        for name in _TOOLS:
            (folder / name).symlink_to(shutil.which(name))

    def close(self):
        self._server.close()

    def run(self, code: str, cwd: Path) -> tuple[int, str]:
        """Runs a block; returns bash's exit code and what it printed."""
        self.calls = []
        bash = subprocess.Popen(
            [shutil.which("bash"), "--norc", "-eu", "-o", "pipefail", "-c", code],
            cwd=cwd,
            env={"PATH": str(self.folder), "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        while True:
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                if bash.poll() is not None:
                    break
                continue
            with connection:
                connection.settimeout(None)
                message = json.loads(connection.makefile("rb").readline())
                connection.sendall(json.dumps(self._answer(**message)).encode() + b"\n")
        printed = bash.communicate()[0].decode()
        return bash.returncode, printed

    def _answer(self, argv, cwd, input):
        with _streams(input) as (out, err), pytest.MonkeyPatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", argv)
            try:
                code = _program(argv)
            except SystemExit as end:  # of argparse, or with a message
                code = end.code
            except Exception:  # told by the block that called, like any other failure
                traceback.print_exc()
                code = 1
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
        code = code or 0
        self.calls.append((argv, code, err.getvalue().decode()))
        told = (part.getvalue().decode("latin-1") for part in (out, err))
        return {"code": code, **dict(zip(("out", "err"), told, strict=True))}


@contextmanager
def _streams(given):
    """Standard input of the given text; yields what is written to output and error."""
    before, (out, err) = (sys.stdin, sys.stdout, sys.stderr), (io.BytesIO(), io.BytesIO())
    sys.stdin = io.TextIOWrapper(io.BytesIO(given.encode("latin-1")), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(out, encoding="utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(err, encoding="utf-8", write_through=True)
    try:
        yield out, err
    finally:
        streams = sys.stdin, sys.stdout, sys.stderr
        sys.stdin, sys.stdout, sys.stderr = before
        for stream in streams:
            stream.detach()


def _program(argv):
    """Runs or checks a program; returns its exit code."""
    name, *words = argv
    if name == "hmgrl":
        return main(words)
    if name == "python" and words[0] == "train.py":
        return _started(False, *words)
    if name == "accelerate":
        assert words[0] == "launch"
        options = launch_command_parser().parse_args(words[1:])
        program = options.module, options.training_script, *options.training_script_args
        if options.config_file is None:
            return _started(*program)
        assert (ROOT / options.config_file).is_file()
        return _check_started(*program)
    check = {"pip": _check_pip, "make": _check_make, "torchrun": _check_torchrun}
    return check.get(name, _check_python)(words)


def _started(module, script, *words):
    """Runs what `python` or a launcher starts."""
    _check_started(module, script, *words)
    sys.argv = [script, *words]
    return main(words) if module else hmgrl_cli.train.main(words)


def extras() -> dict[str, list[str]]:
    """The extras of the package."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def _check_pip(words):
    assert words[0] == "install"
    for word in words[1:]:
        if word == "-e":
            continue
        if word.startswith("."):
            found = re.fullmatch(r"\.(?:\[([\w,-]+)\])?", word)
            wanted = found[1].split(",") if found[1] else []
        else:
            requirement = Requirement(word)
            wanted = requirement.extras if requirement.name == "hmgrl" else []
        assert set(wanted) <= set(extras()), word


def _check_make(words):
    [target] = words
    text = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", text, re.MULTILINE), target
    if target == "quickstart":
        folder = Path(re.search(r"^VENV \?= (\S+)$", text, re.MULTILINE)[1], "bin")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "activate").touch()


def not_installed() -> list[str]:
    """Modules of the extras for users that `make quickstart` does not install."""
    known = extras()
    names = {
        extra: {Requirement(given).name for given in known[extra]}
        for extra in ("report", "sweep", "onnx", "demo", "quickstart")
    }
    installed = names.pop("quickstart")
    return sorted(set().union(*names.values()) - installed)


def _check_torchrun(words):
    options = get_args_parser().parse_args(words)
    _check_started(options.module, options.training_script, *options.training_script_args)


def _check_started(module, script, *words):
    if module:
        assert script == "hmgrl"
        parse_arguments(words)
    else:
        assert script == "train.py"
        parse_arguments(["train", *words])


def _check_python(words):
    script, *words = words
    code = (ROOT / script).read_text()
    if "--" in words:
        parse_arguments(["train", *words[words.index("--") + 1 :]])
        words = words[: words.index("--")]
    for word in words:
        known = word.startswith("--") or word in ("labels", "samples", "patches", "cache")
        assert not known or f'"{word}"' in code, f"{script} knows no {word}"


def _small_sample(folder: Path) -> None:
    """Makes the embedded sample one of a dozen records for each label."""
    table = parquet.read_table(sample.FOLDER / sample.ROWS)
    counts: dict[str, int] = {}
    rows = []
    for row, label in enumerate(table["label"].to_pylist()):
        counts[label] = counts.get(label, 0) + 1
        if counts[label] <= _SAMPLES:
            rows.append(row)
    folder.mkdir()
    parquet.write_table(table.take(rows), folder / sample.ROWS)


def _write_mnre(folder: Path) -> None:
    folder.mkdir(parents=True)
    relations = ("/per/org/member_of", "/per/per/peer", "/loc/loc/contain", "/misc/misc/part_of")
    lines = [
        {
            "token": ["Ada", "Lovelace", "met", "Bob", f"again{number}"],
            "h": {"name": "Ada Lovelace", "pos": [0, 2]},
            "t": {"name": "Bob", "pos": [3, 4]},
            "img_id": f"{number}.jpg",
            "relation": relations[number % 4],
        }
        for number in range(48)
    ]
    for name in ("train", "val", "test"):
        part = lines if name == "train" else []
        (folder / f"mnre_{name}.txt").write_text("".join(f"{line!r}\n" for line in part))


def _write_records(file: Path) -> None:
    rng = random.Random(0)
    made = [{"label": LABELS[n % 6], **tiny_sample(LABELS[n % 6], rng=rng)} for n in range(96)]
    file.write_text("".join(json.dumps(record) + "\n" for record in made))


def _write_bio(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    for label in LABELS:
        tiny_picture(label).save(folder / "images" / f"{label}.png")
    rng = random.Random(0)
    lines = []
    for number in range(96):
        label = LABELS[number % 6]
        record = tiny_sample(label, rng=rng)
        start, end = record["spans"][0]
        lines.append(f"IMGID:{label}")
        for word in record["text"].split():
            tag = f"B-{label}" if word == record["text"][start:end] else "O"
            lines.append(f"{word} {tag}")
        lines.append("")
    (folder / "train.txt").write_text("\n".join(lines))


@contextmanager
def docs_world(folder: Path):
    """Makes what the pages name; yields where it lies, and a shell.

    Training takes few steps meanwhile, built data and downloads lie in the folder, and the Hub is a
    local server.
    """
    base = folder / "base"
    _small_sample(folder / "sample")
    longer = tiny_world.tiny_text_config()
    longer.max_position_embeddings = 512
    checked = HMGRLTrainingArguments.__post_init__

    def short(arguments):
        checked(arguments)
        arguments.max_steps = min(arguments.max_steps or _STEPS, _STEPS)
        arguments.progress = False

    with pytest.MonkeyPatch.context() as patch, HubServer("user") as server:
        patch.setattr(sample, "FOLDER", folder / "sample")
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "datasets")
        patch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
        patch.setenv("HF_TOKEN", "x")
        patch.setattr(HMGRLTrainingArguments, "__post_init__", short)
        patch.setattr(tiny_world, "tiny_text_config", lambda: longer)
        for place, name in zip(save_backbones(folder) * 2, ENCODERS, strict=True):
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).symlink_to(place)
        _write_mnre(base / "MNRE" / "mnre_txt")
        _write_bio(base / "CP-MNER")
        _write_records(base / "mine.jsonl")
        export({"seed-0": load_gzs("records", str(base / "mine.jsonl"))}, base / "user" / "data")
        shell = Shell(folder / "bin")
        patch.chdir(base)
        encoders = ["--text-encoder", ENCODERS[0], "--vision-encoder", ENCODERS[1]]
        run = ["--output-dir", "runs/quickstart", "--tracker", "none"]
        assert main(["train", *encoders, *run]) == 0
        shutil.rmtree(base / "runs" / "quickstart" / "checkpoints")
        for name in ("runs/seed-0", "runs/seed-1", "runs/seed-2", "user/name"):
            shutil.copytree(base / "runs" / "quickstart", base / name)
        for name in ("train.py", "configs"):
            (base / name).symlink_to(ROOT / name)
        yield SimpleNamespace(base=base, shell=shell, server=server)
        shell.close()


ENCODERS = (
    "encoders/minilm",
    "encoders/vit-s",
    "bert-base-cased",
    "google/vit-base-patch16-384",
)


def folder_for(world, folder: Path) -> Path:
    """Makes the folder that a page runs in."""
    shutil.copytree(world.base, folder, symlinks=True)
    return folder


__all__ = [
    "NOT_RUN",
    "ROOT",
    "Shell",
    "docs_world",
    "extras",
    "folder_for",
    "not_installed",
]
