"""The grid of the comparison: cells, paired test, tables, on tiny encoders."""

import importlib.util
import itertools
import json
import multiprocessing
from dataclasses import asdict, replace

import comparison
import draw_representations
import grid
import numpy as np
import pytest
import reproduce
from datasets import DatasetDict
from PIL import Image

from modeling_hmgrl.training.locks import lock_path, locked


@pytest.fixture
def small(tmp_path, monkeypatch, backbones):
    """A setting of tiny encoders, an eighth of the sample and three steps, in its own folder."""
    text, vision = backbones
    load = grid._data

    def eighth(*arguments):
        data = load(*arguments)
        parts = {name: rows.select(range(0, len(rows), 8)) for name, rows in data.splits.items()}
        return replace(data, splits=DatasetDict(parts))

    eighth.cache_clear = load.cache_clear
    monkeypatch.setattr(grid, "_data", eighth)
    setting = grid.Setting(
        text,
        vision,
        {"freeze_text": True, "freeze_vision": True},
        {"batch_size": 16, "max_steps": 3, "patience": 0, "progress": False},
    )
    monkeypatch.setitem(grid.SETTINGS, "frozen", setting)
    monkeypatch.setitem(grid.SETTINGS, "frozen_paper", replace(setting, paper=True))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "out"


def test_the_paired_test_counts_all_sign_patterns():
    ours, theirs = np.array([3.0, 5.0, 4.0, 7.0]), np.array([1.0, 4.0, 4.5, 5.0])
    found = comparison.paired_test(ours, theirs)
    difference = ours - theirs
    patterns = [
        abs((np.array(s) * difference).mean()) for s in itertools.product((1, -1), repeat=4)
    ]
    assert found["p"] == np.mean([p >= abs(difference.mean()) - 1e-12 for p in patterns])
    assert found["difference"] == pytest.approx(1.125)
    assert (found["wins"], found["n"]) == (3, 4)
    half = 3.182 * difference.std(ddof=1) / 2
    assert found["high"] - found["low"] == pytest.approx(2 * half)


def test_ten_wins_of_ten_are_the_least_likely_pattern():
    found = comparison.paired_test(np.arange(10.0) + 1, np.arange(10.0))
    assert found["p"] == 2 / 2**10
    assert comparison.paired_test(np.arange(10.0), np.arange(10.0))["p"] == 1.0


def test_many_pairs_are_drawn():
    rng = np.random.default_rng(0)
    found = comparison.paired_test(rng.normal(0.5, 1, 40), np.zeros(40))
    assert 0 < found["p"] < 0.05
    assert found == comparison.paired_test(
        np.random.default_rng(0).normal(0.5, 1, 40), np.zeros(40)
    )


@pytest.fixture
def records(tmp_path):
    """A function that writes records, of which every second one names an image."""
    folder = tmp_path / "records"
    folder.mkdir()

    def write(first="Ada"):
        rows = [
            {"text": f"{first} met {n}", "spans": [[0, 3]], "label": "abc"[n % 3],
             "image": f"{n}.png" if n % 2 else None}
            for n in range(60)
        ]  # fmt: skip
        (folder / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return write


def clear_caches():
    """As in a new process."""
    for cached in (grid._data, grid._data_digest, grid._file_digest):
        cached.cache_clear()


def test_a_cell_is_named_by_all_that_it_depends_on(small, records, monkeypatch, tmp_path):
    paths = grid.Paths(small, str(records() / "r.jsonl"))
    cell = grid.Cell("records", "hmgrl", 0, 0)
    name = grid.name_of(cell, paths)
    assert name.startswith("records-hmgrl-corrected-frozen-split0-seed0-")
    others = [
        replace(cell, changes=(("dropout", 0.2),)),
        replace(cell, vocabulary="inductive"),
        replace(cell, label_text="raw"),
        replace(cell, split=1),
    ]
    names = [name, *(grid.name_of(other, paths) for other in others)]
    setting = grid.SETTINGS["frozen"]
    for changed in (
        replace(setting, arguments=setting.arguments | {"max_steps": 4}),
        replace(setting, text=setting.vision),
    ):
        monkeypatch.setitem(grid.SETTINGS, "frozen", changed)
        names.append(grid.name_of(cell, paths))
    monkeypatch.setitem(grid.SETTINGS, "frozen", setting)
    with monkeypatch.context() as patch:
        patch.setitem(grid.SCORINGS, "corrected", {"label_parts": True})
        names.append(grid.name_of(cell, paths))
    with monkeypatch.context() as patch:
        patch.setattr(grid, "_code_digest", lambda: "another revision")
        names.append(grid.name_of(cell, paths))
    clear_caches()
    assert grid.name_of(cell, paths) == name
    assert not grid.dependencies(cell, paths)["images"]
    Image.new("RGB", (8, 8)).save(records() / "1.png")
    clear_caches()
    names.append(grid.name_of(cell, paths))
    assert grid.dependencies(cell, paths)["images"]
    records("Bob")
    clear_caches()
    names.append(grid.name_of(cell, paths))
    assert len(set(names)) == len(names) == 11


def test_comments_and_docstrings_are_no_code():
    code = '"""Doc."""\n\ndef f(x):\n    """Doc."""\n    return x + 1  # one\n'
    assert grid._code_of(code) == grid._code_of("def f(x):\n    return x + 1\n")
    assert grid._code_of(code) != grid._code_of("def f(x):\n    return x + 2\n")


def test_scores_of_text_are_not_those_of_images(small, records, monkeypatch, capsys):
    """A run with images does not take up the cells of an earlier one without."""
    folder = records()
    runs = []
    monkeypatch.setattr(
        grid, "run_cell", lambda cell, *_: runs.append(cell) or {"cell": asdict(cell)}
    )
    cells = [grid.Cell("records", "proto", 0, 0)]
    paths = grid.Paths(small, str(folder / "r.jsonl"))
    [before] = grid.run_cells(cells, paths)
    assert grid.run_cells(cells, paths) == [before]
    assert len(runs) == 1
    assert not before["depends_on"]["images"]
    Image.new("RGB", (8, 8)).save(folder / "1.png")
    clear_caches()
    [after] = grid.run_cells(cells, paths)
    assert len(runs) == 2
    assert after["depends_on"]["images"]
    assert "not used, as data, settings, encoders or code differ: records-proto" in (
        capsys.readouterr().err
    )
    assert len(list(small.glob("*.json"))) == 2


def test_outputs_are_named_by_what_selects_them(tmp_path):
    def name(*more):
        arguments = reproduce._parse(["--table", "1", "--task", "mre", *more])
        return reproduce._path(arguments, "table1", ".md").name

    assert name() == "table1-mre-mnre-frozen-corrected-seeds0-2.md"
    assert name("--methods", "proto", "hmgrl", "--seeds", "1", "3") == (
        "table1-mre-mnre-frozen-corrected-proto-hmgrl-seeds1+3.md"
    )
    assert name("--source", "records", "--scoring", "parts").startswith("table1-mre-records-frozen")


@pytest.mark.parametrize(
    ("method", "scoring", "text"),
    [
        ("proto", "published", "raw"),
        ("dbzfet", "published", "described"),
        ("proto", "corrected", "verbalised"),
        ("dbzfet", "corrected", "described"),
        ("re_matching", "corrected", "parts"),
        ("proto", "parts", "parts"),
        ("zs_ska", "parts", "verbalised"),
    ],
)
def test_label_texts_go_with_scoring_and_method(method, scoring, text):
    assert grid.Cell("mnre", method, 0, 0, scoring=scoring).effective_label_text == text


def test_a_table_is_made_and_its_cells_are_not_run_again(small, monkeypatch, capsys):
    command = [
        "--table", "1", "--task", "met", "--seeds", "1", "2", "--methods", "majority", "proto",
        "hmgrl", "--out", str(small),
    ]  # fmt: skip
    reproduce.main(command)
    shown = capsys.readouterr().out
    files = sorted((small / "cells").glob("*.json"))
    assert len(files) == 6
    report = json.loads(files[0].read_text())
    assert {"cell", "seconds", "test", "validation", "gamma", "data"} <= set(report)
    hmgrl = [json.loads(f.read_text()) for f in files if "-hmgrl-" in f.name]
    assert all(0 <= r["test"]["overall"]["f1"] <= r["oracle"]["f1"] + 1e-9 for r in hmgrl)
    written = (
        small / "table1-met-sample-frozen-corrected-majority-proto-hmgrl-seeds1+2.md"
    ).read_text()
    assert written.strip() in shown
    assert "| majority |" in written
    assert "of 2 |" in written

    def refuse(*_):
        raise AssertionError("a cell was run again")

    monkeypatch.setattr(grid, "run_cell", refuse)
    reproduce.main(command)


def hold(lock, ready, release):
    with locked(lock, "a cell"):
        ready.set()
        release.wait(120)


def test_a_cell_that_another_process_runs_is_refused(small, monkeypatch):
    cell, paths = grid.Cell("sample", "majority", 1, 1), grid.Paths(small)
    path, context = grid._report_path(cell, paths), multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(lock_path(path), ready, release))
    holder.start()
    assert ready.wait(60)
    try:
        with pytest.raises(BlockingIOError, match=rf"{path.name}: in use by process {holder.pid}"):
            grid.run_cells([cell], paths)
        assert not path.exists()
    finally:
        release.set()
        holder.join()
    [report] = grid.run_cells([cell], paths)
    assert report["method"] == "majority"


def test_bars_of_the_geometry_are_drawn(small):
    shared = ["--task", "met", "--seeds", "1", "--out", str(small)]
    reproduce.main(["--figure", "5a", *shared])
    assert (small / "figure5a-met-sample-frozen-corrected-seeds1.png").stat().st_size > 10_000
    assert (
        "Euclidean both" in (small / "figure5a-met-sample-frozen-corrected-seeds1.md").read_text()
    )


def test_several_scorings_are_for_table_1(small):
    command = ["--table", "2", "--task", "met", "--scoring", "published", "corrected"]
    with pytest.raises(SystemExit, match="--scoring: got several"):
        reproduce.main([*command, "--out", str(small)])
    with pytest.raises(SystemExit, match="--methods: expected only with --table 1"):
        reproduce.main([*command[:4], "--methods", "proto", "--out", str(small)])


def test_parity_is_for_the_setting_that_it_has(small):
    command = ["--table", "parity", "--task", "met", "--setting", "fine_tuned", "--out", str(small)]
    with pytest.raises(SystemExit, match="--setting: got fine_tuned, expected frozen"):
        reproduce.main(command)


def test_parity_stands_beside_the_corrected_settings(small):
    reproduce.main(["--table", "parity", "--task", "met", "--seeds", "1", "2", "--out", str(small)])
    written = (small / "parity-met-sample-frozen-corrected-seeds1+2.md").read_text()
    for row in reproduce.PARITY:
        assert f"| {row} |" in written
    assert written.count(" of 2 |") == 2  # the corrected settings against both others
    paper, *_ = (
        json.loads(path.read_text()) for path in (small / "cells").glob("*frozen_paper*.json")
    )
    assert paper["settings"]["generator_condition"] == "mention"


def test_ablations_hold_an_inductive_run(small):
    reproduce.main(["--table", "2", "--task", "met", "--seeds", "1", "--out", str(small)])
    written = (small / "table2-met-sample-frozen-corrected-seeds1.md").read_text()
    assert all(f"| {row} |" in written for row in reproduce.ABLATIONS)
    found = [json.loads(path.read_text()) for path in (small / "cells").glob("*.json")]
    assert sorted(report["cell"]["vocabulary"] for report in found) == [
        "inductive", *["transductive"] * (len(reproduce.ABLATIONS) - 1),
    ]  # fmt: skip


def test_figure_6_draws_a_model_that_is_kept(small, monkeypatch):
    command = ["--figure", "6", "--task", "met", "--seeds", "1", "--out", str(small)]
    draw = draw_representations.main
    few = ["--limit", "100", "--prototype-limit", "40", "--steps", "50"]
    monkeypatch.setattr(draw_representations, "main", lambda argv: draw([*argv, *few]))
    reproduce.main(command)
    for name in ("sphere.png", "poincare.svg", "layout.json"):
        assert (small / "figure6-met-sample-frozen-corrected-seeds1" / name).stat().st_size > 10_000
    assert list((small / "cells" / "runs").glob("*/model.safetensors"))
    monkeypatch.setattr(grid, "run_cell", None)  # the model is there: nothing is trained
    reproduce.main(command)


def test_figures_name_what_they_require(small, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    with pytest.raises(SystemExit, match=r'--figure: requires matplotlib: pip install "hmgrl\['):
        reproduce.main(["--figure", "5a", "--task", "met", "--out", str(small)])
    assert not small.exists()
