"""Write the drawing at the top of each lesson to `assets/pictures` (SVG).

    python -m tools.drawings

A drawing is data: boxes on a grid and arrows between them. It has a light ground of its own, so it
reads the same on a dark page. The text that stands in for it (`alt`) is in the notebook.
"""

import html
import sys
from dataclasses import dataclass, field
from pathlib import Path

from scripts.whole_file import write_whole

PICTURES = Path(__file__).resolve().parents[1] / "assets/pictures"
# What a box is -> its colours: fill and edge.
KINDS = {
    "trained": ("#c9ecdd", "#009E73"),
    "frozen": ("#e4e4e4", "#767676"),
    "data": ("#dcebf7", "#0072B2"),
    "number": ("#fdf0cc", "#b07800"),
    "plain": ("#ffffff", "#444444"),
}
LEGEND = {"trained": "is trained", "frozen": "is frozen", "data": "text", "number": "numbers"}
CELL_W, CELL_H, PAD = 186, 88, 16
OVER = 34  # room above the boxes for an arrow that runs back
FONT = "font-family='Helvetica, Arial, sans-serif'"


@dataclass(frozen=True)
class Box:
    """A box at a grid position (column, row); `text` may have several lines, the first is bold."""

    at: tuple[float, float]
    text: str
    kind: str = "plain"
    width: float = 0.68  # of a cell


@dataclass(frozen=True)
class Arrow:
    """From one box to another; with `back` dashed and over the boxes: what training sends back."""

    start: str
    end: str
    label: str = ""
    back: bool = False


@dataclass(frozen=True)
class Drawing:
    """Boxes by name, and the arrows between them."""

    boxes: dict[str, Box]
    arrows: list[Arrow] = field(default_factory=list)


DRAWINGS: dict[str, Drawing] = {
    "00_policy": Drawing(
        {
            "prompt": Box((0, 0), "prompt x\nthe first state", "data"),
            "policy": Box((1, 0), "policy\nlanguage model", "trained"),
            "completion": Box((2, 0), "completion y\ntoken by token", "data"),
            "reward": Box((3, 0), "reward R\none number, at the end", "number", 0.76),
            "advantage": Box((4, 0), "advantage\nR minus a baseline", "number"),
            "reference": Box((1, 1), "reference\nthe policy at the start", "frozen", 0.76),
            "kl": Box((2, 1), "KL\nhow far it has moved", "number", 0.76),
        },
        [
            Arrow("prompt", "policy"),
            Arrow("policy", "completion", "samples"),
            Arrow("completion", "reward"),
            Arrow("reward", "advantage"),
            Arrow("policy", "kl"),
            Arrow("reference", "kl"),
            Arrow(
                "advantage",
                "policy",
                "raises or lowers the log-probability of each token",
                back=True,
            ),
        ],
    ),
    "01_masked_loss": Drawing(
        {
            "prompt": Box((0, 0), "prompt x\nread, not learned", "data", 0.74),
            "answer": Box((0, 1), "answer y\nby an annotator", "data", 0.74),
            "tokens": Box((1, 0), "tokens\none sequence", "data"),
            "mask": Box((1, 1), "mask m\n1 on the answer", "number", 0.72),
            "policy": Box((2, 0), "policy\nlanguage model", "trained"),
            "logprobs": Box((3, 0), "log-probability\nof each next token", "number", 0.76),
            "loss": Box((4, 0), "loss\nminus the mean", "number"),
            "kept": Box((3, 1), "kept\nanswer tokens only", "number", 0.76),
        },
        [
            Arrow("prompt", "tokens"),
            Arrow("answer", "tokens"),
            Arrow("answer", "mask"),
            Arrow("tokens", "policy"),
            Arrow("policy", "logprobs"),
            Arrow("logprobs", "kept"),
            Arrow("mask", "kept", "shifted by one"),
            Arrow("kept", "loss"),
            Arrow(
                "loss",
                "policy",
                "raises the log-probability of the answer's tokens",
                back=True,
            ),
        ],
    ),
    "03_ppo": Drawing(
        {
            "policy": Box((0, 0), "policy\nstarts as the SFT model", "trained", 0.78),
            "prompt": Box((0, 1), "prompt x", "data"),
            "completion": Box((1, 0), "completion y\nwith its log-probs", "data", 0.72),
            "judge": Box((2, 0), "reward model\nscores the whole", "frozen", 0.7),
            "reference": Box((2, 1), "reference\nthe SFT model", "frozen", 0.7),
            "rewards": Box((3, 0), "reward per token\nprice of KL, score", "number", 0.74),
            "advantages": Box((4, 0), "advantage per token\nbetter than expected?", "number", 0.8),
            "value": Box((4, 1), "value model\nexpects the rest", "trained", 0.7),
        },
        [
            Arrow("prompt", "policy"),
            Arrow("policy", "completion"),
            Arrow("completion", "judge"),
            Arrow("completion", "reference"),
            Arrow("judge", "rewards"),
            Arrow("reference", "rewards"),
            Arrow("rewards", "advantages"),
            Arrow("value", "advantages"),
            Arrow(
                "advantages",
                "policy",
                "clipped loss: raises or lowers the log-probability of each token",
                back=True,
            ),
        ],
    ),
    "02_reward_model": Drawing(
        {
            "prompt": Box((0, 0), "prompt x", "data"),
            "answers": Box((1, 0), "two answers\nright y_w, wrong y_l", "data", 0.76),
            "label": Box((1, 1), "label\nwhich one is better", "number", 0.76),
            "backbone": Box((2, 0), "backbone\nfrom the SFT model", "trained", 0.76),
            "head": Box((3, 0), "scalar head\nat the last token", "trained", 0.76),
            "rewards": Box((4, 0), "rewards r_w, r_l\none number each", "number", 0.76),
            "loss": Box((4, 1), "loss\n-log sigmoid(r_w - r_l)", "number", 0.82),
        },
        [
            Arrow("prompt", "answers", ""),
            Arrow("answers", "backbone"),
            Arrow("backbone", "head"),
            Arrow("head", "rewards"),
            Arrow("answers", "label"),
            Arrow("label", "loss"),
            Arrow("rewards", "loss"),
            Arrow(
                "rewards",
                "backbone",
                "the gradient raises r_w and lowers r_l",
                back=True,
            ),
        ],
    ),
    "05_grpo": Drawing(
        {
            "prompt": Box((0, 0), "prompt x\nQ of them", "data"),
            "policy": Box((1, 0), "policy\nlanguage model", "trained"),
            "group": Box((2, 0), "group\nG completions per prompt", "data", 0.8),
            "rewards": Box((3, 0), "rewards\na program checks", "number", 0.72),
            "advantages": Box((4, 0), "advantages\nminus the group's mean", "number", 0.8),
            "reference": Box((1, 1), "reference\nonly if beta > 0", "frozen", 0.72),
            "kl": Box((2, 1), "KL\nhow far it has moved", "number", 0.76),
        },
        [
            Arrow("prompt", "policy"),
            Arrow("policy", "group", "samples"),
            Arrow("group", "rewards"),
            Arrow("rewards", "advantages"),
            Arrow("policy", "kl"),
            Arrow("reference", "kl"),
            Arrow(
                "advantages",
                "policy",
                "raises or lowers the log-probability of all tokens of a completion",
                back=True,
            ),
        ],
    ),
    "04_dpo": Drawing(
        {
            "chosen": Box((0, 0), "prompt + chosen\nthe better answer", "data", 0.76),
            "rejected": Box((0, 1), "prompt + rejected\nthe worse answer", "data", 0.76),
            "policy": Box((1.15, 0), "policy\nlanguage model", "trained"),
            "reference": Box((1.15, 1), "reference\nthe policy at the start", "frozen", 0.76),
            "sums": Box((2.3, 0.5), "four sums\nlog-prob of each answer", "number", 0.8),
            "margin": Box((3.4, 0.5), "margin\nbeta (chosen - rejected)", "number", 0.8),
            "loss": Box((4.4, 0.5), "loss\n-log sigmoid(margin)", "number", 0.76),
        },
        [
            Arrow("chosen", "policy"),
            Arrow("rejected", "policy"),
            Arrow("chosen", "reference"),
            Arrow("rejected", "reference"),
            Arrow("policy", "sums"),
            Arrow("reference", "sums"),
            Arrow("sums", "margin"),
            Arrow("margin", "loss"),
            Arrow(
                "loss",
                "policy",
                "chosen answers up, rejected answers down; nothing is sampled",
                back=True,
            ),
        ],
    ),
}


def _centre(box: Box) -> tuple[float, float]:
    return PAD + (box.at[0] + 0.5) * CELL_W, OVER + (box.at[1] + 0.5) * CELL_H


def _half(box: Box) -> tuple[float, float]:
    return box.width * CELL_W / 2, 0.31 * CELL_H


def _edge(box: Box, towards: tuple[float, float]) -> tuple[float, float]:
    """Where the line from the box's centre to a point leaves the box."""
    (x, y), (w, h) = _centre(box), _half(box)
    dx, dy = towards[0] - x, towards[1] - y
    scale = min(w / abs(dx) if dx else 1e9, h / abs(dy) if dy else 1e9)
    return x + dx * scale, y + dy * scale


def _text(x: float, y: float, text: str, size: int = 13, style: str = "") -> str:
    return (
        f"<text x='{x:.0f}' y='{y:.0f}' text-anchor='middle' {FONT} font-size='{size}' "
        f"fill='#111' {style}>{html.escape(text)}</text>"
    )


def _box(box: Box) -> list[str]:
    (x, y), (w, h), (fill, edge) = _centre(box), _half(box), KINDS[box.kind]
    lines = box.text.split("\n")
    top = y + 5 - 8 * (len(lines) - 1)
    return [
        f"<rect x='{x - w:.0f}' y='{y - h:.0f}' width='{2 * w:.0f}' height='{2 * h:.0f}' rx='7' "
        f"fill='{fill}' stroke='{edge}' stroke-width='1.5'/>",
        *(
            _text(x, top + 16 * i, line, *((13, "font-weight='bold'") if i == 0 else (11, "")))
            for i, line in enumerate(lines)
        ),
    ]


def _arrow(arrow: Arrow, boxes: dict[str, Box]) -> list[str]:
    start, end = boxes[arrow.start], boxes[arrow.end]
    if arrow.back:
        (x1, y1), (x2, y2) = _centre(start), _centre(end)
        y1, y2, top = y1 - _half(start)[1], y2 - _half(end)[1], OVER - 8
        path = f"M{x1:.0f} {y1:.0f}V{top}H{x2:.0f}V{y2:.0f}"
        label = ((x1 + x2) / 2, top - 7)
    else:
        (x1, y1), (x2, y2) = _edge(start, _centre(end)), _edge(end, _centre(start))
        path = f"M{x1:.0f} {y1:.0f}L{x2:.0f} {y2:.0f}"
        label = ((x1 + x2) / 2, (y1 + y2) / 2 - 7)
    dash = " stroke-dasharray='6 4'" if arrow.back else ""
    line = f"<path d='{path}' fill='none' stroke='#333' stroke-width='1.5'{dash} "
    parts = [line + "marker-end='url(#tip)'/>"]
    if arrow.label:
        parts.append(_text(*label, arrow.label, 11, "font-style='italic'"))
    return parts


def svg(drawing: Drawing) -> str:
    """The drawing as a document, with a legend of the kinds that occur."""
    columns = max(box.at[0] for box in drawing.boxes.values()) + 1
    rows = max(box.at[1] for box in drawing.boxes.values()) + 1
    width, height = 2 * PAD + columns * CELL_W, OVER + PAD + rows * CELL_H + 22
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:.0f}' height='{height:.0f}' "
        f"viewBox='0 0 {width:.0f} {height:.0f}' role='img'>",
        "<defs><marker id='tip' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='7' "
        "markerHeight='7' orient='auto-start-reverse'><path d='M0 0L10 5L0 10z' fill='#333'/>"
        "</marker></defs>",
        f"<rect width='{width:.0f}' height='{height:.0f}' rx='10' fill='#fbfbfb'/>",
    ]
    for arrow in drawing.arrows:
        parts += _arrow(arrow, drawing.boxes)
    for box in drawing.boxes.values():
        parts += _box(box)
    x = PAD + 8
    for kind in [k for k in LEGEND if k in {box.kind for box in drawing.boxes.values()}]:
        fill, edge = KINDS[kind]
        parts.append(
            f"<rect x='{x}' y='{height - 30:.0f}' width='14' height='14' rx='3' fill='{fill}' "
            f"stroke='{edge}'/><text x='{x + 20}' y='{height - 18:.0f}' {FONT} font-size='11' "
            f"fill='#111'>{LEGEND[kind]}</text>"
        )
        x += 40 + 7 * len(LEGEND[kind])
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> int:
    """Write every drawing."""
    for name, drawing in DRAWINGS.items():
        write_whole(PICTURES / f"{name}.svg", svg(drawing))
        print(f"assets/pictures/{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
