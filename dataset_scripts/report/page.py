"""The HTML page of a data report, with tables, samples and, given matplotlib, a figure.

The page is a single file that loads nothing else. All data are escaped, and the
Content-Security-Policy forbids scripts in any case.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ..corpus import Finding
from ..files import write_atomically, write_json
from ..protocol import SPLITS
from .figure import GROUP_COLOURS, NO_FIGURE, draw_labels, ordered_labels, report_title
from .samples import ROLES, Sample, choose_samples, mark_spans, thumbnail

if TYPE_CHECKING:
    from ..builder import GZSData

FIGURE_FILE = "labels.png"

_OVERLAP_TEXT = (
    "How many samples of validation and test have a sentence or an image that also occurs in a "
    "training sample, with another mention or label. A model may benefit from having seen them."
)


_STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1b1b1b; --muted: #5a5a5a; --line: #d6d6d6;
  --card: #f7f7f7; --head: #cbe2fa; --tail: #ffe09a; --head-line: #0a5cad; --tail-line: #a86a00; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16181b; --ink: #e6e6e6; --muted: #a6a9ad; --line: #3b3f45; --card: #1f2226;
    --head: #1c4672; --tail: #644700; --head-line: #79b8f5; --tail-line: #f0b840; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p { max-width: 75ch; }
header p { margin: .25rem 0 0; }
.muted, .place { color: var(--muted); }
.wide { overflow-x: auto; }
.labels { display: block; width: 100%; min-width: 640px; background: #fff; border-radius: 6px; }
table { border-collapse: collapse; font-size: .92rem; margin: .25rem 0 1rem; }
th, td { text-align: start; vertical-align: top; padding: .3rem .9rem .3rem 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--muted); vertical-align: bottom; }
[aria-label="Labels"] td:nth-child(3) { min-width: 14rem; }
.number { text-align: end; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.number { white-space: normal; }
tfoot td { font-weight: 600; }
td ul { margin: 0; padding: 0; list-style: none; font-size: .86rem; overflow-wrap: anywhere;
  min-width: 14rem; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: .6rem; margin: 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: .5rem .75rem; display: flex; flex-direction: column-reverse; }
.tiles dt { color: var(--muted); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.35rem; font-weight: 600; }
.chip { white-space: nowrap; }
.chip::before { content: ""; display: inline-block; width: .75em; height: .75em; margin-right: .4em;
  border: 1px solid var(--muted); border-radius: 2px; background: var(--chip); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr));
  gap: 1rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem;
  min-width: 0; display: flex; flex-direction: column; }
.image { display: flex; justify-content: center; }
.image img { max-width: 100%; max-height: 256px; border-radius: 4px; }
.blank { width: 100%; height: 6rem; display: grid; place-items: center; border-radius: 4px;
  background: #8884; color: var(--muted); }
.text { flex: 1; margin: .7rem 0; line-height: 1.75; white-space: pre-wrap;
  overflow-wrap: anywhere; }
mark { color: inherit; background: var(--head); border-bottom: 2px solid var(--head-line);
  padding: .1em 0; }
mark.tail { background: var(--tail); border-bottom: 2px dashed var(--tail-line); }
mark.head.tail { background: linear-gradient(var(--head) 50%, var(--tail) 50%); }
.role { font-size: .68em; font-weight: 600; vertical-align: super; line-height: 0;
  margin-right: .2em; color: var(--head-line); user-select: none; }
.role.tail { color: var(--tail-line); }
.cut { color: var(--muted); padding: 0 .15em; }
.card dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .75rem; margin: 0;
  font-size: .86rem; }
.card dt { color: var(--muted); grid-column: 1; }
.card dd { margin: 0; grid-column: 2; overflow-wrap: anywhere; }
@media (max-width: 36rem) {
  .tiles { grid-template-columns: repeat(2, 1fr); }
  th, td { padding-right: .6rem; }
  td .muted { display: block; }
}
""" + "".join(f".chip.{group} {{ --chip: {colour}; }}\n" for group, colour in GROUP_COLOURS.items())


def save_report(data: GZSData, folder: str | Path, examples: int = 12) -> list[Path]:
    """Writes report.json, report.html and, if matplotlib is installed, labels.png.

    The files depend on the data and on whether matplotlib is installed. Nothing is written if one
    of them cannot be made.

    Args:
        data: The result of `load_gzs`.
        folder: Folder of the files, created if necessary; existing files are replaced. Without
            matplotlib, an existing labels.png is deleted, as it would show other data.
        examples: Number of samples shown on the page, selected from all splits by their ids.

    Returns:
        The paths of the written files.

    Raises:
        ValueError: If the number of examples is negative.
    """
    if examples < 0:
        raise ValueError(f"examples: expected 0 or more, got {examples}")
    try:
        figure: bytes | None = draw_labels(data)
    except ImportError:
        figure = None
    page = _page(data, figure, choose_samples(data.splits, examples))

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table, chart, html = (folder / name for name in ("report.json", FIGURE_FILE, "report.html"))
    values = {**data.report.to_dict(), "label_texts": data.label_texts}
    write_json(folder, table.name, values, ensure_ascii=False)
    # A lone surrogate, which a file name may contain, has no UTF-8 encoding.
    write_atomically(html, page.encode("utf-8", "backslashreplace"))
    if figure is None:
        chart.unlink(missing_ok=True)
        return [table, html]
    write_atomically(chart, figure)
    return [table, chart, html]


def _page(data: GZSData, figure: bytes | None, samples: Sequence[Sample]) -> str:
    title = report_title(data)
    # The style is allowed by its digest, so that the data cannot inject a style either.
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>Data report: {escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header>
<h1>Data report: {escape(data.report.source)}</h1>
<p class="muted">{escape(title)}</p>
</header>
{_summary(data)}
{_settings(data)}
{_overlap(data.report.overlap)}
<section>
<h2>Labels</h2>
{_figure(figure)}
{_labels(data)}
</section>
{_samples(data, samples)}
</main>
</body>
</html>
"""


def _figure(figure: bytes | None) -> str:
    if figure is None:
        return f"<p>{escape(NO_FIGURE)}</p>"
    return f"""<div class="wide" tabindex="0" role="region" aria-label="Figure of the labels">
<img class="labels" src="data:image/png;base64,{base64.b64encode(figure).decode()}"
 alt="Bars: number of records of each label in train, validation and test, as in the table">
</div>"""


def _table(
    name: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Collection[int],
    foot: bool = False,
) -> str:
    """Returns an HTML table.

    Args:
        name: Accessible name of the table.
        head: Cells of the header, as HTML.
        rows: Cells of the other rows, as HTML.
        numbers: Indices of the columns that contain numbers.
        foot: Whether the last row contains totals.
    """

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="number"' if column in numbers else "" for column in range(len(cells))]
        inner = "".join(
            f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)
        )
        return f"<tr>{inner}</tr>\n"

    body = [row(cells, "td") for cells in rows]
    end = f"<tfoot>\n{body.pop()}</tfoot>\n" if foot else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(name)}">\n<table>\n'
        f"<thead>\n{row(head, 'th')}</thead>\n<tbody>\n{''.join(body)}</tbody>\n{end}</table>\n"
        "</div>"
    )


def _summary(data: GZSData) -> str:
    report, images = data.report, data.report.images
    numbers = [
        ("records in", report.records_in),
        ("records left out", report.records_left_out),
        ("records in a split", report.records_out),
        *((f"of these in {split}", sum(report.splits[split].values())) for split in SPLITS),
        ("labels", len(data.partition.labels)),
        ("distinct images", images["distinct"]),
    ]
    tiles = "".join(f"<div><dt>{name}</dt><dd>{n:,}</dd></div>\n" for name, n in numbers)
    lost = [images["distinct_missing"], images["distinct_unreadable"]]
    by_record = [images[state] for state in ("found", "missing", "unreadable", "none")]
    by_image = [images["distinct"] - sum(lost), *lost]
    image_table = _table(
        "Images",
        ["", "found", "missing", "unreadable", "none named", "all"],
        [
            ["records", *(f"{number:,}" for number in [*by_record, report.records_out])],
            ["distinct", *(f"{n:,}" for n in by_image), "–", f"{images['distinct']:,}"],
        ],
        numbers=range(1, 6),
    )
    return f"""<section>
<h2>Summary</h2>
<dl class="tiles">
{tiles}</dl>
<h3>Images</h3>
{image_table}
<h3>Left out</h3>
{_findings(report.left_out, "No record was left out.")}
<h3>Notes on records that were kept</h3>
{_findings(report.notes, "There are no notes.")}
</section>"""


def _findings(findings: Mapping[str, Finding], otherwise: str) -> str:
    """Returns a table of reasons with their counts and first examples."""
    if not findings:
        return f"<p>{otherwise}</p>"
    rows = []
    for reason, finding in sorted(findings.items(), key=lambda item: (-item[1].count, item[0])):
        examples = "".join(
            f'<li><span class="place">{_place(example)}</span> '
            f"<bdi>{escape(str(example['detail']))}</bdi></li>"
            for example in finding.examples
        )
        rows.append([f"<bdi>{escape(reason)}</bdi>", f"{finding.count:,}", f"<ul>{examples}</ul>"])
    return _table("Reasons", ["reason", "records", "first examples"], rows, numbers=[1])


def _place(example: Mapping[str, object]) -> str:
    line = example["line"]
    return escape(str(example["file"]) if line is None else f"{example['file']}:{line}")


def _settings(data: GZSData) -> str:
    rows = []
    for name, value in data.report.settings.items():
        if name == "partition":  # shown in the table of labels
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        rows.append([escape(name), f"<code>{escape(text)}</code>"])
    table = _table("Settings", ["setting", "value"], rows, numbers=[])
    return f"<section>\n<h2>Settings</h2>\n{table}\n</section>"


def _overlap(overlap: Mapping[str, Mapping[str, int]]) -> str:
    def share(counts: Mapping[str, int], name: str) -> str:
        if not counts["samples"]:
            return "–"
        percent = 100 * counts[name] / counts["samples"]
        return f'{counts[name]:,} <span class="muted">({percent:.1f} %)</span>'

    names = {
        "validation": "validation",
        "validation_seen": "validation, seen labels only",
        "test": "test",
        "test_seen": "test, seen labels only",
    }
    rows = [
        [text, f"{overlap[name]['samples']:,}"]
        + [share(overlap[name], kind) for kind in ("text", "image", "either")]
        for name, text in names.items()
        if name in overlap
    ]
    head = ["", "samples", "same sentence", "same image", "either"]
    return f"""<section>
<h2>Overlap with training</h2>
<p>{_OVERLAP_TEXT}</p>
{_table("Overlap with training", head, rows, numbers=range(1, 5))}
</section>"""


def _labels(data: GZSData) -> str:
    group_of = data.partition.group_of
    counts = data.report.splits
    rows = []
    for label in ordered_labels(data):
        numbers = [counts[split][label] for split in SPLITS]
        rows.append(
            [
                f"<bdi>{escape(label)}</bdi>",
                _chip(group_of[label]),
                f"<bdi>{escape(data.label_texts[label])}</bdi>",
                *(f"{number:,}" for number in [*numbers, sum(numbers)]),
            ]
        )
    totals = [sum(counts[split].values()) for split in SPLITS]
    rows.append(["all", "", "", *(f"{number:,}" for number in [*totals, sum(totals)])])
    head = ["label", "group", "label text", *SPLITS, "all"]
    return _table("Labels", head, rows, numbers=range(3, 7), foot=True)


def _chip(group: str) -> str:
    return f'<span class="chip {group}">{group}</span>'


def _samples(data: GZSData, samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    group_of = data.partition.group_of
    cards = "\n".join(_card(data, sample, group_of[sample.label]) for sample in samples)
    return f"""<section>
<h2>Samples</h2>
<p>Selected from all splits by their ids, to show many labels.</p>
<div class="cards">
{cards}
</div>
</section>"""


def _card(data: GZSData, sample: Sample, group: str) -> str:
    small = None if sample.picture is None else thumbnail(sample.picture)
    if small is not None:
        source = f"data:image/jpeg;base64,{base64.b64encode(small).decode()}"
        image = f'<img src="{source}" alt="Image of sample {escape(sample.id)}">'
    elif sample.picture is None:
        image = '<div class="blank">no image</div>'
    else:
        image = '<div class="blank">image cannot be read</div>'
    text = mark_spans(sample.text, sample.spans, ROLES[data.task])
    shown = data.label_texts[sample.label]
    words = "" if shown == sample.label else f'<dd class="muted"><bdi>{escape(shown)}</bdi></dd>'
    # An empty `lang` declares that the language of the text is unknown.
    return f"""<article class="card">
<div class="image">{image}</div>
<p class="text" lang="" dir="auto">{text}</p>
<dl>
<dt>label</dt><dd><bdi>{escape(sample.label)}</bdi></dd>{words}
<dt>group</dt><dd>{_chip(group)}</dd>
<dt>split</dt><dd>{escape(sample.split)}</dd>
<dt>id</dt><dd><bdi>{escape(sample.id)}</bdi></dd>
</dl>
</article>"""
