import re

import matplotlib
import pytest
import torch
from bs4 import BeautifulSoup

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from utils.chat import encode_example
from utils.display import (
    COLOURS,
    answer_key,
    before_after_table,
    interval_bars,
    plot_curves,
    show_mask,
    use_style,
)
from utils.evaluate import EvalResult, wilson_interval

HOSTILE = "<script>alert('x')</script> & <b>bold</b> $a$"


@pytest.fixture(autouse=True)
def clean_plots():
    with plt.rc_context():
        yield
    plt.close("all")


def soup(rendered):
    return BeautifulSoup(rendered._repr_html_(), "html.parser")


# --- masks


def test_the_mask_decides_what_is_marked(tokenizer):
    example = encode_example(tokenizer, "How many?", "SELECT 12")
    shown = show_mask(tokenizer, example.input_ids, example.completion_mask)
    marked = soup(shown).find_all("b")
    assert "".join(tag.text for tag in marked) == "SELECT 12<|im_end|>"
    assert len(marked) == sum(example.completion_mask)
    plain = "".join(tag.text for tag in soup(shown).find_all("span"))
    assert plain == "<|im_start|>user⏎How many?<|im_end|>⏎<|im_start|>assistant⏎"
    assert repr(shown) == (
        "<|im_start|>user⏎\nHow many?<|im_end|>⏎\n<|im_start|>assistant⏎\n"
        "⟦SELECT 12<|im_end|>⟧\n"
        f"{sum(example.completion_mask)} of {len(example)} tokens count in the loss"
    )


def test_every_token_has_its_own_box_and_the_text_is_kept(tokenizer):
    ids = tokenizer.encode("a  b\n\nc 56")
    shown = show_mask(tokenizer, ids, [1, 0] * (len(ids) // 2) + [1] * (len(ids) % 2))
    pre = soup(shown).pre
    assert len(pre.find_all(["b", "span"])) == len(ids)
    assert pre.text.replace("\n", "").replace("⏎", "\n") == "a  b\n\nc 56"


def test_a_mask_on_nothing_and_on_everything(tokenizer):
    ids = tokenizer.encode("SELECT")
    assert repr(show_mask(tokenizer, ids, [0] * len(ids))).startswith("SELECT\n0 of")
    assert repr(show_mask(tokenizer, ids, [1] * len(ids))).startswith("⟦SELECT⟧\n")
    weighted = repr(show_mask(tokenizer, ids, [0.5] * len(ids)))
    assert weighted.endswith(f"\n{len(ids)} of {len(ids)} tokens count in the loss")


def test_html_in_tokens_is_escaped(tokenizer):
    ids = tokenizer.encode(HOSTILE)
    shown = show_mask(tokenizer, ids, [1] * len(ids))
    assert soup(shown).pre.text == HOSTILE
    # A parser forgives a lone "<"; a token that holds a whole tag it would obey.
    page = shown._repr_html_()
    assert page.count("&lt;") == HOSTILE.count("<") and page.count("&amp;") == HOSTILE.count("&")


def test_lists_and_tensors_look_the_same_each_time(tokenizer):
    ids = tokenizer.encode("SELECT 12")
    mask = [0.0] + [1.0] * (len(ids) - 1)
    first = show_mask(tokenizer, ids, mask)
    second = show_mask(tokenizer, torch.tensor(ids), torch.tensor(mask))
    assert first._repr_html_() == second._repr_html_() and repr(first) == repr(second)
    assert not re.search(r"0x[0-9a-f]{6}|id=", first._repr_html_())


def test_the_theme_keeps_its_text_colour(tokenizer):
    """No element sets a text colour or an opaque background: either theme stays legible."""
    ids = tokenizer.encode("SELECT 12")
    pages = [
        show_mask(tokenizer, ids, [0] + [1] * (len(ids) - 1))._repr_html_(),
        before_after_table([["a"]], ["b"])._repr_html_(),
    ]
    for page in pages:
        assert set(re.findall(r"(?<![-\w])color:([^;\"]+)", page)) == {"inherit"}
        backgrounds = re.findall(r"background:([^;\"]+)", page)
        assert all(v == "none" or v.startswith("rgba(") for v in backgrounds)


def test_a_whole_batch_is_refused(tokenizer):
    for ids, mask in (([[1, 2]], [[0, 1]]), ([1, 2], [1]), (1, 1)):
        with pytest.raises(ValueError, match="one sequence"):
            show_mask(tokenizer, ids, mask)


# --- tables


def test_model_output_is_shown_not_rendered():
    text = HOSTILE + "\nsecond | line  end"
    table = before_after_table([["Q", text]], ["<question>", "answer"])
    page = soup(table)
    assert [cell.text for cell in page.find_all("td")] == ["Q", text]
    assert [cell.text for cell in page.find_all("th")] == ["<question>", "answer"]
    assert page.script is None and page.find("question") is None
    assert all(cell.pre for cell in page.find_all("td")), "MathJax and spaces need <pre>"


def test_as_text_it_is_a_markdown_table():
    table = before_after_table([["a|b", 0.12345], ["x\ny", 3]], ["one", "two"])
    assert repr(table) == ("| one | two |\n| --- | --- |\n| a\\|b | 0.123 |\n| x ⏎ y | 3 |")
    assert [c.text for c in soup(table).find_all("td")] == ["a|b", "0.123", "x\ny", "3"]


def test_long_cells_are_cut_and_say_so():
    table = before_after_table([["x" * 50, "y" * 10]], ["a", "b"], max_chars=10)
    assert [c.text for c in soup(table).find_all("td")] == ["x" * 9 + "…", "y" * 10]


def test_a_ragged_table_is_refused():
    with pytest.raises(ValueError, match="row 1 has 1 cells for 2 columns"):
        before_after_table([["a", "b"], ["c"]], ["one", "two"])


# --- plots


def test_curves_have_labels_legend_and_fixed_colours():
    ax = plot_curves(
        {"ours": [3.0, 2.0], "TRL": ([10, 20, 30], [3.0, 2.5, 2.0])}, "step", "loss", "T"
    )
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("step", "loss", "T")
    assert [line.get_color() for line in ax.lines] == list(COLOURS[:2])
    assert ax.lines[0].get_xydata().tolist() == [[1, 3], [2, 2]]
    assert ax.lines[1].get_xdata().tolist() == [10, 20, 30]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ours", "TRL"]
    assert plot_curves({"one": [1.0]}, "x", "y").get_legend() is None


def test_a_tuple_of_two_numbers_is_a_curve():
    ax = plot_curves({"a": (0.5, 0.25)}, "x", "y")
    assert ax.lines[0].get_xydata().tolist() == [[1, 0.5], [2, 0.25]]


def test_smoothing_is_the_mean_of_the_last_values_over_the_raw_ones():
    ax = plot_curves({"a": [4.0, 2.0, 0.0, 6.0]}, "x", "y", smooth=2)
    raw, smooth = ax.lines
    assert raw.get_ydata().tolist() == [4, 2, 0, 6] and raw.get_alpha() < 0.5
    assert smooth.get_ydata().tolist() == [4, 3, 1, 3]
    assert raw.get_color() == smooth.get_color()


def test_curves_go_where_they_are_told():
    _, ax = plt.subplots()
    assert plot_curves({"a": [1.0]}, "x", "y", ax=ax) is ax


def test_wrong_curves_are_named():
    with pytest.raises(ValueError, match="'a' has 3 x values and 2"):
        plot_curves({"a": ([1, 2, 3], [1, 2])}, "x", "y")
    with pytest.raises(ValueError, match="no curves"):
        plot_curves({}, "x", "y")


def test_bars_show_value_and_interval():
    low, high = wilson_interval(300, 500)
    result = EvalResult(0.6, low, high, 500, 4, 1.0, torch.ones(1), [])
    ax = interval_bars(["SFT", "base"], [result, (0.1, 0.05, 0.25)], title="T")
    assert [bar.get_height() for bar in ax.patches] == [0.6, 0.1]
    ends = [segment[:, 1].tolist() for segment in ax.collections[0].get_segments()]
    assert ends == [pytest.approx([low, high]), pytest.approx([0.05, 0.25])]
    assert [text.get_text() for text in ax.texts] == ["0.600", "0.100"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["SFT", "base"]
    assert ax.get_ylim()[0] == 0 and ax.get_ylim()[1] >= 1
    with pytest.raises(ValueError, match="1 names for 2 results"):
        interval_bars(["SFT"], [result, result])


def test_the_style_sets_resolution_and_colours(tmp_path):
    use_style()
    figure, ax = plt.subplots()
    assert [ax.plot([0, 1])[0].get_color() for _ in range(2)] == list(COLOURS[:2])
    figure.savefig(tmp_path / "plot.png")
    height, width, _ = plt.imread(tmp_path / "plot.png").shape
    assert (width, height) == (704, 396)


def test_the_answer_key_is_folded_and_escaped():
    shown = answer_key(test_the_answer_key_is_folded_and_escaped)
    assert shown._repr_html_().startswith("<details><summary>")
    assert "&lt;details&gt;" in shown._repr_html_()
    assert "def test_the_answer_key" in repr(shown)
