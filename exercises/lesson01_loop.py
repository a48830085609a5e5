"""Exercises of lesson 01: the labels that a mask leaves, and a training loop of a few steps."""

import torch

from exercises.calls import Case, worked_case
from exercises.judge import Exercise
from utils import losses
from utils.chat import IGNORE


def my_completion_labels(input_ids, prompt_lengths, lengths):
    at = torch.arange(input_ids.shape[1])
    kept = (at >= prompt_lengths[:, None]) & (at < lengths[:, None])
    return input_ids.masked_fill(~kept, -100)


_END = "Take the mask from lengths: positions prompt_length to length - 1 count."
_LABEL_MISTAKES = f"""
Padding found by its value: the 0 that ends an answer is lost with it, and a model trained so never
stops. {_END}
    (at < lengths[:, None]) -> (input_ids != 0)
    (at >= prompt_lengths[:, None]) & (at < lengths[:, None]) -> input_ids != 0
The last token of the answer left out: it says that the answer is over. {_END}
    at < lengths[:, None] -> at < lengths[:, None] - 1
One token of padding counted: positions count from 0. {_END}
    at < lengths[:, None] -> at <= lengths[:, None]
Prompt counted: the model reads it, it does not learn to write it. {_END}
    (at >= prompt_lengths[:, None]) & (at < -> (at <
Padding counted. {_END}
    & (at < lengths[:, None]) ->
The first token of the answer left out: positions count from 0. {_END}
    at >= prompt -> at > prompt
The last token of the prompt counted. The shift by one is the loss's work, not the labels'. {_END}
    at >= prompt_lengths[:, None] -> at >= prompt_lengths[:, None] - 1
lengths taken for that of the answer alone: it is prompt and answer together. {_END}
    at < lengths[:, None] -> at < (prompt_lengths + lengths)[:, None]
The mask returned: labels are the token ids where it is 1, and -100 elsewhere.
    input_ids.masked_fill(~kept, -100) -> kept
0 in place of -100: 0 is a token like any other, and would be learned.
    -100 -> 0
    input_ids.masked_fill(~kept, -100) -> input_ids * kept
-1 in place of -100: PyTorch's losses leave out -100.
    -100 -> -1
The mask turned round: -100 stands where a token does *not* count.
    ~kept -> kept
Shifted: labels stand where their tokens stand. The loss shifts.
    input_ids.masked_fill(~kept, -100) -> input_ids.masked_fill(~kept, -100).roll(-1, 1)
    input_ids.masked_fill(~kept, -100) -> input_ids.masked_fill(~kept, -100)[:, 1:]
Lengths of the first row used for all rows: compare (L,) with (B, 1).
    prompt_lengths[:, None] -> prompt_lengths[0] ; < lengths[:, None] -> < lengths[0]
Lengths and positions mixed up: lengths[:, None] has one row per sequence.
    prompt_lengths[:, None] -> prompt_lengths ; < lengths[:, None] -> < lengths
"""


def _completion_labels(input_ids, prompt_lengths, lengths):
    labels = torch.full_like(input_ids, IGNORE)
    for row, (start, end) in enumerate(zip(prompt_lengths, lengths, strict=True)):
        labels[row, start:end] = input_ids[row, start:end]
    return labels


def _label_cases():
    # 0 ends an answer and pads: in the first row one 0 counts, in the second the first of four.
    yield worked_case(
        input_ids=[[5, 6, 7, 8, 0, 0], [5, 9, 0, 0, 0, 0]], prompt_lengths=[2, 1], lengths=[5, 3]
    )
    generator = torch.Generator().manual_seed(0)
    for starts, ends in (((2, 4, 1), (5, 9, 7)), ((3, 1), (4, 2)), ((1, 2, 3, 4), (6, 4, 7, 7))):
        ids = torch.randint(3, (len(ends), max(ends)), generator=generator)  # 0 in the text, too
        start, end = torch.tensor([starts, ends])
        ids = ids.masked_fill(torch.arange(max(ends)) >= end[:, None], 0)
        yield Case((ids, start, end), f"random ids, prompts of {starts} and {ends} tokens in all")


completion_labels = Exercise(
    reference=_completion_labels,
    answer=my_completion_labels,
    mistakes=_LABEL_MISTAKES,
    cases=list(_label_cases()),
    success="labels equal those of a loop over rows",
    hints={"must match the size": "Compare positions (L,) with lengths (B, 1): lengths[:, None]."},
)


def my_sft_steps(table, input_ids, mask, learning_rate, steps):
    table = table.detach().clone().requires_grad_()
    for _ in range(steps):
        logits = table[input_ids]
        logprobs = logits[:, :-1].log_softmax(-1)
        chosen = logprobs.gather(-1, input_ids[:, 1:, None])[..., 0]
        loss = -(chosen * mask[:, 1:]).sum() / mask[:, 1:].sum()
        loss.backward()
        with torch.no_grad():
            table -= learning_rate * table.grad
        table.grad = None
    return table.detach()


_MEAN = "divide by the number of completion tokens, mask[:, 1:].sum()."
_STEP_MISTAKES = f"""
Gradients of earlier steps kept: backward adds to .grad, so clear it after each step.
    table.grad = None -> pass
One step only: repeat for `steps` steps.
    range(steps) -> range(1)
One step too few: range(steps) has `steps` steps.
    range(steps) -> range(steps - 1) | range(1, steps)
One step too many: range(steps) has `steps` steps.
    range(steps) -> range(steps + 1)
Uphill: the loss is minus the log-probability, and a step goes against its gradient. Both signs
have to be right.
    -= learning_rate -> += learning_rate
    loss = -( -> loss = (
No shift by one: logits[:, :-1] predict input_ids[:, 1:].
    logits[:, :-1] -> logits ; input_ids[:, 1:, None] -> input_ids[..., None] ;
        mask[:, 1:] -> mask
Mask not shifted: the mask belongs to the token that is predicted, mask[:, 1:].
    mask[:, 1:] -> mask[:, :-1]
Mask ignored: prompt and padding are learned, too.
    (chosen * mask[:, 1:]).sum() / mask[:, 1:].sum() -> chosen.mean()
N counted before the shift: the first token is never predicted. {_MEAN}
    / mask[:, 1:].sum() -> / mask.sum()
Sum instead of mean: {_MEAN}
    / mask[:, 1:].sum() ->
Mean over all positions instead of the masked ones: {_MEAN}
    / mask[:, 1:].sum() -> / mask[:, 1:].numel()
Divided by the number of sequences: {_MEAN}
    / mask[:, 1:].sum() -> / len(mask)
Mean of per-sequence means: that weighs the tokens of short answers more. {_MEAN}
    (chosen * mask[:, 1:]).sum() / mask[:, 1:].sum() ->
        ((chosen * mask[:, 1:]).sum(1) / mask[:, 1:].sum(1)).mean()
Learning rate ignored: a step is learning_rate times the gradient.
    learning_rate * table.grad -> table.grad
A learning rate that falls to zero: here it stays as it is.
    for _ in -> for step in ;
        learning_rate * table.grad -> learning_rate * (1 - step / steps) * table.grad
Gradient clipped or normalised: not here.
    learning_rate * table.grad -> learning_rate * table.grad / table.grad.norm()
AdamW's step: here it is plain, table -= learning_rate * table.grad.
    table -= learning_rate * table.grad -> adam.step() ;
        .requires_grad_() -> .requires_grad_(); adam = torch.optim.AdamW([table], learning_rate)
    table -= learning_rate * table.grad -> adam.step() ;
        .requires_grad_() -> .requires_grad_(); adam = torch.optim.Adam([table], learning_rate)
The table did not change: clear the gradient after the step, not between backward and the step.
    table -= learning_rate -> table -= 0
Raw logits instead of log-probabilities: use log_softmax.
    .log_softmax(-1) ->
Probabilities instead of log-probabilities: use log_softmax.
    .log_softmax(-1) -> .softmax(-1)
"""


def _sft_steps(table, input_ids, mask, learning_rate, steps):
    table = torch.nn.Parameter(table.detach().clone())
    optimizer = torch.optim.SGD([table], lr=learning_rate)
    labels = input_ids.masked_fill(mask == 0, IGNORE)
    for _ in range(steps):
        optimizer.zero_grad()
        losses.sft_loss(table[input_ids], labels)[0].backward()
        optimizer.step()
    return table.detach()


def _step_cases():
    yield worked_case(
        table=[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        input_ids=[[0, 1, 2, 0], [0, 2, 1, 1]],
        mask=[[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0]],
        learning_rate=3.0,
        steps=2,
    )
    generator = torch.Generator().manual_seed(0)
    for starts, ends, rate, steps in (
        ((2, 3, 1), (6, 4, 5), 0.5, 3),
        ((0, 0), (6, 3), 2.0, 2),  # without a prompt: the first token counts and has no prediction
        ((1, 4), (7, 8), 1.0, 4),
    ):
        table = torch.randn(7, 7, generator=generator)
        ids = torch.randint(7, (len(ends), max(ends)), generator=generator)
        at, start, end = torch.arange(max(ends)), *torch.tensor([starts, ends])[..., None]
        mask = ((at >= start) & (at < end)).float()
        yield Case((table, ids, mask, rate, steps), f"a random batch of {len(ends)}, {steps} steps")


sft_steps = Exercise(
    reference=_sft_steps,
    answer=my_sft_steps,
    mistakes=_STEP_MISTAKES,
    cases=list(_step_cases()),
    success="the table after training equals that of torch.optim.SGD with utils.losses.sft_loss",
    hints={
        "leaf Variable that requires grad": "A step is no part of the graph: take it inside "
        "torch.no_grad().",
        "does not require grad": "Make a copy that learns: "
        "table.detach().clone().requires_grad_().",
        "unsupported operand type(s) for *: 'float' and 'NoneType'": "There is no gradient yet: "
        "call loss.backward() on a leaf that requires grad.",
    },
)
