"""How often `execution_match` refuses right rewrites and accepts plausible wrong queries.

    python -m tools.sql_verdicts --seed 1 --save after

On the rows of sql-create-context in COURSE_DATA_DIR, and on 30 schemas of each shape of
`tools.sql_shapes`. Edits that keep or change the answer: `tools.sql_rewrites`,
`tools.sql_mistakes`. Prints a table with a line for each shape: golds, those left out as not
scorable, right refused, wrong accepted, milliseconds of CPU time of a comparison, the databases
of the gold query included. `--save NAME` adds the counts to benchmarks/results.
"""

import argparse
import json
import random
import time
from collections import Counter, defaultdict
from pathlib import Path

import sqlglot
from sqlglot import exp

from tasks.sql.compare import execution_match, is_valid_sql
from tasks.sql.questions import SqlExample
from tasks.sql.task import is_scorable, load_real
from tasks.sql.text import parse_schema
from tools import sql_mistakes, sql_rewrites, sql_shapes

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "sql_verdicts.json"


def columns_of(context: str) -> sql_mistakes.Columns:
    """Type of each column of a context, and whether it is a key."""
    return {
        table.lower(): {column.name.lower(): (column.kind, column.unique) for column in columns}
        for table, columns in parse_schema(context).items()
    }


def cases(seed: int, schemas: int, rows: int | None) -> list[tuple]:
    """(shape, context, gold, right, wrong): generated ones, then the real rows."""
    found = sql_shapes.make_shapes(schemas, seed)
    real = [] if rows == 0 else [*load_real("train"), *load_real("test")][:rows]
    return found + [("real rows", row.context, row.answer, [], []) for row in real]


def candidates(case: tuple, rng: random.Random) -> list[tuple[bool, str, str]]:
    """(right, kind of edit, query) for one gold query."""
    _, context, gold, right, wrong = case
    found = [(True, "given", text) for text in right] + [(False, "given", text) for text in wrong]
    try:
        tree = sqlglot.parse_one(gold, dialect="sqlite")
        columns = columns_of(context)
        for name in list(tree.find_all(exp.Column)):  # "x" is text unless it names a column
            if name.this.quoted and not any(name.name.lower() in each for each in columns.values()):
                name.replace(exp.Literal.string(name.name))
    except (sqlglot.errors.SqlglotError, ValueError):
        return found
    found += [(True, *edit) for edit in sql_rewrites.rewrites(tree)]
    found += [(False, *edit) for edit in sql_mistakes.mistakes(tree, columns, rng)]
    return [each for each in found if is_valid_sql(context, each[2])]


def measure(seed: int, schemas: int, rows: int | None, show: int) -> dict:
    """Counts for each shape, and for each kind of edit."""
    table: dict[str, Counter] = defaultdict(Counter)
    kinds: dict[str, Counter] = defaultdict(Counter)
    shown: Counter = Counter()
    for case in cases(seed, schemas, rows):
        shape, context, gold = case[:3]
        edits = candidates(case, random.Random(f"{seed} {gold}"))
        line, start = table[shape], time.process_time()
        scorable = is_scorable(SqlExample(context, "", gold))  # makes the databases
        line["ms"] += 1000 * (time.process_time() - start)
        line["golds"] += 1
        line["left out"] += not scorable
        for right, kind, text in edits if scorable else ():
            start = time.process_time()
            accepted = execution_match(context, text, gold)
            line["ms"] += 1000 * (time.process_time() - start)
            for counts in (line, kinds[kind]):
                counts["right" if right else "wrong"] += 1
                counts["refused"] += right and not accepted
                counts["accepted"] += accepted and not right
            if accepted != right and shown[shape] < show:
                shown[shape] += 1
                print("REFUSED" if right else "ACCEPTED", shape, "/", kind)
                print("   ", context, gold, text, sep="\n    ")
    return {"shapes": dict(table), "kinds": dict(kinds)}


def percent(part: int, whole: int) -> float:
    """A share in percent, to two places."""
    return round(100 * part / max(1, whole), 2)


def report(lines: dict[str, Counter]) -> str:
    """The table, with a last line over all."""
    over_all: Counter = sum(lines.values(), Counter())
    rows = ["| shape | golds | left out | right | refused % | wrong | accepted % | ms |"]
    rows.append("|---" * 8 + "|")
    for name, c in [*lines.items(), ("over all", over_all)]:
        refused, accepted = percent(c["refused"], c["right"]), percent(c["accepted"], c["wrong"])
        each = c["ms"] / max(1, c["right"] + c["wrong"])
        counts = c["golds"], c["left out"], c["right"], refused, c["wrong"], accepted
        rows.append(f"| {name} | {' | '.join(map(str, counts))} | {each:.2f} |")
    return "\n".join(rows)


def save(name: str, run: dict, result: dict) -> None:
    """Add the counts of a run to those stored under a name."""
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    entry = stored.setdefault(name, {"runs": []})
    entry["runs"].append(run)
    for part, lines in result.items():
        known = entry.setdefault(part, {})
        for line, counts in lines.items():
            total = Counter(known.get(line, {})) + Counter(counts)
            known[line] = {key: round(value, 1) for key, value in total.items()}
    RESULTS.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schemas", type=int, default=30)
    parser.add_argument("--rows", type=int, help="real rows; all if left out")
    parser.add_argument("--show", type=int, default=0, help="wrong verdicts to print of each shape")
    parser.add_argument("--save", help="name to save under in benchmarks/results/sql_verdicts.json")
    args = parser.parse_args()
    result = measure(args.seed, args.schemas, args.rows, args.show)
    print(report(result["shapes"]))
    print(report(result["kinds"]))
    if args.save:
        save(args.save, {"seed": args.seed, "schemas": args.schemas, "rows": args.rows}, result)


if __name__ == "__main__":
    main()
