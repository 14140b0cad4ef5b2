"""Draws a layout of samples and labels on the sphere, in the Poincaré disk or in the plane."""

import io
import math
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tsne import Layout

# Blue and vermillion of Okabe and Ito's palette, distinguishable with colour blindness; the groups
# also have different markers.
_COLOURS = {True: "#0072B2", False: "#D55E00"}
_NAMES = {True: "seen in training", False: "not seen in training"}
_MARKERS = {True: "o", False: "^"}
_DPI = 150
_FONT = "DejaVu Sans"  # included in matplotlib
_LINE = "#d8d8d8"
_GAP = 0.04  # between the two hemispheres, whose radius is 1


@dataclass(frozen=True)
class Points:
    """Describes the points of a layout: first samples, then label vectors, then prototypes.

    Attributes:
        labels: Label of each sample.
        correct: Whether the prediction of each sample is correct.
        names: Labels of the label vectors and of the prototypes, in order.
        seen: Labels seen in training.
        prototypes: Whether there are prototypes.
    """

    labels: Sequence[str]
    correct: Sequence[bool]
    names: Sequence[str]
    seen: Collection[str]
    prototypes: bool = True

    def __len__(self) -> int:
        return len(self.labels) + len(self.names) * (2 if self.prototypes else 1)


def draw_layout(
    layout: Layout, points: Points, title: str = "", note: str = "", format: str = "png"
) -> bytes:
    """Draws a layout.

    The sphere is shown as two hemispheres in Lambert's equal-area projection, divided where there
    are fewest points. The disk is moved so that the points are centred.

    Args:
        layout: The layout.
        points: Description of its points.
        title: Line above the figure.
        note: Lines below the figure.
        format: "png", "svg" or "pdf".

    Returns:
        The content of the file, which depends on the arguments only.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the layout has another number of points.
    """
    try:
        import matplotlib  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            'drawing layouts requires matplotlib: pip install "hmgrl[report]"'
        ) from error
    if len(layout.points) != len(points):
        raise ValueError(f"points: got {len(points)}, expected {len(layout.points)} as in layout")
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # the caller's style must not affect this figure
        # a character that the font lacks becomes a box in a PNG; an SVG contains the text
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        matplotlib.rcParams.update({"svg.hashsalt": "layout", "svg.fonttype": "none"})
        return _draw(layout, points, title, note, format)


def _draw(layout: Layout, points: Points, title: str, note: str, format: str) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    wide = layout.manifold == "sphere"
    width, side = (14.2, 7.0) if wide else (9.4, 9.0)
    height = side + 1.4
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1 / width, 1.0 / height, 1 - 0.2 / width, (side - 0.1) / height))
    axes.set_aspect("equal")
    axes.set_axis_off()
    if layout.manifold == "sphere":
        flat = _hemispheres(layout.points)
        _sphere_lines(axes)
    elif layout.manifold == "poincare":
        flat = _centered(layout.points)
        _disk_lines(axes)
    else:
        flat = layout.points - layout.points.mean(0)
        reach = 1.05 * float(flat.abs().max())
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
    _scatter(axes, flat, points)
    _name_stars(axes, canvas, flat, points, wide)
    style: dict[str, Any] = {"ha": "left", "parse_math": False}
    if title:
        top = 1 - 0.1 / height
        figure.text(0.25 / width, top, title, fontsize=13, weight="bold", va="top", **style)
    if note:
        figure.text(0.25 / width, 0.1 / height, note, fontsize=9, color="#555555", **style)
    _legend(figure, points, 0.53 / height)
    file = io.BytesIO()
    dateless = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    figure.savefig(file, format=format, metadata=dateless[format])
    return file.getvalue()


def _scatter(axes: Any, flat: Tensor, points: Points) -> None:
    """Draws samples (filled if predicted correctly), labels as stars, prototypes as diamonds."""
    count, names = len(points.labels), len(points.names)
    size = min(22.0, 26_000 / max(count, 1))
    for seen in (True, False):
        for right in (True, False):
            rows = [
                row
                for row, (label, correct) in enumerate(
                    zip(points.labels, points.correct, strict=True)
                )
                if (label in points.seen) == seen and correct == right
            ]
            axes.scatter(
                *flat[rows].T.tolist(),
                s=size,
                marker=_MARKERS[seen],
                facecolor=_COLOURS[seen] if right else "white",
                edgecolor="white" if right else _COLOURS[seen],
                linewidth=0.25 if right else 0.8,
                alpha=0.75 if right else 0.95,
                zorder=2 if right else 3,
            )
        own = [index for index, name in enumerate(points.names) if (name in points.seen) == seen]
        stars = flat[[count + index for index in own]].T.tolist()
        style = {"edgecolor": "black", "linewidth": 0.8, "zorder": 5}
        axes.scatter(*stars, s=230, marker="*", facecolor=_COLOURS[seen], **style)
        if points.prototypes:  # small and white, because they often overlap the star
            rows = [count + names + index for index in own]
            style = {"edgecolor": _COLOURS[seen], "linewidth": 1.3, "zorder": 6}
            axes.scatter(*flat[rows].T.tolist(), s=24, marker="D", facecolor="white", **style)


def _name_stars(axes: Any, canvas: Any, flat: Tensor, points: Points, halves: bool) -> None:
    """Draws the names of the stars, each where it overlaps stars and previous names least."""
    renderer = canvas.get_renderer()
    count = len(points.labels)
    stars = axes.transData.transform(flat[count:])
    taken = [(x - 11, y - 11, x + 11, y + 11) for x, y in stars]
    # samples have small boxes, so that names prefer positions without samples
    taken += [(x - 3, y - 3, x + 3, y + 3) for x, y in axes.transData.transform(flat[:count])]
    limits = axes.get_window_extent(renderer)
    if halves:  # names must not extend into the other hemisphere
        middle = (limits.x0 + limits.x1) / 2
        taken.append((middle - 12, limits.y0, middle + 12, limits.y1))
    for index, name in enumerate(points.names):
        x, y = stars[index]
        text = axes.annotate(
            name if len(name) <= 30 else name[:29] + "…",
            flat[count + index].tolist(),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9.5,
            weight="bold",
            color=_COLOURS[name in points.seen],
            zorder=8,
            family=_FONT,
            parse_math=False,
            # a halo would convert the names in an SVG to shapes
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1},
        )
        box = text.get_window_extent(renderer)
        half, tall = box.width / 2, box.height / 2
        best = min(
            (
                (_cover((x + dx, y + dy), half, tall, taken, limits), distance, dx, dy)
                for distance in (0, 10, 24, 40)
                for dx, dy in (
                    ((half + 14) * a + distance * a, (tall + 14) * b + distance * b)
                    for a, b in (
                        (0, 1),
                        (0, -1),
                        (1, 0),
                        (-1, 0),
                        (1, 1),
                        (-1, 1),
                        (1, -1),
                        (-1, -1),
                    )
                )
            ),
        )
        dx, dy = best[2:]
        # in points, because the pixels of an SVG differ from those measured here
        offset = (dx * 72 / _DPI, dy * 72 / _DPI)
        text.set_position(offset)
        taken.append((x + dx - half, y + dy - tall, x + dx + half, y + dy + tall))
        if best[1]:  # not next to its star
            axes.annotate(
                "",
                flat[count + index].tolist(),
                xytext=offset,
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": "#555555", "linewidth": 0.6},
                zorder=4,
            )


def _cover(
    middle: tuple[float, float],
    half: float,
    tall: float,
    taken: Sequence[tuple[float, float, float, float]],
    limits: Any,
) -> float:
    """Area in pixels in which a box overlaps others or exceeds the figure."""
    x, y = middle
    left, bottom, right, top = x - half, y - tall, x + half, y + tall
    shared = sum(
        max(0.0, min(right, r) - max(left, a)) * max(0.0, min(top, t) - max(bottom, b))
        for a, b, r, t in taken
    )
    inside = max(0.0, min(right, limits.x1) - max(left, limits.x0))
    inside *= max(0.0, min(top, limits.y1) - max(bottom, limits.y0))
    return shared + 4 * (4 * half * tall - inside)


def _legend(figure: Any, points: Points, height: float) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415

    def entry(marker: str, label: str, fill: str, edge: str, size: float) -> Any:
        return Line2D(
            [],
            [],
            linestyle="none",
            marker=marker,
            label=label,
            markerfacecolor=fill,
            markeredgecolor=edge,
            markersize=size,
        )

    handles = []
    for seen in (True, False):
        number = sum(label in points.seen for label in points.labels)
        number = number if seen else len(points.labels) - number
        handles.append(
            entry(
                _MARKERS[seen],
                f"{number:,} samples, label {_NAMES[seen]}",
                _COLOURS[seen],
                "white",
                7,
            )
        )
    handles.append(entry("o", "hollow: predicted wrongly", "white", "#333333", 6))
    handles.append(entry("*", "label's own vector", "#bbbbbb", "black", 13))
    if points.prototypes:
        handles.append(
            entry(
                "D",
                "its prototype: mean of training or synthetic samples",
                "white",
                "#333333",
                5,
            )
        )
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, height),
        ncols=len(handles) if figure.get_figwidth() > 12 else 3,
        frameon=False,
        fontsize=9,
        handletextpad=0.3,
        columnspacing=1.4,
        borderpad=0,
    )


def _hemispheres(points: Tensor) -> Tensor:
    """Projects points of the sphere (N, 3) to two adjacent disks of radius 1, (N, 2).

    Lambert's azimuthal projection: at the angle a from the pole, the radius is sqrt(2) sin(a/2).
    """
    # Of evenly spaced poles, the one with the fewest points near its equator is selected.
    turn = torch.arange(400, dtype=points.dtype)
    z = (turn + 0.5) / 400
    angle = turn * math.pi * (3 - math.sqrt(5))
    ring = torch.sqrt(1 - z.square())
    poles = torch.stack([ring * angle.cos(), ring * angle.sin(), z], 1)
    near = torch.exp(-0.5 * ((points @ poles.T) / 0.06).square()).sum(0)
    pole = poles[int(near.argmin())]
    first = torch.linalg.cross(pole, torch.eye(3, dtype=points.dtype)[int(pole.abs().argmin())])
    first /= first.norm()
    second = torch.linalg.cross(pole, first)
    height = points @ pole
    x, y = points @ first, points @ second
    radius = torch.sqrt((1 - height.abs()).clamp(min=0))  # sqrt(2) sin(a/2)
    scale = radius / torch.hypot(x, y).clamp(min=1e-12)
    front = height >= 0
    middle = 1 + _GAP / 2
    # the second hemisphere is mirrored, as seen from outside, so that both meet in the middle
    across = torch.where(front, x * scale - middle, middle - x * scale)
    return torch.stack([across, y * scale], 1)


def _sphere_lines(axes: Any) -> None:
    from matplotlib.patches import Circle  # noqa: PLC0415

    middle = 1 + _GAP / 2
    for side in (-middle, middle):
        axes.add_patch(Circle((side, 0), 1, facecolor="#fafafa", edgecolor="#8a8a8a", linewidth=1))
        for degrees in (30, 60):
            radius = math.sqrt(2) * math.sin(math.radians(degrees) / 2)
            axes.add_patch(Circle((side, 0), radius, fill=False, edgecolor=_LINE, linewidth=0.6))
        for degrees in range(0, 180, 30):
            x, y = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            axes.plot([side - x, side + x], [-y, y], color=_LINE, linewidth=0.6, zorder=1)
    axes.set(xlim=(-2.05, 2.05), ylim=(-1.01, 1.01))


def _centered(points: Tensor) -> Tensor:
    """Moves points of the disk (N, 2) by isometries until their mean is the centre."""
    z = torch.view_as_complex(points.contiguous())
    for _ in range(50):
        mean = z.mean()
        z = (z - mean) / (1 - mean.conj() * z)
        if abs(mean) < 1e-9:
            break
    return torch.view_as_real(z)


def _disk_lines(axes: Any) -> None:
    """Draws the boundary, and circles at the distances 1, 2, ... from the centre."""
    from matplotlib.patches import Circle  # noqa: PLC0415

    axes.add_patch(Circle((0, 0), 1, facecolor="#fafafa", edgecolor="#8a8a8a", linewidth=1))
    for distance in range(1, 6):
        line = Circle((0, 0), math.tanh(distance / 2), fill=False, edgecolor=_LINE, linewidth=0.6)
        axes.add_patch(line)
    axes.set(xlim=(-1.03, 1.03), ylim=(-1.01, 1.01))


__all__ = ["Points", "draw_layout"]
