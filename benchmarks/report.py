"""The tables of docs/speed.md, made from `bench.json` and nothing else."""

# Section -> what is compared, with sizes from the results; the other variant; the target for time.
COMPARED = {
    "sft": ("SFT, a step of {batch}", "TRL", 0.9),
    "rm": ("reward model, a step of {batch}", "TRL", 0.9),
    "dpo": ("DPO, a step of {batch}", "TRL", 0.9),
    "ppo": ("PPO, a rollout of {prompts} x {group_size} and its updates", "TRL", 0.5),
    "grpo": ("GRPO, a rollout of {prompts} x {group_size} and its updates", "TRL", 0.3),
    "sampling": ("sampling {prompts} x {group_size} completions", "generate", 0.4),
    "update": (
        "log-probs of {prompts} x {group_size} completions, with gradients",
        "full sequences",
        None,
    ),
    "vocabulary": ("log-probs over {vocabulary:,} tokens, {positions:,} positions", "naive", None),
}
MEMORY_TARGETS = {"vocabulary": 0.5, "update": None}  # the others: no more than theirs
# Every step takes data that no step has seen, so its curve, before the step, is a held-out one.
REACHED = {
    "sft": ("loss", 1.5),
    "rm": ("loss", 0.67),
    "dpo": ("loss", 0.2),
    "grpo": ("reward", 0.6),
    "ppo": ("reward", 0.7),
}
GROWN = {"group_size": "G", "new_tokens": "T", "parameters": "parameters"}


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def digits(number: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{float(f'{number:.3g}'):g}"


def seconds(found: dict) -> str:
    """Median with quartiles, in milliseconds below one second."""
    unit, scale = ("s", 1) if found["median"] >= 1 else ("ms", 1000)
    middle, low, high = (digits(found[key] * scale) for key in ("median", "q1", "q3"))
    return f"{middle} {unit} [{low}, {high}]"


def against(ratio: float, target: float | None) -> str:
    """The ratio, and whether it is within its target."""
    if target is None:
        return f"{ratio:.2f}"
    return f"{ratio:.2f} ({'met' if ratio <= target else 'missed'}: {target:g})"


def time_ratio(row: dict, mine: str, other: str) -> float:
    """Our time by theirs; for samplers, which draw different completions, time a token."""
    ours, theirs = row["variants"][mine], row["variants"][other]
    if "tokens_per_second" in ours:
        return theirs["tokens_per_second"]["median"] / ours["tokens_per_second"]["median"]
    return ours["seconds"]["median"] / theirs["seconds"]["median"]


def overview(results: dict) -> str:
    """A line for each section that was run: at its first point, ours against the other."""
    rows = []
    for name, (what, other, target) in COMPARED.items():
        if name not in results:
            continue
        section, mine = results[name], "chunked" if name == "vocabulary" else "ours"
        row = section["rows"][0]
        memory = "not measured"
        if section["memory"]:
            peaks = section["memory"][0]["peak_megabytes"]
            ratio = peaks[mine] / peaks[other] if peaks[other] else float("nan")
            wanted = against(ratio, MEMORY_TARGETS.get(name, 1.0))
            memory = f"{digits(peaks[mine])} / {digits(peaks[other])} MB: {wanted}"
        times = [seconds(row["variants"][variant]["seconds"]) for variant in (mine, other)]
        names = ("naive" if name == "vocabulary" else other).replace("generate", "`generate`")
        sizes = section["settings"] | row["point"]
        rows.append(
            [what.format(**sizes), times[0], f"{names}: {times[1]}"]
            + [against(time_ratio(row, mine, other), target), memory]
        )
    header = ["same machine, same data", "ours", "theirs", "time, ratio", "peak memory, ratio"]
    return markdown(header, rows)


def circumstances(results: dict) -> str:
    """When, where and with what; a line for each set of circumstances."""
    lines: dict[str, list[str]] = {}
    for name, section in results.items():
        machine, versions = section["machine"], section["versions"]
        line = (
            f"{section['date']}, {machine['processor']}, {machine['cores']} cores, "
            f"{machine['threads']} threads, torch {versions['torch']}, transformers "
            f"{versions['transformers']}, TRL {versions['trl']}"
        )
        lines.setdefault(line, []).append(name)
    return "\n".join(f"- {', '.join(names)}: {line}" for line, names in lines.items())


def sampling(section: dict) -> str:
    """Completion tokens a second at every point."""
    names = list(section["rows"][0]["variants"])
    rows = []
    for row in section["rows"]:
        p = row["point"]
        rates = [row["variants"][name]["tokens_per_second"]["median"] for name in names]
        ends = "ends itself" if p["stop"] else f"runs to {p['new_tokens']}"
        size = [str(p["prompts"]), str(p["group_size"]), str(p["prompt_tokens"]), ends]
        rows.append(size + [digits(rate) for rate in rates] + [f"{rates[0] / rates[1]:.2f}"])
    header = ["prompts", "G", "prompt tokens", "completion", *names, "ours / generate"]
    return "Completion tokens a second:\n\n" + markdown(header, rows)


def update(section: dict) -> str:
    """Time and memory of the update at every point."""
    peaks = [row["peak_megabytes"] for row in section["memory"]] or [None] * len(section["rows"])
    rows = []
    for row, peak in zip(section["rows"], peaks, strict=True):
        p = row["point"]
        size = [str(p[key]) for key in ("prompts", "group_size", "prompt_tokens", "new_tokens")]
        ours, theirs = (row["variants"][name]["seconds"] for name in ("ours", "full sequences"))
        ratio = f"{time_ratio(row, 'ours', 'full sequences'):.2f}"
        memory = f"{digits(peak['ours'])} / {digits(peak['full sequences'])} MB" if peak else ""
        rows.append([*size, seconds(ours), seconds(theirs), ratio, memory])
    header = ["prompts", "G", "P", "T", "shared prompt", "full sequences", "ratio", "peak memory"]
    return "The update, forward and backward:\n\n" + markdown(header, rows)


def growth(section: dict) -> str:
    """The fitted exponents."""
    rows = []
    for variant, measures in section["exponents"].items():
        for measure, by_size in measures.items():
            what = f"{variant}, {'time' if measure == 'seconds' else 'peak memory'}"
            rows.append([what, *(f"{by_size[k]:.2f}" if k in by_size else "" for k in GROWN)])
    return "Growth, exponent fitted:\n\n" + markdown(["", *GROWN.values()], rows)


def steps_to(curve: list[float], level: float) -> int | None:
    """Steps until the mean of two in a row is beyond the level, as seen from the start."""
    falls = level < curve[0]
    for done in range(1, len(curve)):
        mean = (curve[done - 1] + curve[done]) / 2
        if mean <= level if falls else mean >= level:
            return done
    return None


def reached(results: dict) -> str:
    """Time until data not seen before shows a given loss or reward: steps times median time."""
    rows = []
    for name, (measure, level) in REACHED.items():
        if name not in results:
            continue
        cells = []
        for variant in ("ours", "TRL"):
            found = results[name]["rows"][0]["variants"][variant]
            steps = steps_to(found["curves"][measure], level)
            if steps is None:
                cells.append("not reached")
            else:
                time = digits(steps * found["seconds"]["median"])
                cells.append(f"{time} s, {steps} steps")
        rows.append([COMPARED[name][0].split(",")[0], f"{measure} {level:g}", *cells])
    header = ["", "on data not seen before", "ours", "TRL"]
    return "Time to a target, steps times median time:\n\n" + markdown(header, rows)


def conclusions(results: dict) -> str:
    """How many targets are met, which are not, and where the sampler gains least and most."""
    rows = overview(results).splitlines()[2:]
    met, missed = ("\n".join(rows).count(f"({word}: ") for word in ("met", "missed"))
    found = [f"Targets met in this table: {met} of {met + missed}."]
    late = [row.split("|")[1].strip() for row in rows if "(missed: " in row]
    found += [f"Missed: {'; '.join(late)}."] if late else []
    if "sampling" in results:
        ratios = {}
        for row in results["sampling"]["rows"]:
            p = row["point"]
            size = f"{p['prompts']} x {p['group_size']} completions, {p['prompt_tokens']} prompt"
            size += f" tokens{'' if p['stop'] else ', none ends early'}"
            ratios[size] = 1 / time_ratio(row, "ours", "generate")
        least, most = (f(ratios, key=ratios.__getitem__) for f in (min, max))
        found.append(
            f"The sampler gives between {ratios[least]:.2f} times ({least}) and "
            f"{ratios[most]:.2f} times ({most}) as many tokens a second as `generate`."
        )
    return " ".join(found)


def shares(results: dict) -> str:
    """One sentence: the time of our step or sampler as a share of the other's."""
    times: dict[str, list[str]] = {}
    for name, (what, other, target) in COMPARED.items():
        if name in results and target:
            ratio = time_ratio(results[name]["rows"][0], "ours", other)
            times.setdefault(other, []).append(f"{what.split(',')[0].split(' {')[0]} {ratio:.2f}")
    made: dict[str, set[str]] = {}  # machine -> dates
    for section in results.values():
        machine = f"{section['machine']['processor']}, {section['machine']['cores']} cores"
        made.setdefault(machine, set()).add(section["date"])
    where = "; ".join(f"{name}, {' and '.join(sorted(dates))}" for name, dates in made.items())
    shown = "; ".join(
        f"of {'`generate`' if other == 'generate' else other}'s: {', '.join(found)}"
        for other, found in times.items()
    )
    return f"Time of a step as a share {shown} ({where})."


def table(results: dict, newest: dict | None = None) -> str:
    """Every table of docs/speed.md; ValueError without results.

    newest: the sections measured against TRL's newest release.
    """
    if not results:
        raise ValueError("nothing has been measured yet: run `make bench` first")
    intro = "Median [quartiles]; a ratio below 1 is ours; the target stands in brackets."
    parts = [overview(results), intro, conclusions(results), circumstances(results)]
    if any(name in results for name in REACHED):
        parts.append(reached(results))
    if newest:
        found = next(iter(newest.values()))["versions"]["trl"]
        parts += [f"Against TRL {found}, the rest as above:", overview(newest)]
    makers = {"sampling": sampling, "update": update, "growth": growth}
    details = [make(results[name]) for name, make in makers.items() if name in results]
    if details:
        summary = "<details><summary>Over batch, length and size</summary>"
        parts += [summary, *details, "</details>"]
    return "\n\n".join(parts)
