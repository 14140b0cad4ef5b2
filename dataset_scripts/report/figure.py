"""Figure of a data report: the number of records of each label in each split."""

from __future__ import annotations

import io
import unicodedata
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..protocol import SPLITS

if TYPE_CHECKING:
    from ..builder import GZSData

# Paul Tol's "high contrast" scheme: distinguishable with colour blindness and in greyscale.
GROUP_COLOURS = {
    "seen": "#004488",
    "validation-unseen": "#DDAA33",
    "test-unseen": "#BB5566",
}

NO_FIGURE = (
    "The figure of the labels is omitted, because it requires matplotlib: "
    'pip install "hmgrl[report]".'
)

DPI = 110
_WIDTH = 11.0  # inches
_ROW = 0.25
_HEAD_AND_FOOT = 1.35
# Beyond this height, far above what can be read, rows become narrower so that the figure can be
# drawn.
_MAX_ROWS_HEIGHT = 250.0
_FONT_SIZE = 8.5
_MAX_NAME_WIDTH = 34
_FONT = "DejaVu Sans"  # included in matplotlib


def ordered_labels(data: GZSData) -> list[str]:
    """Returns the labels sorted by group, decreasing number of records, and name."""
    group_of = data.partition.group_of
    order = list(GROUP_COLOURS)
    counts = data.report.splits

    def key(label: str) -> tuple[int, int, str]:
        total = sum(counts[split][label] for split in SPLITS)
        return order.index(group_of[label]), -total, label

    return sorted(group_of, key=key)


def report_title(data: GZSData) -> str:
    """Returns a line that identifies the data."""
    settings = data.report.settings
    return (
        f"{data.report.source} · {data.task} · seed {settings['seed']} · "
        f"protocol version {settings['protocol_version']} · group_by {settings['group_by']}"
    )


def shorten(name: str, width: int = _MAX_NAME_WIDTH) -> str:
    """Shortens a long name in the middle and returns it as one line.

    Names such as `/person/organization/member_of` may differ at either end.

    Args:
        name: The name.
        width: Maximum width in columns; wide characters such as ideographs take two columns.
    """
    name = " ".join(name.split())
    if _columns(name) <= width:
        return name
    head = tail = ""
    while True:
        start, end = len(head), len(name) - len(tail)
        longer = (head + name[start], tail)
        if _columns(head) > _columns(tail):
            longer = (head, name[end - 1] + tail)
        if sum(map(_columns, longer)) + 1 > width:
            return f"{head}…{tail}"
        head, tail = longer


def _columns(text: str) -> int:
    return sum(
        2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
        if not unicodedata.combining(character)
    )


def draw_labels(data: GZSData) -> bytes:
    """Draws the number of records of each label in each split.

    Args:
        data: The data.

    Returns:
        The content of a PNG file, the same for the same data.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(NO_FIGURE) from error

    with matplotlib.rc_context(), warnings.catch_warnings():
        # The caller's style, e.g. of a dark notebook, must not affect this figure.
        matplotlib.rcdefaults()
        # Characters without an installed font become boxes. The warning is suppressed, because the
        # page shows these characters in the browser's fonts.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        warnings.filterwarnings("ignore", r"Matplotlib currently does not support", UserWarning)
        return _draw(data)


def _draw(data: GZSData) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    labels = ordered_labels(data)
    group_of = data.partition.group_of
    names = [shorten(label) for label in labels]
    row = min(_ROW, _MAX_ROWS_HEIGHT / len(labels))
    height = _HEAD_AND_FOOT + row * len(labels)
    size = _FONT_SIZE * min(1.0, row / _ROW)

    figure = Figure(figsize=(_WIDTH, height), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(SPLITS), sharex=True, sharey=True)
    counts = data.report.splits
    largest = max(max(counts[split].values()) for split in SPLITS)
    for panel, split in zip(panels, SPLITS, strict=True):
        numbers = [counts[split][label] for label in labels]
        panel.barh(
            range(len(labels)),
            numbers,
            height=0.72,
            color=[GROUP_COLOURS[group_of[label]] for label in labels],
        )
        panel.set_title(f"{split}: {sum(numbers):,}", loc="left", fontsize=10)
        for row_index, number in enumerate(numbers):
            panel.annotate(
                f"{number:,}",
                (number, row_index),
                xytext=(3, 0),
                textcoords="offset points",
                va="center_baseline",
                fontsize=size - 0.5,
                color="#222222" if number else "#8a8a8a",
            )
        _style_panel(panel, labels, group_of)
    first = panels[0]
    # The margin beyond the longest bar is for its number.
    first.set_xlim(0, 1.22 * max(1, largest))
    first.set_ylim(len(labels) - 0.4, -0.6)
    first.set_yticks(range(len(labels)), labels=names, parse_math=False, fontsize=size)
    families = _font_families(names)
    for text in first.get_yticklabels():
        text.set_fontfamily(families)
    # Measured after the fonts are set, because it depends on them.
    widest = max(
        text.get_window_extent(canvas.get_renderer()).width for text in first.get_yticklabels()
    )
    figure.subplots_adjust(
        left=(widest / DPI + 0.2) / _WIDTH,
        right=1 - 0.15 / _WIDTH,
        bottom=0.38 / height,
        top=1 - 0.95 / height,
        wspace=0.04,
    )
    figure.text(
        0.15 / _WIDTH,
        1 - 0.24 / height,
        report_title(data),
        fontsize=11,
        weight="bold",
        va="center",
        parse_math=False,
    )
    members = [list(group_of.values()).count(group) for group in GROUP_COLOURS]
    figure.legend(
        handles=[
            Patch(color=colour, label=f"{group}: {number} label{'' if number == 1 else 's'}")
            for (group, colour), number in zip(GROUP_COLOURS.items(), members, strict=True)
        ],
        loc="center left",
        bbox_to_anchor=(0.15 / _WIDTH, 1 - 0.52 / height),
        ncols=len(GROUP_COLOURS),
        fontsize=9,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
    )
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def _style_panel(panel: Any, labels: list[str], group_of: dict[str, str]) -> None:
    """Removes the frame of a panel, and separates the groups by lines."""
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    panel.spines["left"].set_color("#999999")
    panel.tick_params(axis="y", length=0)
    panel.tick_params(axis="x", labelsize=8, length=0, labelcolor="#555555")
    panel.locator_params(axis="x", nbins=4, integer=True)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.grid(axis="x", color="#e4e4e4", linewidth=0.7)
    panel.set_axisbelow(True)
    for row in range(1, len(labels)):
        if group_of[labels[row]] != group_of[labels[row - 1]]:
            panel.axhline(row - 0.5, color="#bbbbbb", linewidth=0.7)


def _font_families(names: Iterable[str]) -> list[str]:
    """Returns installed fonts that together cover as many characters of the names as possible."""
    from matplotlib import font_manager  # noqa: PLC0415
    from matplotlib.ft2font import FT2Font  # noqa: PLC0415

    # Control characters, variation selectors and the like have no glyph of their own.
    missing = {
        ord(character)
        for character in set("".join(names))
        if unicodedata.category(character) not in ("Cc", "Cf", "Mn", "Zs")
    }
    families = [_FONT]
    own = FT2Font(font_manager.findfont(_FONT))
    missing = {code for code in missing if not own.get_char_index(code)}
    # Among equally good fonts, an upright sans-serif font of regular weight is preferred.
    entries = sorted(
        {entry.fname: entry for entry in reversed(font_manager.fontManager.ttflist)}.values(),
        key=lambda e: ("sans" not in e.name.lower(), e.style != "normal", e.weight != 400, e.fname),
    )
    covered: dict[str, set[int]] = {}
    if missing:
        for entry in entries:
            if entry.name.startswith("Last Resort"):  # has a box for every character
                continue
            if found := _supported_codes(FT2Font, entry.fname, missing):
                covered[entry.name] = covered.get(entry.name, set()) | found
    while missing and covered:
        best = max(covered, key=lambda name: len(covered[name] & missing))
        if not missing & covered[best]:
            break
        families.append(best)
        missing -= covered[best]
    return families


def _supported_codes(font_type: Any, path: str, codes: set[int]) -> set[int]:
    """Returns the characters of a font file that can be drawn."""
    try:
        font = font_type(path)
        if not font.scalable:  # drawing coloured bitmaps raises an error
            return set()
        return {code for code in codes if font.get_char_index(code)}
    except (OSError, RuntimeError, UnicodeError):  # removed in the meantime, or damaged
        return set()
