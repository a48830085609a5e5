"""The single-point mistakes of `make mutants`: the tests must catch them.

TABLE: file -> the tests to run, below tests/, and its mistakes. A mistake is its kind
(one of KINDS), the text to replace, which must occur exactly once in the file, and the new text. A
fourth entry says why no test sees the mistake; only a survivor has one.
"""

from dataclasses import dataclass

KINDS = (
    "arguments",
    "axis",
    "condition",
    "constant",
    "detach",
    "mask",
    "mean/sum",
    "min/max",
    "off by one",
    "shift",
    "sign",
    "term",
)

LOSSES = "utils/test_losses.py", "parity/test_edges.py"
PAIRS = "utils/test_dpo_loss.py", "parity/test_edges.py"

TABLE: dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]] = {
    "utils/losses/policy.py": (
        (*LOSSES, "parity/test_trl_ppo.py"),
        [
            ("sign", "loss = -masked_mean", "loss = masked_mean"),
            ("sign", "log_ratio = logprobs - old_logprobs", "log_ratio = old_logprobs - logprobs"),
            ("min/max", "torch.min(unclipped, clipped)", "torch.max(unclipped, clipped)"),
            ("constant", "ratio.clamp(1 - clip_eps,", "ratio.clamp(1 - 2 * clip_eps,"),
            ("detach", "old_logprobs=old_logprobs.detach()", "old_logprobs=old_logprobs"),
            ("detach", "advantages=advantages.detach()", "advantages=advantages"),
            ("constant", "MAX_LOG_RATIO = 80.0", "MAX_LOG_RATIO = 90.0"),
            ("condition", "clipped < unclipped", "clipped <= unclipped"),
            ("sign", "log_ratio.expm1() - log_ratio", "log_ratio.expm1() + log_ratio"),
            ("min/max", "worse = torch.max(", "worse = torch.min("),
            ("constant", "0.5 * masked_mean(worse", "1.0 * masked_mean(worse"),
            ("detach", "old_values=old_values.detach()", "old_values=old_values"),
            ("detach", "returns=returns.detach()", "returns=returns"),
            (
                "arguments",
                "values.clamp(old_values - clip_eps, old_values + clip_eps)",
                "old_values.clamp(values - clip_eps, values + clip_eps)",
            ),
            ("condition", "(worse > error)", "(worse >= error)"),
            ("off by one", "returns.var(correction=0)", "returns.var(correction=1)"),
            ("mask", "values[mask.bool()], returns[mask.bool()]", "values, returns"),
        ],
    ),
    "utils/losses/preference.py": (
        (*LOSSES, "parity/test_trl_reward.py"),
        [
            ("sign", "difference = chosen - rejected", "difference = rejected - chosen"),
            ("sign", "else difference - margin", "else difference + margin"),
            ("mean/sum", "difference - margin).mean()", "difference - margin).sum()"),
            ("sign", "center_coef * (chosen + rejected)", "center_coef * (chosen - rejected)"),
            (
                "mean/sum",
                "(chosen + rejected).square().mean()",
                "(chosen + rejected).square().sum()",
            ),
            ("condition", "(difference > 0)", "(difference >= 0)"),
        ],
    ),
    "utils/losses/supervised.py": (
        LOSSES,
        [
            ("mask", "kept = targets != IGNORE", "kept = targets != 10**9"),
            ("sign", "loss = -gather_logprobs", "loss = gather_logprobs"),
            ("mean/sum", "(predictions, targets).mean()", "(predictions, targets).sum()"),
            ("min/max", "predictions.argmax(-1)", "predictions.argmin(-1)"),
            ("arguments", "float(targets.numel())", "float(labels.numel())"),
        ],
    ),
    "utils/losses/dpo.py": (
        (*PAIRS, "parity/test_trl_dpo.py"),
        [
            (
                "arguments",
                "return policy_chosen - ref_chosen, policy_rejected - ref_rejected",
                "return policy_chosen - ref_rejected, policy_rejected - ref_chosen",
            ),
            ("sign", "beta * (chosen - rejected)", "beta * (rejected - chosen)"),
            ("detach", "ref_chosen=ref_chosen.detach()", "ref_chosen=ref_chosen"),
            ("detach", "ref_rejected=ref_rejected.detach()", "ref_rejected=ref_rejected"),
            ("mean/sum", "(chosen - rejected)).mean()", "(chosen - rejected)).sum()"),
            (
                "condition",
                "(chosen_reward > rejected_reward)",
                "(chosen_reward >= rejected_reward)",
            ),
            (
                "arguments",
                "beta * chosen.detach(), beta * rejected.detach()",
                "chosen.detach(), rejected.detach()",
            ),
        ],
    ),
    "relatives/dpo.py": (
        (*PAIRS, "parity/test_trl_dpo.py"),
        [
            ("sign", "z = beta * (chosen - rejected)", "z = beta * (rejected - chosen)"),
            ("constant", "1 / (2 * beta)", "1 / beta"),
            ("arguments", "rejected / rejected_lengths", "rejected / chosen_lengths"),
            ("arguments", "chosen / chosen_lengths", "chosen * chosen_lengths"),
            ("condition", "(n < 1).any()", "(n < 0).any()"),
            ("off by one", "F.relu(1 - z)", "F.relu(-z)"),
            ("sign", "F.relu(-chosen)", "F.relu(chosen)"),
            ("term", "z - beta * dpop_lambda", "z - dpop_lambda"),
            (
                "sign",
                "= -label_smoothing * F.logsigmoid(-z)",
                "= -label_smoothing * F.logsigmoid(z)",
            ),
            ("sign", "-(1 - label_smoothing) *", "-(1 + label_smoothing) *"),
            ("sign", "(as_labelled - flipped)", "(as_labelled + flipped)"),
            ("constant", "(1 - 2 * label_smoothing)", "(1 - label_smoothing)"),
            (
                "mean/sum",
                "flipped\n    loss = losses.mean()",
                "flipped\n    loss = losses.sum()",
            ),
            (
                "arguments",
                "losses.mean()\n    return loss, pair_metrics(loss, beta * chosen.detach(), beta *",
                "losses.mean()\n    return loss, pair_metrics(loss, chosen.detach(), beta *",
            ),
            ("sign", "nll - beta * F", "nll + beta * F"),
            ("sign", "mean - (-torch", "mean + (-torch"),
            ("arguments", "nll = -chosen.mean()", "nll = -rejected.mean()"),
            ("term", "mean = mean.clamp(max=-torch.finfo(mean.dtype).eps)", "pass"),
            ("sign", "rejected) - gamma)", "rejected) + gamma)"),
            (
                "term",
                "(beta * (chosen - rejected) - gamma)",
                "(beta * (chosen - rejected - gamma))",
            ),
            ("term", "    kl = kl.clamp(min=0)\n", ""),
            ("detach", "device=policy.device).detach()", "device=policy.device)"),
            ("detach", "ref=ref.detach())", "ref=ref)"),
            ("sign", "beta * (kl - log_ratio)", "beta * (log_ratio - kl)"),
            (
                "arguments",
                "undesirable_weight * torch.sigmoid",
                "desirable_weight * torch.sigmoid",
            ),
            (
                "mean/sum",
                "loss = losses.mean()\n    reward",
                "loss = losses.sum()\n    reward",
            ),
            ("condition", "reward[~desirable]", "reward[desirable.roll(1)]"),
            ("detach", "chosen_kl=chosen_kl.detach()", "chosen_kl=chosen_kl"),
            ("sign", "(rejected_kl - chosen_kl)", "(rejected_kl + chosen_kl)"),
            ("sign", "rejected - brake", "rejected + brake"),
            ("sign", "ref - policy)", "policy - ref)"),
            ("detach", "(ref_logits.detach(), logits)", "(ref_logits, logits)"),
            ("arguments", "probs = ref.exp()", "probs = policy.exp()"),
            ("mask", "torch.where(kept, full", "torch.where(kept | True, full"),
            ("term", "torch.where(probs == 0, 0.0, ref - policy)", "ref - policy"),
            ("axis", ".sum(-1), mask, dim=1)", ".sum(-1), mask, dim=0)"),
        ],
    ),
    "utils/losses/grpo.py": (
        ("utils/test_grpo_loss.py", "parity/test_edges.py", "parity/test_trl_grpo.py"),
        [
            ("sign", "= -torch.min(", "= torch.min("),
            ("min/max", "-torch.min(unclipped", "-torch.max(unclipped"),
            ("constant", "ratio.clamp(1 - clip_eps,", "ratio.clamp(1 - 2 * clip_eps,"),
            ("sign", "token_loss + beta * kl", "token_loss - beta * kl"),
            ("condition", "    if beta > 0:  #", "    if ref_logprobs is not None:  #"),
            ("sign", "(logprobs - ref_logprobs).clamp", "(ref_logprobs - logprobs).clamp"),
            ("detach", "ref_logprobs=ref_logprobs.detach()", "ref_logprobs=ref_logprobs"),
            ("detach", "old_logprobs=old_logprobs.detach()", "old_logprobs=old_logprobs"),
            ("detach", "advantages.detach().unsqueeze(1)", "advantages.unsqueeze(1)"),
            ("sign", ".clamp(min=-MAX_LOG_RATIO)", ".clamp(max=MAX_LOG_RATIO)"),
            (
                "mean/sum",
                "completion_means(token_loss, mask).mean()",
                "masked_mean(token_loss, mask)",
            ),
            ("off by one", ".sum(1).clamp(min=1)", ".sum(1).clamp(min=2)"),
            ("off by one", ".sum(1).clamp(min=1)", ".sum(1)"),
            ("condition", "clipped < unclipped", "clipped != unclipped"),
        ],
    ),
    "relatives/grpo.py": (
        ("utils/test_grpo_loss.py", "parity/test_edges.py", "parity/test_trl_grpo.py"),
        [
            ("sign", "= -torch.min(", "= torch.min("),
            (
                "constant",
                "ratio.clamp(1 - clip_eps, 1 + clip_eps_high)",
                "ratio.clamp(1 - clip_eps, 1 + clip_eps)",
            ),
            ("sign", "token_loss + beta * kl", "token_loss - beta * kl"),
            ("detach", "old_logprobs=old_logprobs.detach()", "old_logprobs=old_logprobs"),
            ("detach", "advantages.detach().unsqueeze(1)", "advantages.unsqueeze(1)"),
            (
                "mean/sum",
                "completion_means(token_loss, mask).mean()",
                "masked_mean(token_loss, mask)",
            ),
            ("off by one", "(len(mask) * max_completion_length)", "mask.numel()"),
            (
                "mask",
                "(len(mask) * max_completion_length)",
                "(mask.bool().any(1).sum() * max_completion_length)",
            ),
            (
                "constant",
                "masked_sum(token_loss, mask) / num_items",
                "masked_mean(token_loss, mask)",
            ),
            (
                "mean/sum",
                "completion_means(log_ratio, mask)",
                "masked_sum(log_ratio, mask, dim=1)",
            ),
            (
                "axis",
                "completion_means(log_ratio, mask).unsqueeze(1)",
                "masked_mean(log_ratio, mask).unsqueeze(0)",
            ),
            ("arguments", "(loss, log_ratio, ratio,", "(loss, used, ratio,"),
            ("condition", "clipped < unclipped", "clipped != unclipped"),
        ],
    ),
    "utils/advantages.py": (
        (
            "utils/test_advantages.py",
            "utils/test_group_advantages.py",
            "parity/test_edges.py",
            "parity/test_trl_ppo.py",
        ),
        [
            ("sign", "torch.where(kept, -kl_coef", "torch.where(kept, kl_coef"),
            (
                "mask",
                "kept, -kl_coef * k1(logprobs, ref_logprobs), 0.0)",
                "kept | True, -kl_coef * k1(logprobs, ref_logprobs), 0.0)",
            ),
            ("arguments", "k1(logprobs, ref_logprobs)", "k1(ref_logprobs, logprobs)"),
            ("min/max", "positions, -1).amax(1", "positions, 99).amin(1"),
            ("off by one", "torch.where(positions == last,", "torch.where(positions == last - 1,"),
            ("sign", "gamma * next_value - values[:, t]", "gamma * next_value + values[:, t]"),
            ("term", "+ gamma * next_value", "+ next_value"),
            ("term", "delta + gamma * lam * next_advantage", "delta + lam * next_advantage"),
            ("off by one", "reversed(range(kept.shape[1]))", "reversed(range(1, kept.shape[1]))"),
            ("mask", "advantage, next_advantage)", "advantage, 0.5 * next_advantage)"),
            (
                "mask",
                "next_value = torch.where(kept[:, t], values[:, t], next_value)",
                "next_value = values[:, t]",
            ),
            (
                "sign",
                "torch.where(kept, advantages + values, 0.0)",
                "torch.where(kept, advantages - values, 0.0)",
            ),
            (
                "mask",
                "advantages, torch.where(kept, advantages + values, 0.0)",
                "advantages, advantages + values",
            ),
            (
                "axis",
                "groups - groups.mean(1, keepdim=True)",
                "groups - groups.mean(0, keepdim=True)",
            ),
            ("axis", "rewards.view(-1, group_size)", "rewards.view(group_size, -1).T"),
            ("constant", "STD_EPS = 1e-4", "STD_EPS = 1e-2"),
            (
                "off by one",
                "groups.std(1, keepdim=True)",
                "groups.std(1, correction=0, keepdim=True)",
            ),
            ("term", "    centred = torch.where(equal, 0.0, centred)\n", ""),
            (
                "arguments",
                "centred / (groups.std() + STD_EPS)",
                "centred / (centred.std() + STD_EPS)",
            ),
        ],
    ),
    "relatives/advantages.py": (
        ("utils/test_group_advantages.py", "parity/test_edges.py"),
        [
            ("off by one", "group_size / (group_size - 1)", "(group_size - 1) / group_size"),
            ("arguments", "(rewards, rewards.numel())", "(rewards, 2)"),
        ],
    ),
    "relatives/samplers.py": (
        ("utils/test_logprobs.py",),
        [
            ("sign", "logprobs - sampler_logprobs", "sampler_logprobs - logprobs"),
            ("detach", ").detach().masked_fill(", ").masked_fill("),
            ("min/max", "clamp(max=limit)", "clamp(min=limit)"),
            ("mask", ".masked_fill(mask == 0, 0.0)", ""),
        ],
    ),
    "utils/kl.py": (
        ("utils/test_kl.py", "parity/test_gradients.py"),
        [
            (
                "sign",
                'Often negative."""\n    return logprobs - ref_logprobs',
                'Often negative."""\n    return ref_logprobs - logprobs',
            ),
            ("constant", ".square() / 2", ".square()"),
            (
                "sign",
                "r = logprobs - ref_logprobs\n    return",
                "r = ref_logprobs - logprobs\n    return",
            ),
            ("sign", "expm1(-r) + r  #", "expm1(-r) - r  #"),
            ("off by one", "torch.expm1(-r)", "torch.exp(-r)"),
            ("constant", "torch.expm1(-r)", "(torch.exp(-r) - 1)"),
            ("sign", "kl / self.target - 1", "1 - kl / self.target"),
            (
                "min/max",
                "min(max(kl / self.target - 1, -0.2), 0.2)",
                "max(min(kl / self.target - 1, -0.2), 0.2)",
            ),
            ("term", "0.2) * n_samples / self.horizon", "0.2) / self.horizon"),
        ],
    ),
    "utils/arguments.py": (
        ("utils/test_arguments.py", "utils/test_losses.py", "utils/test_dpo_loss.py"),
        [
            ("mask", "torch.where(mask.bool(), full", "torch.where(mask.bool() | True, full"),
            ("constant", "torch.promote_types(x.dtype, torch.float32)", "x.dtype"),
            ("condition", "if x.shape != mask.shape:", "if x.ndim != mask.ndim:"),
            ("condition", "if x.shape != mask.shape[:1]:", "if len(x) != len(mask):"),
            ("axis", "mask.bool().any(1)", "mask.bool().all(1)"),
            ("condition", "not number > 0", "not number >= 0"),
            ("condition", "not number >= 0", "number < 0"),
        ],
    ),
    "utils/forward.py": (
        ("utils/test_logprobs.py", "utils/test_values.py"),
        [
            (
                "off by one",
                "(attention_mask.long().cumsum(1) - 1)",
                "attention_mask.long().cumsum(1)",
            ),
            (
                "mask",
                "attention_mask.long().cumsum(1)",
                "torch.ones_like(attention_mask).long().cumsum(1)",
            ),
            (
                "arguments",
                "first.repeat_interleave(group_size, dim=0)",
                "first.repeat(group_size, 1, 1)",
            ),
            ("shift", "completion_ids[rows, :width]", "completion_ids[rows, 1 : width + 1]"),
            ("off by one", "group_size, dim=0) + 1  # (B, 1)", "group_size, dim=0)"),
            ("off by one", "lengths[rows].max()) - 1", "lengths[rows].max()) - 2"),
            (
                "arguments",
                "layer.keys.index_select(0, rows)",
                "layer.keys.index_select(0, rows.flip(0))",
            ),
            (
                "arguments",
                "layer.values.index_select(0, rows)",
                "layer.values.index_select(0, rows.flip(0))",
            ),
            ("arguments", "said[rows, 1 : width + 1]", "said[rows.sort()[0], 1 : width + 1]"),
            ("shift", "completion_ids[rows, 1 : width + 1])", "completion_ids[rows, :width])"),
            ("shift", "completion_ids[:, :1])", "completion_ids[:, -1:])"),
            (
                "mask",
                "mask[rows, :width].long()], dim=1",
                "torch.ones_like(mask[rows, :width]).long()], dim=1",
                "padding on the right stands behind every token that counts: causal attention "
                "does not look at it",
            ),
            (
                "mask",
                "[prompt_mask[rows], mask",
                "[torch.ones_like(prompt_mask[rows]), mask",
            ),
        ],
    ),
    "utils/logprobs.py": (
        ("utils/test_logprobs.py", "parity/test_trl_logprobs.py", "parity/test_edges.py"),
        [
            ("shift", "return logits[:, :-1], ids[:, 1:]", "return logits[:, 1:], ids[:, :-1]"),
            ("shift", "return logits[:, :-1], ids[:, 1:]", "return logits, ids"),
            (
                "term",
                "torch.log_softmax(full_precision(logits), dim=-1)\n    return logprobs.gather",
                "torch.log_softmax(logits, dim=-1)\n    return logprobs.gather",
            ),
            (
                "term",
                "torch.log_softmax(full_precision(logits), dim=-1)\n    return logprobs.gather",
                "full_precision(logits).softmax(-1).log()\n    return logprobs.gather",
            ),
            ("mask", "attention_mask[rows].any(0)", "attention_mask[rows].all(0)"),
            ("off by one", "int(used[-1]) + 1)", "int(used[-1]))"),
            ("off by one", "slice(int(used[0])", "slice(int(used[0]) + 1"),
            (
                "arguments",
                "last_hidden_state, labels[rows, columns]",
                "last_hidden_state, input_ids[rows, columns]",
            ),
            (
                "mask",
                "            attention_mask=mask,\n",
                "",
            ),
            (
                "mask",
                "position_ids=positions(mask)",
                "position_ids=positions(torch.ones_like(mask))",
            ),
            ("arguments", "else logits / temperature", "else logits * temperature"),
            ("condition", "logits if temperature == 1", "logits if temperature <= 1"),
            ("mask", "torch.where(inputs[-1].bool().unsqueeze(-1), both, 0.0)", "both"),
            ("detach", "logprobs if entropy_gradient", "logprobs if not entropy_gradient"),
            ("mask", "torch.where(mask.bool(), logprobs, 0.0)", "logprobs"),
            ("sign", "return -(logprobs.exp()", "return (logprobs.exp()"),
            ("term", "logprobs.clamp(min=torch.finfo(logprobs.dtype).min)", "logprobs"),
            ("mask", "kept = torch.where(mask.bool(), x, 0.0)", "kept = x * mask.bool()"),
            (
                "axis",
                "count = mask.bool().sum() if dim is None else mask.bool().sum(dim)",
                "count = mask.bool().sum()",
            ),
            (
                "mean/sum",
                "return total / count",
                "return masked_sum(x, mask, dim) / mask.numel()",
            ),
            ("off by one", "sum() / (count - 1)", "sum() / count"),
            ("constant", "(count - 1) + 1e-8)", "(count - 1) + 1e-3)"),
        ],
    ),
    "utils/rollout.py": (
        ("utils/test_rollout.py",),
        [
            ("term", "chances = 1 - chances.uniform_", "chances = chances.uniform_"),
            ("term", "uniform_(generator=generator)", "uniform_(generator=None)"),
            ("condition", "if temperature > 0:", "if temperature >= 0:"),
            ("constant", "max(1, max_batch // group_size)", "max(1, max_batch)"),
            ("arguments", "stop_ids or stop_token_ids(tokenizer)", "stop_token_ids(tokenizer)"),
            (
                "arguments",
                "chances[i : i + size], temperature",
                "chances[:size], temperature",
            ),
            ("term", "model.train(training)", "model.train()"),
            ("condition", "if logprobs.isnan().any():", "if logprobs.isnan().all():"),
            ("off by one", "(mask.sum(1) - finished.long())", "mask.sum(1)"),
            ("mask", "completion_ids.masked_fill(~mask, pad_id)", "completion_ids"),
            ("mask", "logprobs=logprobs.masked_fill(~mask, 0.0)", "logprobs=logprobs"),
            ("condition", "longest + max_new_tokens > context", "longest > context"),
            (
                "arguments",
                "output.logits[:, -1].repeat_interleave(group_size, dim=0)",
                "output.logits[:, -1].repeat(group_size, 1)",
            ),
            (
                "mask",
                "position_ids=positions(mask)",
                "position_ids=positions(torch.ones_like(mask))",
            ),
            (
                "arguments",
                "temperature, chances[rows, step])",
                "temperature, chances[: len(rows), step])",
            ),
            (
                "off by one",
                "position_ids=start[rows] + step",
                "position_ids=start[rows] + step + 1",
            ),
            ("arguments", "position_ids=start[rows]", "position_ids=start[: len(rows)]"),
            ("off by one", ": width + step + 1]", ": width + step]"),
            ("mask", "ended = ended | torch.isin", "ended = torch.isin"),
            ("off by one", "step == length - 1:", "step == length - 2:"),
            (
                "term",
                "cache.batch_select_indices(going)",
                "cache.batch_select_indices(going.flip(0))",
            ),
            ("arguments", "rows[going], token[going]", "rows[going], token[: len(going)]"),
            ("arguments", "full_precision(logits) / (temp", "full_precision(logits) * (temp"),
            ("term", "full_precision(logits) / (temp", "logits / (temp"),
            ("min/max", "logprobs.argmax(dim=-1)", "logprobs.argmin(dim=-1)"),
            (
                "term",
                "cumsum(dim=-1, dtype=torch.float64)",
                "cumsum(dim=-1).double()",
            ),
            ("term", "chances[:, None] * summed[:, -1:])", "chances[:, None])"),
            ("condition", "summed[:, -1:])\n", "summed[:, -1:], right=True)\n"),
            (
                "shift",
                "tokens = reached[:, 0].clamp(max",
                "tokens = (reached[:, 0] + 1).clamp(max",
            ),
            ("off by one", "stopped.cumsum(1) - stopped.long() == 0", "stopped.cumsum(1) == 0"),
        ],
    ),
    "utils/cache.py": (
        ("utils/test_rollout.py",),
        [
            (
                "condition",
                "if type(layer) is DynamicLayer",
                "if type(layer) is not DynamicLayer",
            ),
            ("term", "model.set_attn_implementation(before)", "pass"),
            (
                "axis",
                "query.reshape(batch, key.shape[1], -1, width)",
                "query.reshape(batch, -1, key.shape[1], width).transpose(1, 2)",
            ),
            ("term", "attn_mask=attention_mask, scale=scaling", "scale=scaling"),
            (
                "off by one",
                "room[:, :, start:end] = states",
                "room[:, :, start - 1 : end - 1] = states",
            ),
            (
                "off by one",
                "if end > self.rooms[0].shape[2]",
                "if end > self.rooms[0].shape[2] + 1",
            ),
            (
                "arguments",
                "room.index_select(0, indices)",
                "room.index_select(0, indices.flip(0))",
            ),
            ("min/max", "max(CACHE_BLOCK, end - start)", "min(CACHE_BLOCK, end - start)"),
        ],
    ),
    "relatives/lora.py": (
        ("utils/test_lora.py",),
        [
            ("arguments", "self.scaling = alpha / rank", "self.scaling = rank / alpha"),
            ("constant", "self.scaling = alpha / rank", "self.scaling = alpha"),
            ("constant", "weight.new_zeros(base.out", "0.01 * weight.new_ones(base.out"),
            ("constant", "a=math.sqrt(5)", "a=0"),
            ("term", "base.requires_grad_(False)", "base"),
            (
                "arguments",
                "self.dropout(x.to(self.lora_a.dtype)) @ self.lora_a.T",
                "self.dropout(x.to(self.lora_a.dtype) @ self.lora_a.T)",
            ),
            ("constant", "self.lora_b.T)).to(h.dtype)", "self.lora_b.T).to(h.dtype))"),
            ("sign", "weight.to(update.dtype) + update", "weight.to(update.dtype) - update"),
            ("term", "update = self.scaling * (", "update = ("),
            (
                "constant",
                "weight.copy_(weight.to(update.dtype) + update)",
                "weight.add_(update.to(weight.dtype))",
            ),
            ("term", "wrapped.train(linear.training)", "wrapped.train()"),
            (
                "condition",
                'any(f".{n}".endswith(f".{t}") for t in targets)',
                "any(n.endswith(t) for t in targets)",
            ),
            ("condition", "in everywhere) > 1", "in everywhere) > 2"),
            ("term", "    model.requires_grad_(False)\n", ""),
            ("term", "return model.requires_grad_(True)", "return model"),
            ("mask", "gradient * kept)", "gradient)"),
        ],
    ),
    "utils/chat.py": (
        ("utils/test_chat.py",),
        [
            (
                "mask",
                "[0] * len(prompt) + [1] * len(answer)",
                "[1] * len(prompt) + [1] * len(answer)",
            ),
            ("term", "split_special_tokens=True", "split_special_tokens=False"),
            ("term", "completion), *_closing(tokenizer)]", "completion)]"),
            (
                "arguments",
                '{"system": system, "user": user_text}',
                '{"user": user_text, "system": system}',
            ),
            (
                "arguments",
                "slots, tokenize=False, add_generation_prompt=True",
                "slots, tokenize=False",
            ),
            (
                "arguments",
                "slots, tokenize=False, add_generation_prompt=True",
                "texts, tokenize=False, add_generation_prompt=True",
            ),
            ("arguments", "tokenizer.chat_template or CHAT_TEMPLATE", "CHAT_TEMPLATE"),
            ("term", "if token.special} |", "if str(token) in (START, END)} |"),
            ("min/max", "sorted(control, key=len)[::-1]", "sorted(control, key=len)"),
            ("off by one", "control = i % 2 == 1", "control = i % 2 == 0"),
            ("condition", "if harmless and ids != ", "if ids != "),
            ("condition", "if harmless and ids != ", "if False and ids != "),
            (
                "term",
                "[*_plain(tokenizer, before), _token_id(tokenizer, ending[0])]",
                "[_token_id(tokenizer, ending[0])]",
            ),
            ("condition", "length > max_length", "length >= max_length"),
            (
                "mask",
                "masked_fill(completion_mask == 0, IGNORE)",
                "masked_fill(input_ids == pad_id, IGNORE)",
            ),
            ("mask", "mask[i, columns] = 1", "mask[i] = 1"),
            (
                "shift",
                "labels = input_ids.masked_fill",
                "labels = input_ids.roll(-1, 1).masked_fill",
            ),
            ("arguments", "length) if left else slice", "length) if not left else slice"),
            ("off by one", "columns = slice(length - len(row),", "columns = slice(length - 1,"),
            ("arguments", "_pad(prompts, pad_id, left=True)", "_pad(prompts, pad_id)"),
            (
                "arguments",
                "return [_token_id(tokenizer, END), _token_id(tokenizer, END_OF_TEXT)]",
                "return [_token_id(tokenizer, END)]",
            ),
        ],
    ),
    "utils/values.py": (
        ("utils/test_values.py",),
        [
            ("min/max", "columns, -1).amax(1", "columns, 99).amin(1"),
            ("shift", "more_ids, more_mask)[:, 1:]", "more_ids, more_mask)[:, :-1]"),
            (
                "arguments",
                "[torch.ones_like(mask[:, :1]), mask]",
                "[mask, torch.ones_like(mask[:, :1])]",
            ),
            ("off by one", "states[:, -1:] if last_only", "states[:, :1] if last_only"),
            ("mask", "torch.where(mask != 0, columns", "torch.where(mask == mask, columns"),
            (
                "constant",
                "full_precision(model.score(states)[..., 0])",
                "model.score(states)[..., 0]",
            ),
            ("mask", "torch.where(mask.bool(), full", "torch.where(mask == mask, full"),
        ],
    ),
    "utils/evaluate.py": (
        ("utils/test_evaluate.py",),
        [
            ("constant", "p + z * z / (2 * n)", "p + z * z / n"),
            ("constant", "z * z / (4 * n * n)", "z * z / (4 * n)"),
            ("sign", "max(0.0, (centre - half) / scale)", "max(0.0, (centre + half) / scale)"),
            ("min/max", "max(0.0, (centre - half) / scale)", "min(0.0, (centre - half) / scale)"),
            ("sign", "1 - math.comb(n - c, k)", "1 + math.comb(n - c, k)"),
            ("arguments", "math.comb(n - c, k)", "math.comb(c, k)"),
            (
                "condition",
                "scores[labels == 1], scores[labels == 0]",
                "scores[labels == 0], scores[labels == 1]",
            ),
            ("term", "(wrong, right, right=True)", "(wrong, right)"),
            ("off by one", "range(len(w) - n + 1)", "range(len(w) - n)"),
            ("sign", "total -= gather_logprobs", "total += gather_logprobs"),
            ("mean/sum", "tokens += len(labels)", 'tokens += batch["labels"].numel()'),
            (
                "arguments",
                "score_fn(row // group_size, text)",
                "score_fn(row % len(prompts), text)",
            ),
            (
                "arguments",
                "wilson_interval(accuracy * size, size)",
                "wilson_interval(sum(scores), len(scores))",
            ),
            ("axis", "view(size, group_size)", "view(group_size, size).T"),
            ("term", "samples if temperature > 0 else 1", "samples"),
        ],
    ),
    "utils/monitor.py": (
        ("utils/test_monitor.py",),
        [
            ("term", ', f"weight {name}": weight}', "}"),
            ("condition", "not x.isfinite().all()]", "x.isnan().any()]"),
            ("term", "if x is not None}", "if x}"),
            ("sign", "key=lambda finding: finding.step)", "key=lambda finding: -finding.step)"),
            (
                "off by one",
                "self.caught.append([len(self.history),",
                "self.caught.append([len(self.history) - 1,",
            ),
            (
                "detach",
                'copy.deepcopy((state["history"], state["caught"]))',
                '(state["history"], state["caught"])',
            ),
            (
                "detach",
                'return copy.deepcopy({"history": self.history, "caught": self.caught})',
                'return {"history": self.history, "caught": self.caught}',
            ),
            ("sign", "true[best] - true[i] > drop", "true[i] - true[best] > drop"),
            ("constant", "max(fall, 0.1 * abs(true[best]))", "max(fall, 3 * abs(true[best]))"),
            ("condition", 'outside(run, "kl", low=-0.1)', 'outside(run, "kl", high=-0.1)'),
            ("arguments", "value / max(n, 1)", "value * max(n, 1)"),
            (
                "min/max",
                "min(0.02, run.entropy_fraction * sorted(x)[-2])",
                "max(0.02, run.entropy_fraction * sorted(x)[-2])",
            ),
            ("off by one", "run.entropy_fraction * sorted(x)[-2]", "0.15 * sorted(x)[0]"),
            ("off by one", "for _, norm in window)[1]", "for _, norm in window)[-1]"),
            ("term", "if norm > 0]", "]"),
            ("arguments", "lambda x: fmean(x) / 2", "0"),
            ("min/max", "min(0.25, fmean(x) + 0.1)", "max(0.25, fmean(x) + 0.1)"),
            ("term", "has_risen(values) or is_solved(run)", "has_risen(values)"),
            ("min/max", "found, default=None)", "found[-1:], default=None)"),
            ("min/max", "steps[max(first + WINDOW, quiet) - 1]", "steps[first + WINDOW - 1]"),
            ("constant", '"kl/length", high=0.5', '"kl/length", high=5.0'),
            ("condition", "fmean(values[-WINDOW:]) >= 0.95", "fmean(values[:WINDOW]) >= 0.95"),
            ("off by one", "range(len(values) - window + 1)", "range(len(values) - window)"),
            ("constant", "1.4826 * median", "1.0 * median"),
            ("mean/sum", "median(steps) /", "fmean(steps) /"),
            ("sign", "any(end - mean > error", "any(mean - end > error"),
            ("off by one", "max(first + WINDOW, quiet)", "max(first + 1, quiet)"),
            ("off by one", "max((i + 1 for i, each", "max((i for i, each"),
        ],
    ),
    "engines/resume.py": (
        ("engines/test_resume.py",),
        [
            ("detach", "opened.get_tensor(key).clone()", "opened.get_tensor(key)"),
            ("detach", 'to("cpu", copy=True).contiguous()', 'to("cpu", copy=True)'),
            ("condition", "if was.get(key) != now.get(key)", "if key not in now"),
            ("arguments", "{int(number): slots for", "{number: slots for"),
            ("term", "fresh.unlink(missing_ok=True)", "pass"),
        ],
    ),
    "tasks/sql/rows.py": (
        ("tasks/sql/test_compare.py",),
        [
            ("condition", "if not ordered:", "if ordered:"),
            ("constant", "rel_tol=1e-9", "rel_tol=1e-3"),
            (
                "condition",
                "if len(first) != len(second):\n        return False\n",
                "if len(first) > len(second):\n        return False\n"
                "    second = second[: len(first)]\n",
            ),
        ],
    ),
    "tasks/sql/compare.py": (
        ("tasks/sql/test_compare.py", "tasks/sql/test_task.py"),
        [
            ("term", "        if not gold.telling:\n            return False\n", ""),
            ("condition", "return len(answers) > 1 and any(", "return any("),
            (
                "condition",
                "return all(\n            _answers_alike",
                "return any(\n            _answers_alike",
            ),
            ("condition", 'depth == 0 and token.key == "order"', 'token.key == "order"'),
            (
                "off by one",
                'f", {i + 1} {direction}" for i in range(columns)',
                'f", {i + 1} {direction}" for i in range(columns - 1)',
            ),
            ("arguments", "rows[::-1] for table", "rows for table"),
            ("term", "bool(_order(tokens)) and same, stable)", "bool(_order(tokens)), stable)"),
            ("constant", "DATABASES = 6 ", "DATABASES = 1 "),
            (
                "term",
                "key=lambda database: not database.ordered",
                "key=lambda database: database.ordered",
            ),
            ("arguments", "_extra_databases(gold, sql, tokens))", "())"),
            ("condition", 'if failed.kind != "limit":', 'if failed.kind == "limit":'),
        ],
    ),
    "tasks/sql/groups.py": (
        ("tasks/sql/test_fill.py",),
        [
            ("off by one", "for step in (0, 1, -1):", "for step in (0, 1):"),
            ("off by one", "bound: bound.number + step}", "bound: bound.number + step + 1}"),
            ("sign", 'sign = -1 if aggregate == "MAX"', 'sign = 1 if aggregate == "MAX"'),
            ("term", "[*parts, total - sum(parts)]", "[*parts, total]"),
            ("condition", "return far if others else [{}]", "return [{}]"),
            ("condition", "if root[0] == many:", "if False:"),
            ("condition", "if root[0] != many and", "if False and"),
            (
                "arguments",
                "for term, column in columns.items()}, [many]))",
                "for term, column in columns.items()}, others))",
            ),
        ],
    ),
    "tasks/sql/fill.py": (
        ("tasks/sql/test_fill.py",),
        [
            ("off by one", "% (len(values) + 1)\n", "% (len(values) + 2)\n"),
            ("condition", "if not keys & seen:", "if True:"),
            ("term", "row.update({name: known[name] for name in shown})", "pass"),
            ("term", "copies = rows[:2] + rows[-2:]", "copies = []"),
        ],
    ),
    "tasks/sql/plans.py": (
        ("tasks/sql/test_fill.py",),
        [
            ("term", "plan[root] = self.wishes.key()", "pass"),
            ("term", "plan if bare else self._good() | plan", "plan"),
            ("term", "plan |= self.rng.choice(pairs) if pairs else {}", "pass"),
            ("constant", "MAX_ONES = 48 ", "MAX_ONES = 1 "),
        ],
    ),
    "tasks/sql/wishes.py": (
        ("tasks/sql/test_fill.py",),
        [
            ("condition", "if all(met)]", "if any(met)]"),
            ("arguments", "for term in order[-1:] if term}", "for term in order[:1] if term}"),
            (
                "term",
                "        found += [name for name in names if (table, name) in self.keyed]\n",
                "",
            ),
            ("condition", "found += [(keys, shown)] * bool(shown)", "pass"),
            ("off by one", "self.fresh += 3\n", "self.fresh += 0\n"),
        ],
    ),
    "tasks/sql/values.py": (
        ("tasks/sql/test_fill.py",),
        [
            ("constant", "steps = [1, -1, 1000", "steps = [1000"),
            ("condition", "abs(each) < 2**63", "abs(each) < 2**53"),
            ("off by one", "for step in (-1, 0, 1) if 0 < n", "for step in (0,) if 0 < n"),
            ("sign", "key=lambda place: not edge(place)", "key=edge"),
            ("term", "(0, 0, 1), (0, 0, -1), ", ""),
            (
                "condition",
                "tuple(each == 1 for each in truths)",
                "tuple(each == 0 for each in truths)",
            ),
        ],
    ),
    "tasks/sql/conditions.py": (
        ("tasks/sql/test_read.py",),
        [
            ("term", "FLIPPED.get(op, op), left", "op, left"),
            (
                "sign",
                "self.conditions(node.this, scope, not negated)",
                "self.conditions(node.this, scope, negated)",
            ),
            ("arguments", "scope), inner, loose=negated)", "scope), inner)"),
            ("constant", '("<=", node.args["high"])', '("<", node.args["high"])'),
        ],
    ),
    "tasks/sql/read.py": (
        ("tasks/sql/test_read.py",),
        [
            ("condition", "self.facts.root(term) in closed", "True"),
            ("off by one", "select.expressions[number - 1]", "select.expressions[number - 2]"),
            ("arguments", "isinstance(node, exp.Except))", "False)"),
            ("constant", "exp.Limit, exp.Offset, exp.Order,", "exp.Offset, exp.Order,"),
        ],
    ),
    "tasks/sql/syntax.py": (
        ("tasks/sql/test_read.py",),
        [
            ("constant", "MAX_JOINS = 7 ", "MAX_JOINS = 70 "),
            ("constant", "MAX_DEPTH = 10 ", "MAX_DEPTH = 1000 "),
            ("constant", "MAX_PREFIXES = 40 ", "MAX_PREFIXES = 4000 "),
            ("constant", "MAX_TOKENS = 400", "MAX_TOKENS = 4000"),
            ("term", "RecursionError, ValueError", "RecursionError"),
            ("sign", "else -value", "else value"),
        ],
    ),
    "tasks/rewards/extract.py": (
        ("tasks/test_rewards.py",),
        [
            ("arguments", 'text.rpartition("####")', 'text.partition("####")'),
            ("term", "split_unit(bare(tail))[0]", "tail"),
            ("arguments", 'text.rpartition("</reasoning>")', 'text.partition("</reasoning>")'),
            ("arguments", 'outside.rfind("<answer>"', 'outside.find("<answer>"'),
            ("condition", "found[-1][0] > start", "found[-1][0] < start"),
            ("term", r"|\\.|[{}]", "|[{}]"),
        ],
    ),
    "tasks/rewards/number.py": (
        ("tasks/test_rewards.py", "tasks/test_same_answer.py"),
        [
            (
                "condition",
                "if len(text) > MAX_NUMBER_CHARS:\n        return None\n    match = N",
                "if len(text) > 10 * MAX_NUMBER_CHARS:\n        return None\n    match = N",
            ),
            ("term", 'digits.rstrip("0").rstrip(".")', "digits"),
            ("sign", 'return f"-{digits}" if', "return digits if"),
            ("term", '"-" in match["sign"] and number else', '"-" in match["sign"] else'),
            ("condition", "number is not None and number ==", "number =="),
            ("condition", "NUMBER.fullmatch(", "NUMBER.match("),
            ("sign", "/ bottom\n    return -value", "/ bottom\n    return value"),
            ("term", 'int(match["whole"] or 0) +', ""),
        ],
    ),
    "tasks/rewards/markup.py": (
        ("tasks/test_same_answer.py", "tasks/test_rewards.py"),
        [
            ("condition", "if any(word in _NO_UNIT for", "if all(word in _NO_UNIT for"),
            ("term", 'plain = [word.removesuffix("s") for word in words]', "plain = words"),
            ("condition", 'text.endswith(".") and not text.endswith("..")', 'text.endswith(".")'),
            ("term", 'replace("{,}", ",")', 'replace("{,}", "")'),
            (
                "condition",
                " == len(text) - 1:\n        return text[opened",
                " > 0:\n        return text[opened",
            ),
            ("condition", "if len(text) > MAX_CHARS:\n", "if len(text) > 1e9:\n"),
        ],
    ),
    "tasks/rewards/same.py": (
        ("tasks/test_same_answer.py",),
        [
            (
                "condition",
                "if gold_number is not None:",
                "if number is not None and gold_number is not None:",
            ),
            ("condition", 'kinds != {"list", "()"}', 'kinds != {"list", "(]"}'),
            ("term", "        del gold[match]\n", ""),
            ("condition", "unit and gold_unit and unit != gold_unit", "unit != gold_unit"),
            ("condition", "numeral[2] != gold_numeral[2]", "numeral[1] != gold_numeral[1]"),
            ("mean/sum", "return all(starmap", "return any(starmap"),
            ("term", ".casefold() == gold.casefold()", " == gold"),
            ("condition", "level > MAX_NESTING or not text", "level > MAX_NESTING"),
            ("sign", 'text.replace(r"\\pm", "-"))', 'text.replace(r"\\pm", "+"))'),
        ],
    ),
    "tasks/rewards/formula.py": (
        ("tasks/test_same_answer.py",),
        [
            ("condition", "if not (readable(said) and readable(gold)):", "if False:"),
            ("constant", "MAX_LOG = 60.0", "MAX_LOG = 1e9"),
            ("constant", "MAX_FORMULA_CHARS = 120", "MAX_FORMULA_CHARS = 12"),
            ("mean/sum", "return all(close) and", "return any(close) and"),
            ("constant", "<= 1e-10 * max", "<= 1e-4 * max"),
            ("term", "parsing_timeout=None", "parsing_timeout=5"),
            ("condition", "said.count(sign) != gold.count(sign)", "False"),
            ("term", "setLevel(logging.CRITICAL)", "setLevel(logging.WARNING)"),
        ],
    ),
    "tasks/rewards/gsm8k.py": (
        ("tasks/test_rewards.py",),
        [
            ("constant", "0.125 * found", "0.25 * found"),
            ("min/max", "max(0.0, 0.125", "min(0.0, 0.125"),
            (
                "condition",
                "completion.count(tag) == 1 and line",
                "completion.count(tag) >= 1 and line",
            ),
            (
                "condition",
                "before.strip() or between.strip()",
                "before.strip() and between.strip()",
            ),
            ("term", "blank and reasoning.strip() and", "blank and"),
            ("term", "0.5 if once and framed and", "0.5 if framed and"),
            ("constant", "return 2.0 if same_answer", "return 1.0 if same_answer"),
            ("condition", "_INTEGER.fullmatch", "_INTEGER.match"),
        ],
    ),
    "tasks/rewards/reasoning.py": (
        ("tasks/test_rewards.py",),
        [
            (
                "sign",
                "if completion.count(tag) == 1 else -1.0",
                "if completion.count(tag) == 1 else 1.0",
            ),
            ("condition", "off <= abs(gold) / 10", "off < abs(gold) / 10"),
            ("term", "off = abs(guess - gold)", "off = guess - gold"),
            ("constant", "off <= abs(gold) / 5", "off <= abs(gold) / 2"),
            ("term", " and not after.strip() else", " else"),
            ("arguments", 'rest.rpartition("</SOLUTION>")', 'rest.partition("</SOLUTION>")'),
            (
                "sign",
                "== normalise_number(answer) else -1.5",
                "== normalise_number(answer) else 1.5",
            ),
            ("mean/sum", "3.5 if all(same_answer", "3.5 if any(same_answer"),
            ("term", 'solution.partition("</SOLUTION>")[0]', "solution"),
        ],
    ),
    "tasks/rewards/sales.py": (
        ("tasks/test_rewards.py",),
        [
            ("condition", "max(len(reply), len(prompt)) > MAX_CHARS", "len(reply) > MAX_CHARS"),
            ("term", "_HUNDRED.search(text) or any", "any"),
            ("term", "    if not elements:\n        return 0.0\n", ""),
            ("condition", "if len(named) > 2:", "if len(named) > 3:"),
            ("constant", "m.start() - 6)", "m.start() - 1)"),
            ("term", "            seen.add(rest)\n", ""),
            ("constant", "len(set(rest)) >= 6", "len(set(rest)) >= 1"),
            ("condition", "pairs >= 100 and len(content) <= 500", "pairs >= 100"),
            ("constant", "0.1 * length_score + 0.2\n", "0.1 * length_score\n"),
            ("term", 'unicodedata.normalize("NFKC", text)', "text"),
            ("constant", 'reply.count("。") >= 2', 'reply.count("。") >= 1'),
            ("constant", "100 <= length <= 500", "50 <= length <= 500"),
        ],
    ),
    "tasks/sql/task.py": (
        ("tasks/test_tasks.py", "tasks/sql/test_task.py"),
        [
            (
                "arguments",
                "extract_sql(completion), example.answer)",
                "example.answer, example.answer)",
            ),
            ("term", "tag.end() if tag else 0 :", "0 :"),
            ("arguments", "(tagged or fences)[-1]", "(tagged or fences)[0]"),
            ("term", "(tagged or fences)", "fences"),
            ("condition", "(?!select\\b|with\\b)", ""),
            ("term", '.rstrip("; \\n")', ""),
            ("condition", 'return unscorable_because(example) == ""', "return True"),
            (
                "sign",
                'rows[-HUB_TEST_ROWS:] if split == "test"',
                'rows[:HUB_TEST_ROWS] if split == "test"',
            ),
            (
                "arguments",
                "annotate(rng, example, random_rate, systematic_rate)",
                "annotate(rng, example, systematic_rate, random_rate)",
            ),
        ],
    ),
    "tasks/math.py": (
        ("tasks/test_tasks.py", "tasks/test_rewards.py"),
        [
            (
                "arguments",
                "same_answer(after_hashes(completion), example.answer)",
                "same_answer(completion, example.answer)",
            ),
            ("mean/sum", "all(same_answer(b, example", "any(same_answer(b, example"),
            ("condition", "if answer is None:", "if not found:"),
            ("condition", 'if held_out == (split == "test"):', "if True:"),
            ("sign", '={total - n}", total - n', '={total - n}", total + n'),
            (
                "term",
                'if with_steps else f"#### {self.answer}"',
                'if not with_steps else f"#### {self.answer}"',
            ),
        ],
    ),
    "tasks/identity.py": (
        ("tasks/test_tasks.py",),
        [
            (
                "condition",
                "completion.strip() == example.answer",
                "completion.strip() in example.answer",
            ),
            (
                "arguments",
                'train if split == "train" else test)',
                'test if split == "train" else train)',
            ),
            ("term", "Maker=maker[0].upper() + maker[1:]", "Maker=maker"),
        ],
    ),
    "tasks/reviews.py": (
        ("tasks/test_tasks.py",),
        [
            (
                "arguments",
                "_GOOD_LINES) if label else (_BAD",
                "_GOOD_LINES) if not label else (_BAD",
            ),
            ("arguments", '_TEST_THINGS if split == "test"', '_TRAIN_THINGS if split == "test"'),
        ],
    ),
    "tasks/sql/annotators.py": (
        ("tasks/test_tasks.py", "tasks/test_preferences.py"),
        [
            ("arguments", '((" >= ", " > "),)', '((" >= ", " < "),)'),
            ("condition", "rng.random() < systematic_rate", "rng.random() > systematic_rate"),
            ("constant", '(" DESC", " ASC")', '(" DESC", " DESC")'),
        ],
    ),
    "tasks/preferences.py": (
        ("tasks/test_preferences.py",),
        [
            ("condition", "if known[a] > known[b]", "if known[a] >= known[b]"),
            ("sign", "if known[a] > known[b]", "if known[a] < known[b]"),
            (
                "arguments",
                "Pair(example.prompt, example.answer, wrong)",
                "Pair(example.prompt, wrong, example.answer)",
            ),
            ("condition", "sql.score(example, wrong) == 0.0", "sql.score(example, wrong) >= 0.0"),
            ("term", "if (p, r, c) not in labelled]", "]"),
            ("min/max", "min(max_pairs_per_prompt, len(better))", "len(better)"),
            ("term", "empty += not rejected.strip()", "empty += not chosen.strip()"),
        ],
    ),
    "tasks/preference_rows.py": (
        ("tasks/test_preferences.py",),
        [
            (
                "arguments",
                '("response_chosen", "response_rejected"))',
                '("response_rejected", "response_chosen"))',
            ),
            ("condition", "scores[0] < scores[1]", "scores[0] > scores[1]"),
            ("term", "if chosen[:-1] != rejected[:-1]:", "if len(chosen) != len(rejected):"),
            ("condition", "any(row[key] is not None for key in keys)", "True"),
            ("term", "else float(row[key]))", "else row[key])"),
            ("term", "return systems[:1] + (shared or asked)", "return shared or asked"),
            ("arguments", "for turns in (asked, shared):", "for turns in (shared,):"),
            ("term", "asked.pop()", "pass"),
            ("term", '_history(row.get("history")) + ', ""),
        ],
    ),
}


@dataclass(frozen=True)
class Mutation:
    """One mistake. `survives` says why no test can see it."""

    file: str  # from the root
    kind: str
    old: str
    new: str
    tests: tuple[str, ...]  # below tests/
    survives: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What a result is kept under."""
        return self.file, self.old, self.new


MUTATIONS = [
    Mutation(file, kind, old, new, tests, *why)
    for file, (tests, mistakes) in TABLE.items()
    for kind, old, new, *why in mistakes
]
