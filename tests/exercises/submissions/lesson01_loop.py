"""Submissions to the exercises of lesson 01 on labels and on the training loop."""

from submissions import edits

LABELS = """
def answer(input_ids, prompt_lengths, lengths):
    positions = torch.arange(input_ids.size(1)).expand_as(input_ids)
    learned = (positions >= prompt_lengths.unsqueeze(1)) * (positions < lengths.unsqueeze(1))
    return torch.where(learned, input_ids, -100)
"""
_START, _STOP = "(positions >= prompt_lengths.unsqueeze(1))", "(positions < lengths.unsqueeze(1))"
_LABELLED = "torch.where(learned, input_ids, -100)"

_RIGHT_LABELS = [
    ("", ""),
    (_LABELLED, "input_ids * learned - 100 * ~learned"),
    (_START, "~(positions < prompt_lengths.unsqueeze(1))"),
    (_STOP, "(lengths.view(-1, 1) - positions > 0)"),
]
_LOOP_OVER_ROWS = """
def answer(input_ids, prompt_lengths, lengths):
    labels = input_ids.clone()
    for row in range(len(labels)):
        labels[row, : prompt_lengths[row]] = -100
        labels[row, lengths[row] :] = -100
    return labels
"""

_WRONG_LABELS = [
    (_STOP, "(input_ids != 0)", "Padding found by its value"),
    (_STOP, "(positions < lengths.unsqueeze(1) - 1)", "The last token of the answer left out"),
    (_STOP, "(positions <= lengths.unsqueeze(1))", "One token of padding counted"),
    (_START, "(positions >= 0)", "Prompt counted"),
    (_STOP, "1 == 1", "Padding counted"),
    (_START, "(positions > prompt_lengths.unsqueeze(1))", "The first token of the answer left"),
    (_START, "(positions + 1 >= prompt_lengths.unsqueeze(1))", "The last token of the prompt"),
    (
        _STOP,
        "(positions - prompt_lengths.unsqueeze(1) < lengths.unsqueeze(1))",
        "lengths taken for that of the answer alone",
    ),
    (_LABELLED, "learned.float()", "The mask returned"),
    (_LABELLED, "torch.where(learned, input_ids, 0)", "0 in place of -100"),
    (_LABELLED, "torch.where(learned, input_ids, -1)", "-1 in place of -100"),
    (_LABELLED, "torch.where(learned, -100, input_ids)", "The mask turned round"),
    (_LABELLED, "torch.where(learned, input_ids, -100)[:, 1:]", "Shifted"),
    (
        "prompt_lengths.unsqueeze(1)) * (positions < lengths.unsqueeze(1))",
        "prompt_lengths[0]) * (positions < lengths[0])",
        "Lengths of the first row",
    ),
]
_NO_COLUMN = """
def answer(input_ids, prompt_lengths, lengths):
    at = torch.arange(input_ids.shape[1])
    return input_ids.where((at >= prompt_lengths) & (at < lengths), torch.tensor(-100))
"""

_MUTANTS_LABELS = [
    (_LABELLED, "torch.where(learned, input_ids, -100).abs()"),
    (_LABELLED, "torch.where(learned, input_ids + 1, -100)"),
    (_START, "(positions >= prompt_lengths.max())"),
]

STEPS = """
def answer(table, input_ids, mask, learning_rate, steps):
    parameter = torch.nn.Parameter(table.clone())
    optimizer = torch.optim.SGD([parameter], lr=learning_rate)
    for _ in range(steps):
        predictions, targets = parameter[input_ids][:, :-1], input_ids[:, 1:]
        nll = F.cross_entropy(predictions.transpose(1, 2), targets, reduction="none")
        loss = (nll * mask[:, 1:]).sum() / mask[:, 1:].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return parameter.detach()
"""
_RATIO = "(nll * mask[:, 1:]).sum() / mask[:, 1:].sum()"
_RATE = "[parameter], lr=learning_rate"

_RIGHT_STEPS = [
    ("", ""),
    (_RATIO, "nll[mask[:, 1:].bool()].mean()"),
    (_RATIO, "(nll * mask[:, 1:] / mask[:, 1:].sum()).sum()"),
    ("return parameter.detach()", "return parameter.data"),
]
_BY_AUTOGRAD = """
def answer(table, input_ids, mask, learning_rate, steps):
    for _ in range(steps):
        leaf = table.detach().requires_grad_()
        logprobs = leaf.log_softmax(-1)[input_ids[:, :-1], input_ids[:, 1:]]
        loss = -torch.sum(logprobs * mask[:, 1:]) / torch.sum(mask[:, 1:])
        table = table - learning_rate * torch.autograd.grad(loss, leaf)[0]
    return table
"""

_WRONG_STEPS = [
    ("        optimizer.zero_grad()\n", "", "Gradients of earlier steps kept"),
    ("range(steps)", "range(1)", "One step only"),
    ("range(steps)", "range(steps - 1)", "One step too few"),
    ("range(steps)", "range(steps + 1)", "One step too many"),
    (_RATIO, f"-{_RATIO}", "Uphill"),
    (
        "(nll * mask[:, 1:]).sum() / mask[:, 1:]",
        "(nll * mask[:, :-1]).sum() / mask[:, :-1]",
        "Mask not",
    ),
    (_RATIO, "nll.mean()", "Mask ignored"),
    ("/ mask[:, 1:].sum()", "/ mask.sum()", "N counted before the shift"),
    (_RATIO, "(nll * mask[:, 1:]).sum()", "Sum instead of mean"),
    (_RATIO, "(nll * mask[:, 1:]).mean()", "Mean over all positions"),
    (_RATIO, "(nll * mask[:, 1:]).sum(1).mean()", "Divided by the number of sequences"),
    (
        _RATIO,
        "((nll * mask[:, 1:]).sum(1) / mask[:, 1:].sum(1)).mean()",
        "Mean of per-sequence means",
    ),
    (_RATE, "[parameter], lr=1.0", "Learning rate ignored"),
    (
        "optimizer.step()",
        "optimizer.step(); optimizer.param_groups[0]['lr'] -= learning_rate / steps",
        "A learning rate that falls",
    ),
    (
        "optimizer.step()",
        "parameter.grad /= parameter.grad.norm(); optimizer.step()",
        "Gradient clipped or normalised",
    ),
    ("SGD([parameter], lr=learning_rate)", "AdamW([parameter], lr=learning_rate)", "AdamW's step"),
    (
        "SGD([parameter], lr=learning_rate)",
        "AdamW([parameter], lr=learning_rate, weight_decay=0.0)",
        "AdamW's step",
    ),
    (
        "optimizer.zero_grad()\n        loss.backward()",
        "loss.backward()\n        optimizer.zero_grad()",
        "The table did not change",
    ),
    (
        'F.cross_entropy(predictions.transpose(1, 2), targets, reduction="none")',
        "-predictions.gather(2, targets[..., None])[..., 0]",
        "Raw logits",
    ),
    (
        'F.cross_entropy(predictions.transpose(1, 2), targets, reduction="none")',
        "-predictions.softmax(2).gather(2, targets[..., None])[..., 0]",
        "Probabilities instead of log-probabilities",
    ),
]

_MUTANTS_STEPS = [
    ("torch.optim.SGD", "torch.optim.Adagrad"),
    (_RATE, "[parameter], lr=learning_rate, momentum=0.9"),
    (_RATE, "[parameter], lr=learning_rate, weight_decay=0.1"),
    ("return parameter.detach()", "return parameter.detach().softmax(-1)"),
]

_NO_SHIFT = STEPS.replace("[:, :-1]", "").replace("[:, 1:]", "")

RIGHT = {
    "completion_labels": [*edits(LABELS, _RIGHT_LABELS), _LOOP_OVER_ROWS],
    "sft_steps": [*edits(STEPS, _RIGHT_STEPS), _BY_AUTOGRAD],
}
WRONG = {
    "completion_labels": [
        *edits(LABELS, _WRONG_LABELS),
        (_NO_COLUMN, "Lengths and positions mixed up"),
    ],
    "sft_steps": [*edits(STEPS, _WRONG_STEPS), (_NO_SHIFT, "No shift by one")],
}
MUTANTS = {
    "completion_labels": edits(LABELS, _MUTANTS_LABELS),
    "sft_steps": edits(STEPS, _MUTANTS_STEPS),
}
