"""Draw docs/sca.svg, sequential cross attention as this project computes it: python docs/draw_sca.py [FILE.svg | .png].

Shapes are channels x height x width of HRNet-W18-small-v2 at 480x640 for two tasks. Maps flow from left to right and,
between the scales, from the coarsest row at the top to the finest at the bottom.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

INK, GREY = "#1f2933", "#66727f"
FIRST, SECOND = "#2f6fb5", "#cf7517"  # the two tasks
ATTEND = "#2b8a6e"  # what attends
FILL = {INK: "#ffffff", GREY: "#eef1f4", FIRST: "#dfeaf7", SECOND: "#fcead6", ATTEND: "#d8efe7"}

STRIDES = (32, 16, 8, 4)
CHANNELS = (144, 72, 36, 18)
ROWS = (8.1, 5.8, 3.5, 1.2)  # y of the scales, the coarsest first
DELTA = 0.42  # how far a task's map lies from the middle of its row
TASKS = ((FIRST, DELTA), (SECOND, -DELTA))


def shape(channels: int, stride: int) -> str:
    return f"{channels}×{480 // stride}×{640 // stride}"


def box(ax: Axes, x: float, y: float, width: float, height: float, text: str, colour: str = INK, **font):
    """A rounded box around (x, y)."""
    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0,rounding_size=0.09"
    ax.add_patch(FancyBboxPatch(corner, width, height, style, fc=FILL[colour], ec=colour, lw=1.3, zorder=3))
    ax.text(x, y, text, ha="center", va="center", color=INK, zorder=4, **({"size": 10} | font))


def module(ax: Axes, x: float, y: float, width: float, height: float, name: str) -> None:
    box(ax, x, y, width, height, name, ATTEND, weight="bold", size=10.5)


def arrow(ax: Axes, start: tuple, end: tuple, colour: str = INK, path: str = "arc3,rad=0", **style):
    options = {"arrowstyle": "-|>", "mutation_scale": 11, "shrinkA": 0, "shrinkB": 0, "zorder": 2, "lw": 1.4} | style
    ax.add_patch(FancyArrowPatch(start, end, color=colour, connectionstyle=path, **options))


def note(ax: Axes, x: float, y: float, text: str, **font):
    ax.text(x, y, text, **({"ha": "center", "va": "bottom", "color": GREY, "size": 8.5} | font))


def draw_encoder(ax: Axes) -> None:
    """Image, backbone pyramid, and the self-attention that doubles each scale's width."""
    box(ax, 0.62, 4.65, 1.14, 1.3, "image\n\n3×480×640", GREY, size=9)
    box(ax, 2.05, 4.65, 1.1, 8.5, "backbone\n\n(HRNet,\nResNet,\nSwin ...)", GREY)
    arrow(ax, (1.19, 4.65), (1.5, 4.65))
    for y, stride, channels in zip(ROWS, STRIDES, CHANNELS, strict=True):
        arrow(ax, (2.6, y), (4.95, y))
        note(ax, 3.13, y + 0.06, shape(channels, stride))
        note(ax, 3.13, y - 0.1, f"1/{stride}", va="top", weight="bold", color=INK, size=10)
        ax.plot(3.72, y, "o", color=INK, ms=3.5)
        arrow(ax, (3.72, y), (3.95, y + 0.66), path="angle,angleA=90,angleB=180,rad=5")
        module(ax, 4.37, y + 0.66, 0.84, 0.52, "ATT")
        arrow(ax, (4.79, y + 0.66), (5.1, y + 0.15), path="angle,angleA=0,angleB=90,rad=5")
        box(ax, 5.1, y, 0.3, 0.3, "c", style="italic")
        note(ax, 5.0, y - 0.22, shape(2 * channels, stride), va="top")
        for colour, side in TASKS:
            arrow(ax, (5.25, y), (6.0, y + side), colour)


def draw_across_tasks(ax: Axes) -> None:
    """Task features and CTAM of every scale, FPMA between the scales."""
    for row, (y, stride, channels) in enumerate(zip(ROWS, STRIDES, CHANNELS, strict=True)):
        for colour, side in TASKS:
            box(ax, 6.68, y + side, 1.36, 0.66, "task features", colour, size=9)
            arrow(ax, (7.36, y + side), (8.35, y + side), colour)
            ax.add_patch(Rectangle((7.66, y + side - 0.08), 0.16, 0.16, fc=colour, ec="none", zorder=4))
            arrow(ax, (9.6, y + side), (11.42 if colour == FIRST else 12.92, y + side), colour)
            note(ax, 10.86, y + side * 1.15 + (0 if side > 0 else -0.02), shape(2 * channels, stride),
                 va="bottom" if side > 0 else "top")  # fmt: skip
            x = 8.97 + side  # what each task gathers from the other
            arrow(ax, (x, y - side * 1.4), (x, y + side * 1.4), colour, zorder=5, mutation_scale=8, lw=1.1)
        module(ax, 8.97, y, 1.26, 1.64, "CTAM")
        if row < 3:
            draw_propagation(ax, y, ROWS[row + 1], shape(2 * channels, stride))


def draw_propagation(ax: Axes, y: float, below: float, text: str) -> None:
    """FPMA: from CTAM's maps of one scale to the task features of the next finer one."""
    middle = (y + below) / 2
    module(ax, 8.3, middle, 0.96, 0.5, "FPMA")
    for colour, side in TASKS:
        x, shift = 10.13 + side * 0.3, side * 0.2
        ax.plot(x, y + side, "o", color=colour, ms=3.5)
        arrow(ax, (x, y + side), (8.78, middle + shift), colour, "angle,angleA=-90,angleB=180,rad=6")
        x = 6.68 - side * 0.4
        arrow(ax, (7.82, middle + shift), (x, below + 0.86), colour, "angle,angleA=180,angleB=90,rad=6")
    frame = (5.9, below - 0.86)
    style = "round,pad=0,rounding_size=0.09"
    ax.add_patch(FancyBboxPatch(frame, 1.56, 1.72, style, fc="none", ec=GREY, lw=0.9, ls=(0, (3, 2)), zorder=1))
    note(ax, 6.35, middle - 0.06, f"{text}, ×2", ha="right")


def draw_across_scales(ax: Axes) -> None:
    """CSAM of each task, its head and its prediction."""
    targets = ((FIRST, 12.05, 6.95, "semseg", 40), (SECOND, 13.55, 2.35, "normals", 3))
    for (colour, x, middle, name, channels), (_, side) in zip(targets, TASKS, strict=True):
        box(ax, x, 4.65, 1.26, 8.5, "", colour)
        ax.text(x, 9.08, "CSAM", ha="center", va="bottom", size=10.5, weight="bold", color=ATTEND)
        for row, y in enumerate(ROWS):
            ax.text(x - 0.36, y + side, f"$F^{4 - row}$", ha="center", va="center", size=10, color=INK, zorder=5)
            for finer in range(row + 1, 4):
                start, end = y + side - 0.14, ROWS[finer] + side + 0.16
                bend = 2 * (0.1 + 0.19 * (finer - row)) / (start - end)
                path = f"arc3,rad={-bend}"
                arrow(ax, (x - 0.2, start), (x - 0.2, end), ATTEND, path, zorder=4, lw=1.1, mutation_scale=9)
        arrow(ax, (x + 0.63, middle), (14.62, middle), colour)
        box(ax, 15.14, middle, 1.04, 1.0, "head", colour)
        note(ax, 15.14, middle - 0.6, "1080×120×160", va="top")
        arrow(ax, (15.66, middle), (16.02, middle), colour)
        box(ax, 16.69, middle, 1.34, 1.0, f"{name}\n\n{channels}×480×640", colour, size=9)


def draw_legend(ax: Axes) -> None:
    lines = (
        ("ATT", "self-attention in windows of 7×7, plain and shifted; c: concatenated to its input"),
        ("CTAM", "cross-task attention module: each task queries the other tasks at one scale"),
        ("FPMA", "feature propagation with attention: all tasks' maps, to the next finer scale"),
        ("CSAM", "cross-scale attention module: each scale of a task queries its coarser ones"),
        ("■", "1×1 convolution to a prediction that only the loss sees (deep supervision)"),
        ("head", "maps of all scales at the finest, concatenated; two 1×1 convolutions; upsampled"),
    )
    for index, (name, text) in enumerate(lines):
        x, y = (0.1, 8.9)[index % 2], -0.55 - 0.42 * (index // 2)
        ax.text(x, y, name, size=9.5, weight="bold", color=INK if name == "head" else FIRST if name == "■" else ATTEND)
        ax.text(x + 0.85, y, text, size=9.5, color=INK)


def main(path: Path) -> None:
    plt.rcParams |= {"font.family": "DejaVu Sans", "svg.hashsalt": "sca", "svg.fonttype": "path"}
    figure, ax = plt.subplots(figsize=(13.6, 8.85))
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.995)
    ax.set(xlim=(-0.05, 17.5), ylim=(-1.65, 9.8), aspect="equal")
    ax.axis("off")
    titles = {4.3: "long range", 7.85: "across tasks, coarse to fine", 12.8: "across scales", 15.8: "aggregation"}
    for x, title in titles.items():
        ax.text(x, 9.5, title, ha="center", size=10.5, color=GREY, style="italic")
    draw_encoder(ax)
    draw_across_tasks(ax)
    draw_across_scales(ax)
    draw_legend(ax)
    figure.savefig(
        path, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else {}, facecolor="white", dpi=110
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("sca.svg"))
