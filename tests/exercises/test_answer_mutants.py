"""Mutants of right answers, made by the rules below: the checkers must reject them.

Sources are answers as learners write them and the answer keys, the functions of `utils`. A mutant
differs at one point. One that a checker accepts counts as missed unless it does the same as the
right answer, values and gradients, on random inputs.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from submissions import SCOPE, lookup

from exercises import check
from exercises.calls import Case, ragged_mask
from exercises.judge import verdict
from utils import losses

LEAST_RATE = 0.97
DRAWS = 25  # random inputs on which a mutant that was accepted is compared with the right answer
NAMES = [name for name in check.__all__ if name != "Quiz"]


# Random inputs, drawn apart from those of the checkers: shapes, lengths and constants vary


def draw(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def draw_mask(generator, rows=None):
    rows = rows or draw(generator, 1, 4)
    return ragged_mask([draw(generator, 1, 6) for _ in range(rows)])


def normal(generator, *shape, scale=1.0):
    return scale * torch.randn(shape, generator=generator)


def share(generator):
    return float(torch.rand((), generator=generator))


def log_probs(generator, shape):
    return -normal(generator, *shape).abs()


def k3_inputs(generator):
    shape = (draw(generator, 1, 5), draw(generator, 1, 5))
    return log_probs(generator, shape), log_probs(generator, shape)


def reinforce_inputs(generator):
    tokens, n = draw(generator, 2, 6), draw(generator, 1, 6)
    actions = torch.randint(tokens, (n,), generator=generator)
    baseline = float(normal(generator))
    return normal(generator, tokens), actions, normal(generator, n, scale=2), baseline


def sft_inputs(generator):
    ends = [draw(generator, 2, 7) for _ in range(draw(generator, 1, 4))]
    scale = 60.0 if share(generator) < 0.2 else 1.0
    logits = normal(generator, len(ends), max(ends), draw(generator, 2, 9), scale=scale)
    labels = torch.randint(logits.shape[2], logits.shape[:2], generator=generator)
    for row, end in enumerate(ends):
        labels[row, end:] = -100
        labels[row, : draw(generator, 0, end - 1)] = -100
    return logits, labels


def label_inputs(generator):
    ends = [draw(generator, 2, 8) for _ in range(draw(generator, 1, 4))]
    starts = [draw(generator, 0, end - 1) for end in ends]
    ids = torch.randint(1, 40, (len(ends), max(ends)), generator=generator)
    ids[torch.arange(max(ends)) >= torch.tensor(ends)[:, None] - 1] = 0
    return ids, torch.tensor(starts), torch.tensor(ends)


def step_inputs(generator):
    _, labels = sft_inputs(generator)
    labels[:, -1] = 1  # in any case one token that counts and is predicted
    ids, tokens = labels.clamp(min=0), draw(generator, 9, 11)
    table = normal(generator, tokens, tokens)
    rate, steps = 0.5 + share(generator), draw(generator, 2, 4)
    return table, ids, (labels != -100).float(), rate, steps


def lora_inputs(generator):
    n_in, n_out, rank = (draw(generator, 1, 6) for _ in range(3))
    shapes = (draw(generator, 1, 3), n_in), (n_out, n_in), (rank, n_in), (n_out, rank)
    return *(normal(generator, *shape) for shape in shapes), 16 * share(generator)


def bradley_terry_inputs(generator):
    rows, scale = draw(generator, 1, 4), 60.0 if share(generator) < 0.2 else 2.0
    masks = [draw_mask(generator, rows) for _ in range(2)]
    scores = [normal(generator, *mask.shape, scale=scale) for mask in masks]
    return scores[0], masks[0].long(), scores[1], masks[1].long()


def head_inputs(generator):
    mask = draw_mask(generator).long()
    width = draw(generator, 1, 5)
    return normal(generator, *mask.shape, width), mask, normal(generator, 1, width)


def best_inputs(generator):
    n = draw(generator, 1, 4)
    shape = (draw(generator, 1, 5), n * draw(generator, 1, 3))
    verdicts = (torch.rand(shape, generator=generator) < 0.5).float()
    return normal(generator, *shape), verdicts, n


def calibration_inputs(generator):
    stated = torch.rand(draw(generator, 1, 30), generator=generator)
    right = (torch.rand(stated.shape, generator=generator) < 0.5).float()
    return stated, right, draw(generator, 1, 8)


def gae_inputs(generator):
    mask = draw_mask(generator)
    numbers = [normal(generator, *mask.shape) for _ in range(2)]
    return *numbers, mask, share(generator), share(generator)


def policy_inputs(generator):
    mask = draw_mask(generator)
    old = log_probs(generator, mask.shape)
    new = old + normal(generator, *mask.shape, scale=0.5)
    return new, old, normal(generator, *mask.shape), mask, share(generator) / 2


def dpo_inputs(generator):
    rows, scale = draw(generator, 1, 4), 40.0 if share(generator) < 0.2 else 1.0
    masks = [draw_mask(generator, rows) for _ in range(2)]
    chosen, rejected = (scale * log_probs(generator, mask.shape) for mask in masks)
    refs = [scale * log_probs(generator, (rows,)) for _ in range(2)]
    return chosen, masks[0], rejected, masks[1], *refs, 0.05 + share(generator)


def logprob_sum_inputs(generator):
    rows, vocabulary = draw(generator, 1, 4), draw(generator, 2, 6)
    ends = [draw(generator, 2, 7) for _ in range(rows)]
    scale = 60.0 if share(generator) < 0.2 else 1.0
    logits = normal(generator, rows, max(ends), vocabulary, scale=scale)
    ids, mask = torch.randint(vocabulary, logits.shape[:2], generator=generator), ragged_mask(ends)
    for row, end in enumerate(ends):
        mask[row, : draw(generator, 1, end - 1)] = 0
    return logits, ids, mask


def implicit_inputs(generator):
    mask = draw_mask(generator)
    both = [3 * log_probs(generator, mask.shape) for _ in range(2)]
    return *both, mask, 0.05 + share(generator)


def dpop_inputs(generator):
    rows, scale = draw(generator, 1, 5), 60.0 if share(generator) < 0.2 else 2.0
    ratios = [normal(generator, rows, scale=scale) for _ in range(2)]
    return *ratios, 0.05 + share(generator), 5 * share(generator)


def advantage_inputs(generator):
    group_size = draw(generator, 2, 5)
    rewards = normal(generator, draw(generator, 1, 4), group_size, scale=10)
    rewards[0] = rewards[0, 0].round()  # whose mean has no rounding error
    return rewards.flatten(), group_size


def grpo_inputs(generator):
    new, old, _, mask, clip_eps = policy_inputs(generator)
    ref = old + normal(generator, *mask.shape, scale=0.5)
    return new, old, normal(generator, len(mask)), mask, ref, share(generator), clip_eps


def weight_inputs(generator):
    mask = draw_mask(generator)
    ours, theirs = (3 * log_probs(generator, mask.shape) for _ in range(2))
    return ours, theirs, mask, 1 + 3 * share(generator)


def reward_inputs(generator):
    mask = draw_mask(generator)
    logprobs, ref_logprobs = (log_probs(generator, mask.shape) for _ in range(2))
    return normal(generator, len(mask)), logprobs, ref_logprobs, mask, share(generator)


def controller_inputs(generator):
    coef, target = share(generator), 0.5 + 5 * share(generator)
    kl = target * (0.5 + share(generator))
    sizes = draw(generator, 1, 500), draw(generator, 100, 900)
    return torch.tensor(coef), torch.tensor(kl), target, *sizes


def think_inputs(generator):
    """Pieces of a right completion and of cheats, put together at random."""
    pieces = ["<think>", "</think>", "3+4=7", "7", " ", "8", "so ", "\n"]
    good = ["", " "], ["<think>"], ["3+4=7", "7 "], ["</think>"], ["", "\n"], ["7"], ["", " "]
    completions = []
    for _ in range(12):
        parts = [choices[draw(generator, 0, len(choices) - 1)] for choices in good]
        for _ in range(draw(generator, 0, 2)):
            parts[draw(generator, 0, len(parts) - 1)] = pieces[draw(generator, 0, 7)]
        completions.append("".join(parts))
    return completions, ["7"] * len(completions)


INPUTS = {
    "best_of_n": best_inputs,
    "bradley_terry_loss": bradley_terry_inputs,
    "calibration_error": calibration_inputs,
    "clipped_policy_loss": policy_inputs,
    "completion_labels": label_inputs,
    "dpo_loss": dpo_inputs,
    "dpop_loss": dpop_inputs,
    "gae": gae_inputs,
    "group_advantages": advantage_inputs,
    "grpo_loss": grpo_inputs,
    "implicit_reward": implicit_inputs,
    "importance_weights": weight_inputs,
    "k3": k3_inputs,
    "kl_controller": controller_inputs,
    "kl_shaped_rewards": reward_inputs,
    "leave_one_out": advantage_inputs,
    "logprob_sum": logprob_sum_inputs,
    "lora_forward": lora_inputs,
    "reinforce_gradient": reinforce_inputs,
    "rewards": head_inputs,
    "sft_loss": sft_inputs,
    "sft_steps": step_inputs,
    "think_rewards": think_inputs,
}


def checker(name: str, cases: list[Case] | None = None) -> Callable[[Callable], bool]:
    """Whether the check, or the check with other cases, takes a function for right."""
    exercise = getattr(check, name)
    # Mistakes only choose the words of a rejection.
    plain = replace(exercise, mistakes="", known={}, cases=cases or exercise.cases)
    return lambda fn: verdict(fn, plain).startswith("Correct")


# The rules


OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
TWINS = [("min", "max"), ("amin", "amax"), ("mean", "sum"), ("exp", "log"), ("std", "var")]
TWINS += [("softmax", "log_softmax"), ("argmin", "argmax"), ("logsigmoid", "sigmoid")]
TWIN = {a: b for pair in TWINS for a, b in (pair, pair[::-1])}


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that a rule puts in the place of this one."""
    if isinstance(getattr(node, "ctx", None), ast.Store):
        return
    if isinstance(node, ast.BinOp | ast.AugAssign):
        if type(node.op) in OPERATORS:
            yield changed(node, op=OPERATORS[type(node.op)]())
    if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.MatMult):
        yield node.left  # a factor, or a term, dropped
        yield node.right
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.Div | ast.MatMult):
        yield changed(node, left=node.right, right=node.left)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        yield changed(node, ops=[OPERATORS[type(node.ops[0])](), *node.ops[1:]])
    if isinstance(node, ast.Attribute) and node.attr in TWIN:
        yield changed(node, attr=TWIN[node.attr])
    if isinstance(node, ast.Name) and node.id in TWIN:
        yield changed(node, id=TWIN[node.id])
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield from (changed(node, value=node.value + step) for step in (1, -1))
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield changed(node, value=not node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand
    if isinstance(node, ast.BinOp | ast.Call | ast.Subscript):
        yield ast.UnaryOp(ast.USub(), node)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):
            yield node.func.value  # .detach(), .mean(), .clamp(...) dropped
        for i in range(len(node.args) - 1):
            order = [*node.args[:i], node.args[i + 1], node.args[i], *node.args[i + 2 :]]
            yield changed(node, args=order)
        for i in range(len(node.args)):
            yield changed(node, args=[*node.args[:i], *node.args[i + 1 :]])
        for i in range(len(node.keywords)):
            yield changed(node, keywords=[*node.keywords[:i], *node.keywords[i + 1 :]])


def changed(node: ast.AST, **fields) -> ast.AST:
    fresh = type(node)(**{name: getattr(node, name) for name in node._fields})
    for name, value in fields.items():
        setattr(fresh, name, value)
    return fresh


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """What was changed, and the source, of every mutant that is another program."""
    tree = ast.parse(textwrap.dedent(source))
    seen = {ast.unparse(tree)}
    parents = list(expressions(tree.body[0]))
    for parent in parents:
        for field, value in list(ast.iter_fields(parent)):
            places = value if isinstance(value, list) else [value]
            for i, right in enumerate(places):
                for wrong in replacements(right):
                    setattr(
                        parent,
                        field,
                        [*value[:i], wrong, *value[i + 1 :]] if places is value else wrong,
                    )
                    text = ast.unparse(tree)
                    setattr(parent, field, value)
                    if text not in seen:
                        seen.add(text)
                        yield f"{ast.unparse(right)} -> {ast.unparse(wrong)}", text


def expressions(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function's body. Error messages and metrics are no part of an answer."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, ast.Raise | ast.Dict | ast.JoinedStr):
            yield node
            waiting += ast.iter_child_nodes(node)


@dataclass(frozen=True)
class Answer:
    """The source of a right answer, the names it uses, and what the checker is to call."""

    source: str
    scope: dict
    name: str = "answer"
    called: Callable = staticmethod(lambda fn: fn)

    def build(self, source: str) -> Callable:
        scope = dict(self.scope)
        exec(source, scope)
        return self.called(scope[self.name])


def of_function(fn: Callable, called: Callable = lambda fn: fn) -> Answer:
    source = textwrap.dedent(inspect.getsource(fn))
    return Answer(source, inspect.unwrap(fn).__globals__, fn.__name__, called)


def through_the_key(name: str) -> Callable:
    """What makes an answer of a mutant of `losses.NAME`, where the reference only calls it."""

    def called(fn: Callable) -> Callable:
        def answer(*arguments):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(losses, name, fn)
                return getattr(check, name).reference(*arguments)

        return answer

    return called


def answers(name: str) -> list[Answer]:
    """The exercise's own answer, submissions in other styles, and the answer key in `utils`."""
    exercise = getattr(check, name)
    found = [of_function(exercise.answer)]
    for fn in lookup("RIGHT", name)[:3]:
        found.append(of_function(fn) if callable(fn) else Answer(fn, SCOPE))
    if exercise.reference.__module__.startswith("utils"):
        found.append(of_function(exercise.reference))
    elif hasattr(losses, name):
        found.append(of_function(getattr(losses, name), through_the_key(name)))
    return found


def random_cases(name: str) -> list[Case]:
    generator = torch.Generator().manual_seed(1)
    return [Case(INPUTS[name](generator), "random inputs") for _ in range(DRAWS)]


def survey(name: str, cases: list[Case] | None = None) -> tuple[int, list[str]]:
    """How many mutants the checker rejects, and those that it accepts though they do otherwise."""
    rejected, missed, seen = 0, [], set()
    accepts, accepts_on_draws = checker(name, cases), checker(name, random_cases(name))
    for answer in answers(name):
        for change, source in mutants(answer.source):
            if source in seen:
                continue
            seen.add(source)
            fn = answer.build(source)
            if not accepts(fn):
                rejected += 1
            elif not accepts_on_draws(fn):
                missed.append(change)
    return rejected, missed


def test_every_exercise_is_here():
    assert sorted(INPUTS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_right_answers_are_accepted(name):
    for answer in answers(name):
        assert checker(name)(answer.build(answer.source))
        assert checker(name, random_cases(name))(answer.build(answer.source))


@pytest.mark.filterwarnings("ignore:Casting complex")
@pytest.mark.parametrize("name", NAMES)
def test_the_checker_rejects_mutants(name):
    rejected, missed = survey(name)
    assert rejected >= 20
    assert rejected >= LEAST_RATE * (rejected + len(missed)), "\n".join(missed)


def test_a_checker_with_poor_inputs_misses_mutants():
    rejected, missed = survey("k3", [Case((torch.zeros(2), torch.zeros(2)), "zeros")])
    assert rejected < LEAST_RATE * (rejected + len(missed))


def test_the_rules():
    found = dict(mutants("def answer(a, b):\n    return torch.min(a * 2, b.detach())"))
    assert {
        "a * 2 -> a / 2",
        "a * 2 -> a",
        "a * 2 -> 2",
        "a * 2 -> -(a * 2)",
        "2 -> 3",
        "2 -> 1",
        "torch.min -> torch.max",
        "torch.min(a * 2, b.detach()) -> torch.min(b.detach(), a * 2)",
        "torch.min(a * 2, b.detach()) -> -torch.min(a * 2, b.detach())",
        "b.detach() -> b",
    } <= set(found)
    assert found["b.detach() -> b"] == "def answer(a, b):\n    return torch.min(a * 2, b)"
