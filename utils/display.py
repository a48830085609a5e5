"""What a notebook shows: coloured masks, before/after tables, curves, intervals."""

import html
import inspect
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from transformers import PreTrainedTokenizerBase

from utils.evaluate import EvalResult

# Okabe and Ito's colours, told apart by colour-blind readers, in the order curves take them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

# Half-transparent backgrounds and the theme's own text colour stay legible on light and dark
# pages. `pre` keeps spaces and newlines, and tells MathJax to leave dollar signs alone; static
# pages break it inside words unless told otherwise.
_PRE = (
    'style="white-space:pre-wrap;word-break:normal;overflow-wrap:break-word;'
    'margin:0;color:inherit;background:none"'
)
_LEARNED = "background:rgba(0,158,115,.35);border-bottom:2px solid rgb(0,158,115)"
_IGNORED = "background:rgba(128,128,128,.15);font-weight:normal"


class Rendered:
    """Something to show: HTML in a notebook, the same as text in a terminal. Both are fixed."""

    def __init__(self, html: str, text: str) -> None:
        self.html, self.text = html, text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


class Markdown(str):
    """Text that a notebook renders as Markdown and a terminal prints as it is."""

    _repr_markdown_ = __repr__ = str.__str__


def show_mask(
    tokenizer: PreTrainedTokenizerBase, input_ids: Sequence[int], mask: Sequence[float]
) -> Rendered:
    """Each token in a box, green, underlined and bold where the mask is not 0.

    input_ids, mask: (L,) lists or tensors of one sequence. A newline shows as ⏎. As text, runs of
    tokens that count stand between ⟦ and ⟧. A token that is part of a character shows as �.
    """
    ids, kept = np.asarray(input_ids), np.asarray(mask) != 0
    if ids.ndim != 1 or ids.shape != kept.shape:
        raise ValueError(
            f"show_mask takes one sequence, ids and mask of shape (L,); got {ids.shape} and "
            f"{kept.shape}. Pick a row of a batch: input_ids[0], mask[0]."
        )
    boxes, text, inside = "", "", False
    for token_id, learned in zip(ids.tolist(), kept.tolist(), strict=True):
        token = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        tag, style = ("b", _LEARNED) if learned else ("span", _IGNORED)
        shown = token.replace("\n", "⏎")
        newline = "\n" if "\n" in token else ""  # after the box, which would stretch otherwise
        style += ";margin-right:1px;border-radius:2px"
        boxes += f'<{tag} style="{style}">{html.escape(shown)}</{tag}>{newline}'
        if learned != inside:
            text += "⟦" if learned else "⟧"
            inside = learned
        text += shown + newline
    text += "⟧" if inside else ""
    caption = f"{int(kept.sum())} of {len(ids)} tokens count in the loss"
    return Rendered(f"<pre {_PRE}>{boxes}</pre><p>{caption}</p>", f"{text}\n{caption}")


def before_after_table(
    rows: Sequence[Sequence[object]], columns: Sequence[str], max_chars: int = 400
) -> Rendered:
    """A table of texts side by side; as text, a Markdown table. Cells are escaped, never rendered.

    Floats show three decimals, columns of numbers stand to the right, `max_chars` cuts a cell.
    """

    def cell(value: object) -> str:
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        return text if len(text) <= max_chars else text[: max_chars - 1] + "…"

    def html_row(tag: str, texts: Sequence[str]) -> str:
        styles = [f'style="text-align:{side};vertical-align:top"' for side in sides]
        pairs = zip(styles, texts, strict=True)
        return "<tr>" + "".join(f"<{tag} {style}>{text}</{tag}>" for style, text in pairs) + "</tr>"

    if wrong := [(i, len(row)) for i, row in enumerate(rows) if len(row) != len(columns)]:
        raise ValueError("row {} has {} cells".format(*wrong[0]) + f" for {len(columns)} columns")
    numbers = [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(columns))]
    sides = ["right" if each else "left" for each in numbers]
    table = [[cell(value) for value in row] for row in rows]
    head = html_row("th", [html.escape(name) for name in columns])
    body = "".join(
        html_row("td", [f"<pre {_PRE}>{html.escape(text)}</pre>" for text in row]) for row in table
    )
    markdown = "\n".join(
        "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ⏎ ") for text in line) + " |"
        for line in (columns, ["---"] * len(columns), *table)
    )
    return Rendered(f"<table><thead>{head}</thead><tbody>{body}</tbody></table>", markdown)


def result(sentence: str) -> Markdown:
    """A sentence about this run, computed by the cell that shows it: prose holds no measurement."""
    return Markdown(sentence)


def answer_key(solution: object) -> Rendered:
    """The source of a function or class, folded away until the reader opens it."""
    source = inspect.getsource(solution)
    page = f"<details><summary>Show the answer</summary><pre>{html.escape(source)}</pre></details>"
    return Rendered(page, source)


def use_style() -> None:
    """One look for all plots: fixed size, resolution, font sizes and colours, white background."""
    plt.rc("figure", figsize=(6.4, 3.6), dpi=110, facecolor="white")
    plt.rc("figure.constrained_layout", use=True)
    plt.rc("axes", prop_cycle=plt.cycler(color=COLOURS), grid=True, axisbelow=True, titlesize=11)
    plt.rc("axes.spines", top=False, right=False)
    plt.rcParams |= {"grid.alpha": 0.3, "legend.frameon": False, "lines.linewidth": 1.8}


def plot_curves(
    curves: Mapping[str, Sequence[float] | tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    title: str = "",
    ax: Axes | None = None,
    smooth: int = 1,
) -> Axes:
    """One line a name, labelled axes, a legend when there are several lines.

    curves: name -> y values (x counts from 1), or name -> the tuple (x, y). smooth: draw the mean
    of the last `smooth` values, over the raw values in a faint line.
    """
    if not curves:
        raise ValueError("no curves to plot")
    ax = ax or plt.subplots()[1]
    for number, (name, values) in enumerate(curves.items()):
        if isinstance(values, tuple) and len(values) == 2 and np.ndim(values[0]) == 1:
            x, y = (np.asarray(part, dtype=float) for part in values)
        else:
            y = np.asarray(values, dtype=float)
            x = np.arange(1, len(y) + 1)
        if len(x) != len(y):
            raise ValueError(f"curve {name!r} has {len(x)} x values and {len(y)} y values")
        colour = COLOURS[number % len(COLOURS)]
        if smooth > 1:
            ax.plot(x, y, color=colour, alpha=0.25, linewidth=1)
            y = np.array([y[max(0, i + 1 - smooth) : i + 1].mean() for i in range(len(y))])
        ax.plot(x, y, color=colour, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(curves) > 1:
        ax.legend()
    return ax


def interval_bars(
    names: Sequence[str],
    results: Sequence[EvalResult | tuple[float, float, float]],
    ylabel: str = "held-out accuracy",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """One bar a result, an `EvalResult` or (value, low, high), with its interval; axis 0 to 1."""
    if len(names) != len(results) or not names:
        raise ValueError(f"{len(names)} names for {len(results)} results")
    points = [r if isinstance(r, tuple) else (r.accuracy, r.low, r.high) for r in results]
    value, low, high = np.array(points, dtype=float).T
    ax = ax or plt.subplots()[1]
    x = np.arange(len(names))
    ax.bar(x, value, color=[COLOURS[i % len(COLOURS)] for i in x], width=0.6)
    ax.errorbar(x, value, [value - low, high - value], fmt="none", ecolor="#444", capsize=4)
    for place, number in zip(zip(x, high, strict=True), value, strict=True):
        ax.annotate(f"{number:.3f}", place, (0, 3), textcoords="offset points", ha="center")
    ax.set(xticks=x, xticklabels=names, ylim=(0, 1.08), ylabel=ylabel, title=title)
    return ax
