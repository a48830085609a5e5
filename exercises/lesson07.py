"""The self-test of lesson 07: fifteen questions, three letters each, and a word on every letter."""

import html
import os
import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """The right letter, the section that explains it, and what to say to each letter."""

    right: str
    section: str
    a: str
    b: str
    c: str


QUESTIONS = {
    1: Question(
        "b",
        "0.2",
        "Weights and activations belong to the policy; the policy is asked *in* a state.",
        "Prompt and completion so far decide what comes next, and nothing else does.",
        "The prompt is only the first state: every token written makes a new one.",
    ),
    2: Question(
        "c",
        "4.3",
        "If anything it slows the policy down: every nat away from the reference costs reward.",
        "It pulls towards the reference, whatever the reference's variety is. An entropy bonus "
        "pays for variety.",
        "It is the price of leaving the region where the reward was tested.",
    ),
    3: Question(
        "a",
        "3.3",
        "Both the reward model and the policy of PPO start from the SFT model.",
        "A reward model should judge the SFT model's own answers, so SFT comes first.",
        "PPO needs the reward model's scores from its first step on.",
    ),
    4: Question(
        "b",
        "2.4",
        "No distribution of rewards is assumed, only how a difference turns into a probability.",
        "Only differences count, so a constant for each prompt stays open.",
        "There are no marks, only comparisons. A reward has no zero.",
    ),
    5: Question(
        "c",
        "3.5",
        "Widespread and half true: a bad token that became likelier keeps its whole gradient.",
        "A clip of 10 is in practice none (section 5.11), and the gradient has its own clip.",
        "The minimum takes away the gain of going further, never the penalty.",
    ),
    6: Question(
        "a",
        "3.5",
        "And the last token pays for its own distance as well.",
        "The sum is right, the places are not: credit would reach early tokens only through "
        "the value model.",
        "That is GRPO's place for the KL. Its gradient is another one (section 0.9).",
    ),
    7: Question(
        "a",
        "4.3",
        "The reference only lends two numbers a pair, so it need not stay in memory.",
        "Without the reference the implicit reward is gone. (SimPO and ORPO do without: "
        "other losses.)",
        "Not always, and accuracy is not what the derivation promises.",
    ),
    8: Question(
        "b",
        "4.8",
        "The loss does not know who wrote the answers: its own ones work too, and better here.",
        "On- or off-policy is a property of the pairs.",
        "The reference stands still; on-policy asks who wrote the answers.",
    ),
    9: Question(
        "c",
        "4.3",
        "Without the reference, what was likely before training counts as good.",
        "Half of it: exact within a prompt, off by a constant of the prompt between prompts.",
        "The second term is the same for all answers to a prompt and cancels in a comparison.",
    ),
    10: Question(
        "b",
        "5.3",
        "The usual answer. But who gives the reward is a choice, for PPO as for GRPO.",
        "The baseline and the place of the KL are what the algorithm changes.",
        "Both are kept: GRPO has PPO's ratio and PPO's clip.",
    ),
    11: Question(
        "a",
        "5.3",
        "There is one number a completion and nobody who values a half-written one.",
        "They are not: most tokens are certain, a few decide (section 0.2). GRPO cannot tell.",
        "The advantage is computed before any loss, from rewards alone.",
    ),
    12: Question(
        "c",
        "5.3",
        "0 / (0 + 1e-4) is 0. Without the small constant it would be NaN.",
        "The *group* teaches nothing. Other groups of the batch do, so keep the batch.",
        "No spread, no comparison.",
    ),
    13: Question(
        "a",
        "0.8",
        "As a value. As a loss it has the gradient of the forward KL (section 0.9).",
        "Neither half holds everywhere: far from the reference exp(-r) is noisier than r.",
        "That is k2: quiet, and biased once the policies differ.",
    ),
    14: Question(
        "b",
        "5.8",
        "Five: the format is checked in three ways, and the whole number on top.",
        "Half of the points can be had without solving anything.",
        "Correctness weighs as much as the other four together.",
    ),
    15: Question(
        "c",
        "0.11",
        "DPO's reference can be two stored numbers a pair; GRPO with beta = 0 needs none.",
        "Count again: PPO keeps four models, and DPO samples when its pairs are made.",
        "The method does not fix the number of models; its options do.",
    ),
}


def is_live() -> bool:
    """Whether a front end that can click is attached: JupyterLab, Jupyter Notebook or Colab."""
    return "JPY_SESSION_NAME" in os.environ or "COLAB_RELEASE_TAG" in os.environ


class Quiz:
    """Asks the questions and remembers the first answer to each.

    quiz.ask(1, "") shows buttons where they can be clicked, and elsewhere says what to type;
    quiz.ask(1, "b") answers in any front end; quiz.report() says what to read again.
    """

    def __init__(self) -> None:
        self.first: dict[int, str] = {}

    def ask(self, number: int, answer: str = "") -> None:
        """Print the reply to a letter; buttons, or "not answered yet", for an empty answer.

        Raises ValueError for a question that there is not, or an answer other than a, b, c.
        """
        if number not in QUESTIONS:
            raise ValueError(f"there is no question {number}: they go from 1 to {len(QUESTIONS)}")
        if answer:
            print(textwrap.fill(self.reply(number, answer), 88, break_on_hyphens=False))
        elif is_live():
            self._show_buttons(number)
        else:
            print(f'Question {number}: not answered yet. Type "a", "b" or "c" and run the cell.')

    def reply(self, number: int, answer: str) -> str:
        """What to say to an answer; the first one to each question is remembered."""
        letter, question = str(answer).strip().lower(), QUESTIONS[number]
        if letter not in ("a", "b", "c"):
            raise ValueError(f'question {number} has the answers "a", "b" and "c", not {answer!r}')
        self.first.setdefault(number, letter)
        if letter == question.right:
            return f"Correct. {getattr(question, letter)}"
        return f"Not yet. {getattr(question, letter)} Read section {question.section}."

    def _show_buttons(self, number: int) -> None:
        import ipywidgets  # here: a test or a plain Python session needs no widgets
        from IPython.display import display

        letters = ipywidgets.ToggleButtons(
            options=["a", "b", "c"], value=None, description=f"Question {number}"
        )
        message = ipywidgets.HTML()

        def answered(change: dict) -> None:
            message.value = html.escape(self.reply(number, change["new"]))

        letters.observe(answered, names="value")
        display(ipywidgets.VBox([letters, message]))

    def report(self) -> None:
        """Print how many first answers were right, and the sections to read again."""
        wrong = [n for n, letter in sorted(self.first.items()) if letter != QUESTIONS[n].right]
        right = len(self.first) - len(wrong)
        print(f"{len(self.first)} of {len(QUESTIONS)} answered, {right} right at the first try")
        for number in wrong:
            print(f"question {number:2}: read section {QUESTIONS[number].section} again")
