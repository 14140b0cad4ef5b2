"""Reproduces the paper's tables and figures, in its own setting or in one that runs on a laptop.

    python experiments/reproduce.py --table 1 --task mre --data-dir MNRE/mnre_txt --seeds 0 1 2
    python experiments/reproduce.py --figure 5a --task met --seeds 1 2 3
    python experiments/reproduce.py --table parity --task met --seeds 1 2 3

Each cell of the grid is stored as one JSON file; the same command resumes an interrupted grid, and
cells of other data, settings, encoders or code are not reused. Tables are printed and written as
Markdown, figures as PNG, with source, methods and seeds in the names of the files; figure 6 shows
the model of the first seed, drawn by draw_representations.py. `--setting paper` uses BERT-base,
ViT-B/16-384 and the authors' settings, and requires a GPU.
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import draw_representations
from comparison import paired_test, table, values
from grid import SCORINGS, SETTINGS, Cell, Paths, run_cells, train_and_keep

from modeling_hmgrl.storage import write_atomically

SOURCES = {"mre": "mnre", "met": "sample"}
"""Default source of each task."""

METHODS = {
    "mre": (
        "majority", "label_similarity", "proto", "zs_bert", "re_matching", "zs_ska", "mmproto",
        "movcnet", "mg_vmoe", "hmgrl",
    ),
    "met": (
        "majority", "label_similarity", "proto", "dbzfet", "nzfet", "mzet", "mmproto", "movcnet",
        "mg_vmoe", "hmgrl",
    ),
}  # fmt: skip
"""Rows of table 1."""


def _changed(**changes: Any) -> dict[str, Any]:
    """Returns the fields of a cell with a changed configuration."""
    return {"changes": tuple(sorted(changes.items()))}


ABLATIONS: dict[str, dict[str, Any]] = {
    "HMGRL": {},
    "without HVIB": _changed(bottleneck="none"),
    "without L_con": _changed(weight_contrastive=0.0),
    "without L_cvae": _changed(weight_cvae=0.0),
    "without L_u": _changed(weight_unseen=0.0),
    "without L_sda": _changed(weight_alignment=0.0),
    "without generator": _changed(weight_cvae=0.0, weight_unseen=0.0, weight_alignment=0.0),
    "inductive": {"vocabulary": "inductive"},
}
"""Rows of table 2, and two more: without all losses of the generator, and with a generator that is
not given the names of the test-unseen labels."""

GEOMETRY: dict[str, dict[str, Any]] = {
    "HMGRL": {},
    "Euclidean HVIB": _changed(hvib_layer="euclidean"),
    "Euclidean HMCVAE": _changed(hmcvae_layer="euclidean"),
    "Euclidean both": _changed(hvib_layer="euclidean", hmcvae_layer="euclidean"),
}
"""Bars of figure 5a."""

PARITY: dict[str, dict[str, Any]] = {
    "paper's switch": {"setting": "frozen_paper", "scoring": "published"},
    "published scores": {"scoring": "published"},
    "corrected": {"scoring": "corrected"},
}
"""HMGRL with all settings of the authors' code, with only their scoring, and with corrections."""

WIDTHS = (16, 32, 64, 128, 256)
"""Widths of figures 5b (d_z) and 5c (d_v)."""

WEIGHTS = (0.0, 0.01, 0.1, 1.0, 10.0)
"""eta and zeta of figures 3 and 4."""


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--table",
        choices=("1", "2", "parity"),
        help="1: methods, 2: ablations, parity: the paper's settings and the corrected ones",
    )
    what.add_argument(
        "--figure",
        choices=("3", "4", "5a", "5b", "5c", "6"),
        help="3, 4: weights of L_u and L_sda; 5a: geometry; 5b, 5c: widths; 6: representations",
    )
    parser.add_argument(
        "--task",
        choices=tuple(SOURCES),
        required=True,
        help="mre: relation extraction, met: entity typing",
    )
    parser.add_argument("--source", help="source of the data (default: mnre or sample, by task)")
    parser.add_argument("--data-dir", help="folder of the source's data")
    parser.add_argument("--image-dir", help="folder of the source's images")
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0, 1, 2],
        help="seeds, each of both the split and the run (default: 0 1 2)",
    )
    parser.add_argument(
        "--setting",
        choices=tuple(SETTINGS),
        default="frozen",
        help="encoders and budget (default: frozen)",
    )
    parser.add_argument(
        "--scoring",
        nargs="+",
        choices=tuple(SCORINGS),
        default=["corrected"],
        help="scoring, with a table for each; several require --table 1 (default: corrected)",
    )
    parser.add_argument("--methods", nargs="+", help="rows of table 1 (default: all)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/reproduce"),
        help="folder to write to (default: runs/reproduce)",
    )
    return parser.parse_args(argv)


def _cells(arguments: argparse.Namespace, method: str, **options: Any) -> list[Cell]:
    source = _source(arguments)
    options = {"setting": arguments.setting, **options}
    return [Cell(source, method, seed, seed, **options) for seed in arguments.seeds]


def _paths(arguments: argparse.Namespace) -> Paths:
    return Paths(arguments.out / "cells", arguments.data_dir, arguments.image_dir)


def _reports(
    arguments: argparse.Namespace, rows: dict[str, list[Cell]]
) -> dict[str, list[dict[str, Any]]]:
    """Runs all rows, one split after the other, so that the data of a split are read once."""
    by_split = [cells[index] for index in range(len(arguments.seeds)) for cells in rows.values()]
    found = dict(zip(by_split, run_cells(by_split, _paths(arguments)), strict=True))
    return {row: [found[cell] for cell in cells] for row, cells in rows.items()}


def _image_note(reports: list[dict[str, Any]]) -> str:
    counts = reports[0]["data"].get("images", {})
    if not counts.get("found"):
        return f"Images: none found, not used ({counts})."
    return f"Images: {counts}."


def _source(arguments: argparse.Namespace) -> str:
    return arguments.source or SOURCES[arguments.task]


def _seeds(seeds: list[int]) -> str:
    """Formats seeds, consecutive ones as a range."""
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return "+".join(map(str, seeds))


def _path(arguments: argparse.Namespace, what: str, suffix: str) -> Path:
    """Names an output by all that selects its content, so that no run overwrites another one's."""
    parts = [what, arguments.task, _source(arguments), arguments.setting, *arguments.scoring]
    parts += [*(arguments.methods or []), f"seeds{_seeds(arguments.seeds)}"]
    return arguments.out / f"{'-'.join(parts)}{suffix}"


def _write(arguments: argparse.Namespace, what: str, text: str) -> None:
    path = _path(arguments, what, ".md")
    write_atomically(path, f"{text}\n".encode())
    print(text)
    print(f"\nWritten: {path}")


def make_table_1(arguments: argparse.Namespace) -> None:
    """Compares all methods, with a paired test of HMGRL against each other method."""
    methods = arguments.methods or METHODS[arguments.task]
    parts = []
    for scoring in arguments.scoring:
        rows = {method: _cells(arguments, method, scoring=scoring) for method in methods}
        reports = _reports(arguments, rows)
        parts += [f"## Scoring: {scoring}", "", _image_note(next(iter(reports.values()))), ""]
        parts += [table(reports), ""]
        if "hmgrl" in reports:
            parts += _paired_tests(reports, "hmgrl")
    _write(arguments, "table1", "\n".join(parts).rstrip())


def _paired_tests(reports: dict[str, list[dict[str, Any]]], row: str) -> list[str]:
    """Tests the row of HMGRL against each other row; empty if there is nothing to compare."""
    path = ("overall", "f1")
    ours = values(reports[row], path)
    if len(ours) < 2 or len(reports) < 2:
        return []
    lines = [
        "HMGRL minus the other method, overall F1 on the same splits (paired sign-flip test):", "",
        "| other | difference | 95 % interval | wins | p |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for method, theirs in reports.items():
        if method == row:
            continue
        found = paired_test(ours, values(theirs, path))
        p_value = f"{found['p']:.3f}" if found["p"] >= 0.001 else "< 0.001"
        lines.append(
            f"| {method} | {found['difference']:+.1f} | {found['low']:+.1f} to "
            f"{found['high']:+.1f} | {found['wins']} of {found['n']} | {p_value} |"
        )
    return [*lines, ""]


def make_settings_table(
    arguments: argparse.Namespace,
    name: str,
    settings: dict[str, dict[str, Any]],
    whole: str | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Compares settings of HMGRL, with a paired test of the row ``whole`` against each other."""
    rows = {
        row: _cells(arguments, "hmgrl", **{"scoring": arguments.scoring[0], **options})
        for row, options in settings.items()
    }
    reports = _reports(arguments, rows)
    parts = [_image_note(next(iter(reports.values()))), "", table(reports), ""]
    if whole is not None:
        parts += _paired_tests(reports, whole)
    _write(arguments, name, "\n".join(parts).rstrip())
    return reports


def draw_figure_6(arguments: argparse.Namespace) -> None:
    """Draws the representations of the test samples of the first seed."""
    cell = _cells(arguments, "hmgrl", scoring=arguments.scoring[0])[0]
    command = ["--run", str(train_and_keep(cell, _paths(arguments))), "--source", cell.source]
    command += ["--out", str(_path(arguments, "figure6", ""))]
    command += ["--split-seed", str(cell.split)]
    for name in ("data_dir", "image_dir"):
        if getattr(arguments, name):
            command += [f"--{name.replace('_', '-')}", getattr(arguments, name)]
    draw_representations.main(command)


def make_other_figure(arguments: argparse.Namespace) -> None:
    """Makes the table and the drawing of a figure other than 6."""
    from figures import draw_bars, draw_curves, draw_surface  # noqa: PLC0415 - for figures only

    if arguments.figure == "5a":
        reports = make_settings_table(arguments, "figure5a", GEOMETRY, "HMGRL")
        draw_bars(reports, _path(arguments, "figure5a", ".png"))
    elif arguments.figure in ("5b", "5c"):
        name = "bottleneck_size" if arguments.figure == "5b" else "generator_latent_size"
        settings = {str(width): _changed(**{name: width}) for width in WIDTHS}
        reports = make_settings_table(arguments, f"figure{arguments.figure}", settings)
        path = _path(arguments, f"figure{arguments.figure}", ".png")
        draw_curves(reports, "d_z" if arguments.figure == "5b" else "d_v", path)
    else:
        settings = {
            f"{eta} / {zeta}": _changed(weight_unseen=eta, weight_alignment=zeta)
            for eta in WEIGHTS
            for zeta in WEIGHTS
        }
        reports = make_settings_table(arguments, "figures3-4", settings)
        metric = "f1" if arguments.figure == "3" else "accuracy"
        path = _path(arguments, f"figure{arguments.figure}", ".png")
        draw_surface(reports, WEIGHTS, metric, path)


def main(argv: list[str] | None = None) -> None:
    """Makes the requested table or figure."""
    arguments = _parse(argv)
    if len(arguments.scoring) > 1 and arguments.table != "1":
        raise SystemExit("--scoring: got several, expected one except with --table 1")
    if arguments.methods and arguments.table != "1":
        raise SystemExit("--methods: expected only with --table 1")
    if arguments.figure is not None and importlib.util.find_spec("matplotlib") is None:
        raise SystemExit('--figure: requires matplotlib: pip install "hmgrl[report]"')
    if arguments.table == "parity" and arguments.setting != "frozen":
        raise SystemExit(f"--setting: got {arguments.setting}, expected frozen with --table parity")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.table == "1":
        make_table_1(arguments)
    elif arguments.table == "2":
        make_settings_table(arguments, "table2", ABLATIONS, "HMGRL")
    elif arguments.table == "parity":
        make_settings_table(arguments, "parity", PARITY, "corrected")
    elif arguments.figure == "6":
        draw_figure_6(arguments)
    else:
        make_other_figure(arguments)


if __name__ == "__main__":
    main()
