"""Mutants of right answers, made by the rules below: the checkers must reject them.

Sources are answers as learners write them and the answer keys, the functions of `utils`. A mutant
differs at one point. One that a checker accepts counts as missed unless it does the same as the
right answer, values and gradients, on random inputs.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pytest
import test_lesson00
import test_lesson01
import test_lesson02
import test_lesson03_gae
import test_lesson03_policy
import test_lesson04
import test_lesson05
import test_lesson06
import torch
import torch.nn.functional as F

from exercises import (
    check,
    lesson00,
    lesson01,
    lesson02,
    lesson03_gae,
    lesson03_policy,
    lesson04,
    lesson05_advantages,
    lesson05_loss,
    lesson06,
)
from exercises.judge import Case, ragged_mask, verdict
from utils import advantages, kl, logprobs, losses
from utils.losses import dpo, group, policy, preference, supervised

LEAST_RATE = 0.9
DRAWS = 25  # random inputs on which a mutant that was accepted is compared with the right answer

SFT = """
def answer(logits, labels):
    logits, labels = logits[:, :-1], labels[:, 1:]
    mask = labels != -100
    logprobs = torch.log_softmax(logits, -1)
    token_logprobs = logprobs.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
    return -(token_logprobs * mask).sum() / mask.sum()
"""
LORA = """
def answer(x, weight, lora_a, lora_b, alpha):
    rank = lora_a.shape[0]
    update = x @ lora_a.T @ lora_b.T
    return x @ weight.T + alpha / rank * update
"""
WEIGHTS = f"""
def answer(logprobs, sampler_logprobs, mask, limit):
    return {test_lesson06.RIGHT}
"""


# Random inputs, drawn apart from those of the checkers: shapes, lengths and constants vary


def draw(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def draw_mask(generator, rows=None):
    rows = rows or draw(generator, 1, 4)
    return ragged_mask([draw(generator, 1, 6) for _ in range(rows)]).float()


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


def lora_inputs(generator):
    n_in, n_out, rank = (draw(generator, 1, 6) for _ in range(3))
    shapes = (draw(generator, 1, 3), n_in), (n_out, n_in), (rank, n_in), (n_out, rank)
    return *(normal(generator, *shape) for shape in shapes), 16 * share(generator)


def bradley_terry_inputs(generator):
    rows, scale = draw(generator, 1, 4), 60.0 if share(generator) < 0.2 else 2.0
    masks = [draw_mask(generator, rows) for _ in range(2)]
    scores = [normal(generator, *mask.shape, scale=scale) for mask in masks]
    return scores[0], masks[0].long(), scores[1], masks[1].long()


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


def advantage_inputs(generator):
    group_size = draw(generator, 2, 5)
    rewards = normal(generator, draw(generator, 1, 4), group_size, scale=10)
    rewards[0] = rewards[0, 0].round()  # whose mean has no rounding error
    return rewards.flatten(), group_size


def grpo_inputs(generator):
    new, old, _, mask, clip_eps = policy_inputs(generator)
    ref = old + normal(generator, *mask.shape, scale=0.5)
    return new, old, ref, normal(generator, len(mask)), mask, clip_eps, share(generator)


def weight_inputs(generator):
    mask = draw_mask(generator)
    ours, theirs = (3 * log_probs(generator, mask.shape) for _ in range(2))
    return ours, theirs, mask, 1 + 3 * share(generator)


@dataclass(frozen=True)
class Exercise:
    """A checker, answers as sources, the answer key, inputs, and the names that tests try."""

    run: Callable
    lesson: object  # the module that holds the checker
    answers: tuple[str, ...]
    key: tuple[object, str] | None  # module and name of a function
    inputs: Callable
    tried: tuple[str, ...]  # starts of the messages that hand-written mistakes get in the tests


def names(mistakes) -> tuple[str, ...]:
    return tuple(mistake[-1] for mistake in mistakes)


def of(exercise: str) -> tuple[str, ...]:
    return names(m for m in test_lesson00.MISTAKES if m[0] == exercise)


EXERCISES = {
    "k3": Exercise(check.k3, lesson00, (test_lesson00.K3,), (kl, "k3"), k3_inputs, of("k3")),
    "reinforce_gradient": Exercise(
        check.reinforce_gradient,
        lesson00,
        (test_lesson00.REINFORCE,),
        None,
        reinforce_inputs,
        of("reinforce"),
    ),
    "sft_loss": Exercise(
        check.sft_loss,
        lesson01,
        (SFT,),
        (supervised, "sft_loss"),
        sft_inputs,
        names(test_lesson01.SFT_MISTAKES),
    ),
    "lora_forward": Exercise(
        check.lora_forward, lesson01, (LORA,), None, lora_inputs, tuple(test_lesson01.LORA_MISTAKES)
    ),
    "bradley_terry_loss": Exercise(
        check.bradley_terry_loss,
        lesson02,
        (test_lesson02.ANSWER,),
        (preference, "bradley_terry_loss"),
        bradley_terry_inputs,
        names(test_lesson02.MISTAKES),
    ),
    "gae": Exercise(
        check.gae,
        lesson03_gae,
        (test_lesson03_gae.ANSWER, test_lesson03_gae.MASKED_LATE, test_lesson03_gae.RETURNS),
        (advantages, "gae"),
        gae_inputs,
        names(test_lesson03_gae.MISTAKES),
    ),
    "clipped_policy_loss": Exercise(
        check.clipped_policy_loss,
        lesson03_policy,
        (test_lesson03_policy.ANSWER,),
        (policy, "clipped_policy_loss"),
        policy_inputs,
        names(test_lesson03_policy.MISTAKES),
    ),
    "dpo_loss": Exercise(
        check.dpo_loss,
        lesson04,
        (test_lesson04.ANSWER,),
        (dpo, "dpo_loss"),
        dpo_inputs,
        names(test_lesson04.MISTAKES),
    ),
    "group_advantages": Exercise(
        check.group_advantages,
        lesson05_advantages,
        (test_lesson05.ADVANTAGES, test_lesson05.REPEATED, test_lesson05.SLOW),
        (advantages, "group_advantages"),
        advantage_inputs,
        names(test_lesson05.ADVANTAGE_MISTAKES),
    ),
    "grpo_loss": Exercise(
        check.grpo_loss,
        lesson05_loss,
        (test_lesson05.LOSS,),
        (group, "grpo_loss"),
        grpo_inputs,
        names(test_lesson05.LOSS_MISTAKES),
    ),
    "importance_weights": Exercise(
        check.importance_weights,
        lesson06,
        (WEIGHTS,),
        (logprobs, "importance_weights"),
        weight_inputs,
        names(test_lesson06.MISTAKES),
    ),
}


def judged(name: str, fn: Callable | None = None) -> tuple[Callable, dict]:
    """What the checker hands to `judge` for a function: the function, perhaps wrapped, the rest."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EXERCISES[name].lesson, "judge", lambda fn, **rest: seen.append((fn, rest)))
        EXERCISES[name].run(fn)
    return seen[0]


def accepts(name: str, fn: Callable, cases: list[Case] | None = None) -> bool:
    """Whether the checker, or the checker with other cases, takes a function for right."""
    wrapped, rest = judged(name, fn)
    # Mistakes only choose the words of a rejection.
    rest = rest | {"mistakes": [], "messages": {}} | ({"cases": cases} if cases else {})
    return verdict(wrapped, **rest).startswith("Correct")


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


def answer_of(source: str) -> Callable:
    """The function of a learner's source."""
    scope = {"torch": torch, "F": F}
    exec(source, scope)
    return scope["answer"]


def key_of(name: str, source: str) -> Callable:
    """An answer that calls the source's function where the checker calls the answer key."""
    module, function = EXERCISES[name].key
    scope = dict(vars(module))
    exec(source, scope)
    if not hasattr(losses, function):
        return scope[function]
    reference = judged(name)[1]["reference"]

    def answer(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(losses, function, scope[function])
            return reference(*arguments)

    return answer


def sources(name: str) -> list[tuple[str, Callable]]:
    """The right answers to an exercise, each with what makes a function of its source."""
    exercise = EXERCISES[name]
    found = [(source, answer_of) for source in exercise.answers]
    if exercise.key:
        module, function = exercise.key
        found.append((inspect.getsource(getattr(module, function)), partial(key_of, name)))
    return found


def random_cases(name: str) -> list[Case]:
    generator = torch.Generator().manual_seed(1)
    return [Case(EXERCISES[name].inputs(generator), "random inputs") for _ in range(DRAWS)]


def survey(name: str, cases: list[Case] | None = None) -> tuple[int, list[str]]:
    """How many mutants the checker rejects, and those that it accepts though they do otherwise."""
    rejected, missed, draws = 0, [], random_cases(name)
    for right, build in sources(name):
        for change, source in mutants(right):
            fn = build(source)
            if not accepts(name, fn, cases):
                rejected += 1
            elif not accepts(name, fn, draws):
                missed.append(change)
    return rejected, missed


def test_every_exercise_is_here():
    assert set(EXERCISES) == set(check.__all__) - {"Quiz"}


@pytest.mark.parametrize("name", EXERCISES)
def test_right_answers_are_accepted(name):
    for source, build in sources(name):
        assert accepts(name, build(source))
        assert accepts(name, build(source), random_cases(name))


@pytest.mark.filterwarnings("ignore:Casting complex")
@pytest.mark.parametrize("name", EXERCISES)
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


# The names


@pytest.mark.parametrize("name", EXERCISES)
def test_every_mistake_is_tried_by_hand_and_named(name):
    _, rest = judged(name)
    named = set()
    for keys, wrong in rest["mistakes"]:
        if len(keys) == 1:
            message = rest["messages"][keys[0]]
            assert message.startswith(EXERCISES[name].tried), message
            if verdict(wrong, **rest).startswith(f"Not yet. {message} On "):
                named.add(keys[0])
    assert named == set(rest["messages"])
