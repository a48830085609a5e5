"""The mistakes of `make lesson-mutants`: lesson, kind, the text to replace, the new text.

The text must occur exactly once in the code cells of the lesson's notebook. A fifth entry says why
no claim can see the mistake; only a survivor has one.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """One mistake in what a lesson teaches."""

    lesson: str
    kind: str
    old: str
    new: str
    survives: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What a result is kept under."""
        return self.lesson, self.old, self.new


TABLE: dict[str, list[tuple[str, ...]]] = {
    "00": [
        ("sign of the loss", "loss = -((R - b) * log_policy", "loss = ((R - b) * log_policy"),
        ("learning rate 0", "toy_learning_rate: float = 2.0", "toy_learning_rate: float = 0.0"),
        ("baseline lost", "b = R.mean() if step == 0 else", "b = 0.0 if step > -1 else"),
        ("reward shuffled", "R = reward(y)  # (n,)", "R = reward(y)[torch.randperm(len(y))]"),
        ("wrong reward", "[len(set(row)) for row", "[len(row) for row"),
        ("sign of a gradient", "one_hot(y, 4).to(f64) - pi", "one_hot(y, 4).to(f64) + pi"),
        ("wrong baseline", '"others": (second, first)', '"others": (first, second)'),
        ("shift", "V_drawn = V[drawn, :4]", "V_drawn = V[drawn, 1:]"),
        ("sign of the KL", "log_ratio = target.log() - log_q", "log_ratio = log_q - target.log()"),
        (
            "estimator",
            '"k2 as loss": lambda logp: kl.k2(logp, ref_log)',
            '"k2 as loss": lambda logp: kl.k2(ref_log, logp) * 2',
        ),
        (
            "stop token",
            'convert_tokens_to_ids("<|im_end|>")',
            'convert_tokens_to_ids("<|im_start|>")',
        ),
        (
            "reference = policy",
            'models.load_reference(profile, "base")',
            "models.load_reference(profile, stage)",
        ),
        (
            "price of the KL",
            "loss = (logp.exp().detach() * (config.beta * f(logp)",
            "loss = (logp.exp().detach() * (-config.beta * f(logp)",
        ),
    ],
    "01": [
        (
            "sign of the loss",
            "loss = -(m[:, 1:] * log_pi).sum() / N",
            "loss = (m[:, 1:] * log_pi).sum() / N",
        ),
        ("mask dropped", "loss = -(m[:, 1:] * log_pi).sum() / N", "loss = -log_pi.mean()"),
        (
            "shift",
            "log_pi = logits[:, :-1].log_softmax(-1)",
            "log_pi = logits[:, 1:].log_softmax(-1)",
        ),
        ("learning rate 0", "    learning_rate: float = 1e-3", "    learning_rate: float = 0.0"),
        (
            "stop token",
            'convert_tokens_to_ids("<|im_end|>")',
            'convert_tokens_to_ids("<|im_start|>")',
        ),
        ("sign of the logits", "sft_loss(logits, targets)", "sft_loss(-logits, targets)"),
        ("uphill", "= lr * (1 - step / len(batches))", "= -lr * (1 - step / len(batches))"),
        (
            "wrong answers kept",
            "for d, gold in pairs if sql.score(gold, d.answer)]",
            "for d, gold in pairs if not sql.score(gold, d.answer)]",
        ),
        (
            "questions as answers",
            "profile.answer_prefix + e.answer, profile.max_length",
            "profile.answer_prefix + e.question, profile.max_length",
        ),
        (
            "difference turned round",
            "torch.as_tensor(a).double() - torch.as_tensor(b).double()",
            "torch.as_tensor(b).double() - torch.as_tensor(a).double()",
        ),
        (
            "traps mixed up",
            "(~torch.tensor(trap), torch.tensor(trap))",
            "(torch.tensor(trap), ~torch.tensor(trap))",
        ),
        (
            "shift of the mask",
            "input_ids[:, 1:], mask[:, 1:]  # (B, L - 1)",
            "input_ids[:, 1:], mask[:, :-1]",
        ),
        (
            "LoRA scale",
            "(2 / 1) * (x @ lora_a.T @ lora_b.T)",
            "(1 / 2) * (x @ lora_a.T @ lora_b.T)",
        ),
        (
            "new token left out",
            'convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])',
            'convert_tokens_to_ids(["<|im_start|>"])',
        ),
        ("end not ignored", "masked_fill(is_end, -100)", "masked_fill(is_end, end_of_turn)"),
        (
            "failure without its cause",
            "parameters = lora.lora_parameters(rowless)",
            "parameters = [*lora.lora_parameters(rowless), lora.train_token_rows(rowless, [1, 2])]",
        ),
    ],
    "03": [
        (
            "sign of the loss",
            "loss = ((0.5 * error - objective) * mask)",
            "loss = ((0.5 * error + objective) * mask)",
        ),
        (
            "sign of the price",
            "r = -beta * (old_logp - ref_logp) * mask",
            "r = beta * (old_logp - ref_logp) * mask",
        ),
        ("surprise", "r[:, t] + next_V - old_V[:, t]", "r[:, t] - next_V + old_V[:, t]"),
        (
            "mask dropped",
            "(0.5 * error - objective) * mask).sum()",
            "(0.5 * error - objective)).sum()",
        ),
        ("learning rate 0", "eps=0.2, rate=2e-4", "eps=0.2, rate=0.0"),
        (
            "maximum in the clip",
            "objective = torch.min(rho * white",
            "objective = torch.max(rho * white",
        ),
        ("ratio turned round", "(logp - old_logp).exp()", "(old_logp - logp).exp()"),
        (
            "log-probs behind the end",
            "log_pi.gather(1, ids)[:, 0] * goes_on",
            "log_pi.gather(1, ids)[:, 0]",
        ),
        (
            "positions",
            "(attention.cumsum(1) - 1).clamp(min=0)",
            "attention.cumsum(1)",
        ),
        (
            "reward shuffled",
            "scores = scores_of(r)  # 2",
            "scores = scores_of(r)[torch.randperm(len(r.texts))]  # 2",
        ),
        (
            "learning rate 0 in the long run",
            "    learning_rate: float = 2e-4",
            "    learning_rate: float = 0.0",
        ),
        (
            "reference = policy",
            "self.stop_ids = end_of_turn",
            "self.stop_ids, self.reference = end_of_turn, self.policy",
        ),
        (
            "sign of the entropy term",
            "policy_loss - c.entropy_coef * entropy",
            "policy_loss + c.entropy_coef * entropy",
        ),
        (
            "wrong stop token",
            'convert_tokens_to_ids("<|im_end|>")',
            'convert_tokens_to_ids("<|im_start|>")',
        ),
    ],
    "02": [
        (
            "sign of the loss",
            "loss = -nn.functional.logsigmoid(r_w - r_l)",
            "loss = nn.functional.logsigmoid(r_w - r_l)",
        ),
        (
            "learning rate 0",
            "first_learning_rate: float = 1e-3",
            "first_learning_rate: float = 0.0",
        ),
        ("wrong token", "last = mask.sum(1) - 1", "last = mask.sum(1) - 2"),
        ("order swapped", "return r[0::2], r[1::2]", "return r[1::2], r[0::2]"),
        (
            "sign of the loss",
            "r[better], r[worse], center_coef=",
            "r[worse], r[better], center_coef=",
        ),
        ("learning rate 0", " learning_rate: float = 2e-3", " learning_rate: float = 0.0"),
        ("worst of N", "order = key.argsort(1)", "order = key.argsort(1, descending=True)"),
        ("wrong chances", "math.comb(i, n - 1)", "math.comb(i, n)"),
        ("temperature inverted", "calibration((d / t).sigmoid()", "calibration((d * t).sigmoid()"),
        (
            "labels shuffled",
            "numbers = (torch.tensor(truth),",
            "numbers = (torch.tensor(truth)[torch.randperm(len(truth))],",
        ),
        (
            "centring lost",
            "bradley_terry_loss(r_w + 100, r_l + 100, center_coef=0.05)",
            "bradley_terry_loss(r_w + 100, r_l + 100)",
        ),
        ("length bias turned", "rng.random() < 0.8", "rng.random() < 0.2"),
        (
            "stop token",
            'convert_tokens_to_ids("<|im_end|>")',
            'convert_tokens_to_ids("<|im_start|>")',
        ),
    ],
    "05": [
        (
            "sign of the loss",
            "-torch.min(ratio * A, clipped * A) * r.mask",
            "torch.min(ratio * A, clipped * A) * r.mask",
        ),
        (
            "sign of the advantage",
            "A = ((rewards - mean) / (std + 1e-4)).view(-1, 1)",
            "A = ((mean - rewards) / (std + 1e-4)).view(-1, 1)",
        ),
        ("learning rate 0", "clip_eps=0.2, learning_rate=4e-4", "clip_eps=0.2, learning_rate=0.0"),
        ("old and new swapped", "ratio = (new - old).exp()", "ratio = (old - new).exp()"),
        (
            "mask dropped",
            "objective = torch.min(ratio * A, clipped * A) * mask",
            "objective = torch.min(ratio * A, clipped * A)",
        ),
        (
            "reward shuffled",
            "rewards = reward_of(examples, r)  # 2 (B,)",
            "rewards = reward_of(examples, r)[torch.randperm(len(r.texts))]  # 2 (B,)",
        ),
        (
            "groups mixed up",
            "torch.arange(len(r.mask)).view(-1, r.group_size)",
            "torch.arange(len(r.mask)).view(r.group_size, -1).T.contiguous()",
        ),
        (
            "learning rate 0 in the long run",
            'optimizer.param_groups[0]["lr"] = rate',
            'optimizer.param_groups[0]["lr"] = 0 * rate',
        ),
        (
            "wrong stop token",
            'convert_tokens_to_ids("<|endoftext|>")',
            'convert_tokens_to_ids("<|im_end|>")',
        ),
        ("hole in the reward", "form and said.strip() == gold", "form"),
        (
            "reward for any number",
            "float(rules.extract_hash_answer(text) == gold) for text, gold in pairs",
            "float(rules.extract_hash_answer(text) is not None) for text, gold in pairs",
        ),
        (
            "loss of the SFT",
            "loss = -lp.masked_mean(lp.gather_logprobs",
            "loss = lp.masked_mean(lp.gather_logprobs",
        ),
        ("rule turned round", "at_its_best and right > wrong", "at_its_best and right < wrong"),
    ],
    "04": [
        (
            "sign of the loss",
            "loss = -logsigmoid(beta * ((pi_w - ref_w)",
            "loss = logsigmoid(beta * ((pi_w - ref_w)",
        ),
        (
            "sign of the logit",
            "return dpo_loss(pi_w, pi_l, ref_w, ref_l, beta=config.beta)[0]",
            "return dpo_loss(pi_l, pi_w, ref_l, ref_w, beta=config.beta)[0]",
        ),
        ("mask dropped", "return (token * counted[:, 1:]).sum(1)", "return token.sum(1)"),
        (
            "shift",
            "logits = model(ids, attention_mask=real.long()).logits[:, :-1]",
            "logits = model(ids, attention_mask=real.long()).logits[:, 1:]",
        ),
        ("learning rate 0", "first_rate: float = 3e-4", "first_rate: float = 0.0"),
        (
            "pairs shuffled",
            "return sums[0::2], sums[1::2]",
            "return sums[: len(batch)], sums[len(batch) :]",
        ),
        ("labels flipped", "if known[a] > known[b]]", "if known[a] < known[b]]"),
        (
            "reference not used",
            "done[pair] = replace(pair, ref_chosen=w, ref_rejected=v)",
            "done[pair] = replace(pair, ref_chosen=w, ref_rejected=w)",
        ),
        ("reference = policy", "scaling = 0.0", "scaling = layer.scaling"),
        (
            "stop token",
            'end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")',
            'end_of_turn = tokenizer.convert_tokens_to_ids("<|im_start|>")',
        ),
        (
            "closed form",
            "weights = reference * (reward / beta).exp()",
            "weights = reference * (reward * beta).exp()",
        ),
        (
            "control lost",
            "mixed = written_pairs([corrupted, misspelt])",
            "mixed = written_pairs([corrupted])",
        ),
        (
            "sign of the NLL term",
            "return -(pi_w / lengths).mean()",
            "return (pi_w / lengths).mean()",
        ),
        (
            "learning rate 0 in the long run",
            'optimizer.param_groups[0]["lr"] = config.learning_rate * share',
            'optimizer.param_groups[0]["lr"] = 0.0 * share',
        ),
        ("gradient of a step", "g_w @ g_w - g_w @ g_l).item()", "g_w @ g_w + g_w @ g_l).item()"),
    ],
}

MISTAKES = [Mistake(lesson, *mistake) for lesson, mistakes in TABLE.items() for mistake in mistakes]
