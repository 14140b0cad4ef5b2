"""Runs of `hmgrl predict` on a tiny model, and what its tests share."""

import json
from pathlib import Path

from hmgrl_cli.distributed import Processes
from modeling_hmgrl.pipeline_hmgrl import LOOKAHEAD

BATCH = 3
CHUNK = BATCH * LOOKAHEAD


def read(path):
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def error_of(capsys):
    return capsys.readouterr().err.splitlines()[-1]


class One:
    """What accelerate would know, where the processes run one after the other."""

    device = "cpu"

    def wait_for_everyone(self):
        pass

    def destroy_process_group(self):
        pass


def as_process(monkeypatch, index, count=2):
    processes = Processes(index, count, One())
    monkeypatch.setattr(Processes, "join", classmethod(lambda *_, **__: processes))


def whole(predict, data, folder, *more):
    predict("--input", data, "--output", folder / "whole.jsonl", *more)
    return (folder / "whole.jsonl").read_bytes()
