"""Gold queries in the shapes of Spider and BIRD, about random schemas of three tables.

`{f}` is a table of events with `{fk}` (whose), `{kind}`, `{note}`, `{pay}`, `{cost}`, `{day}`,
`{phone}`; `{d}` the table of those that have them, with `{key}`, `{name}`, `{city}`, `{size}`,
`{age}`; `{e}` a table of places with `{place}`, `{area}`. `{k}` < `{j}` are numbers, `{s}`, `{r}`
texts. A shape may name a right rewrite (`=`) and a wrong query (`!`) that no general edit makes.
"""

import random

WORDS = """actor album boat book bridge camera car coach course dog driver engine farm film game
    garden hotel island judge lake letter mine museum painter park pilot piano plant player river
    school ship song station street student team tower train tree village writer""".split()
TEXTS = "Athens Bergen Cairo Dakar Essen Fargo Ghent Hanoi Ibiza Jaffa Kyoto Lagos".split()
FOREIGN = "Ålesund Zürich Málaga Øster Łódź Šibenik 東京 Ñuñoa Straße Éire Ōsaka Köln".split()

JOIN = "FROM {f} AS T1 JOIN {d} AS T2 ON T1.{fk} = T2.{key}"
SHAPES = {
    "where": ["SELECT {name} FROM {d} WHERE {size} > {k} AND {city} = '{s}'"],
    "or": ["SELECT {name} FROM {d} WHERE {size} < {k} OR {city} = '{s}'"],
    "between": ["SELECT {note} FROM {f} WHERE {pay} BETWEEN {k} AND {j}"],
    "in list": ["SELECT {name}, {size} FROM {d} WHERE {city} IN ('{s}', '{r}')"],
    "count": ["SELECT COUNT({kind}) FROM {f} WHERE {kind} = '{s}' AND {pay} >= {k}"],
    "aggregate": ["SELECT MAX({pay}) FROM {f} WHERE {kind} = '{s}'"],
    "sum": ["SELECT SUM({pay}), AVG({cost}) FROM {f} WHERE {kind} != '{s}'"],
    "distinct": ["SELECT DISTINCT {kind} FROM {f} WHERE {pay} > {k}"],
    "count distinct": ["SELECT COUNT(DISTINCT {kind}) FROM {f} WHERE {pay} <= {k}"],
    "order": ["SELECT {name} FROM {d} WHERE {size} >= {k} ORDER BY {age} DESC"],
    "order limit": ["SELECT {name} FROM {d} ORDER BY {age} DESC LIMIT 3"],
    "two order keys": ["SELECT {name}, {city} FROM {d} ORDER BY {city} ASC, {age} DESC"],
    "two order keys, limit": ["SELECT {name} FROM {d} ORDER BY {size} DESC, {age} ASC LIMIT 3"],
    "group": ["SELECT {kind}, AVG({pay}) FROM {f} GROUP BY {kind}"],
    "group, order": [
        "SELECT {kind}, SUM({pay}) FROM {f} GROUP BY {kind} ORDER BY SUM({pay}) DESC, {kind} ASC"
    ],
    "having count": ["SELECT {kind} FROM {f} GROUP BY {kind} HAVING COUNT(*) >= {few}"],
    "having many": ["SELECT {kind} FROM {f} GROUP BY {kind} HAVING COUNT(*) > {many}"],
    "having sum": ["SELECT {kind} FROM {f} GROUP BY {kind} HAVING SUM({pay}) >= {j}"],
    "having avg": ["SELECT {kind}, COUNT(*) FROM {f} GROUP BY {kind} HAVING AVG({pay}) < {k}"],
    "having max": ["SELECT {kind} FROM {f} GROUP BY {kind} HAVING MAX({pay}) > {k}"],
    "having min": ["SELECT {kind} FROM {f} GROUP BY {kind} HAVING MIN({cost}) <= {k}"],
    "having, where": [
        "SELECT {kind} FROM {f} WHERE {pay} > {k} GROUP BY {kind} HAVING COUNT(*) > {few}"
    ],
    "having distinct": [
        "SELECT {kind} FROM {f} GROUP BY {kind} HAVING COUNT(DISTINCT {note}) >= {few}"
    ],
    "join": [f"SELECT T2.{{name}} {JOIN} WHERE T1.{{pay}} > {{k}} AND T2.{{city}} = '{{s}}'"],
    "join, count": [f"SELECT COUNT(*) {JOIN} WHERE T2.{{size}} <= {{k}}"],
    "join, order": [
        f"SELECT T1.{{note}} {JOIN} WHERE T2.{{city}} = '{{s}}' ORDER BY T1.{{pay}} LIMIT 1"
    ],
    "join of three": [
        f"SELECT T1.{{note}} {JOIN} JOIN {{e}} AS T3 ON T2.{{city}} = T3.{{place}} "
        "WHERE T3.{area} > {k} AND T1.{kind} = '{s}'"
    ],
    "bare name": [
        f"SELECT T2.{{name}}, COUNT(*) {JOIN} GROUP BY T1.{{fk}}",
        f"= SELECT T2.{{name}}, COUNT(*) {JOIN} GROUP BY T2.{{key}}",
        f"= SELECT T2.{{name}}, COUNT(*) {JOIN} GROUP BY T1.{{fk}}, T2.{{name}}",
        f"! SELECT T2.{{name}}, COUNT(DISTINCT T1.{{kind}}) {JOIN} GROUP BY T1.{{fk}}",
    ],
    "bare name, having": [
        f"SELECT T2.{{name}} {JOIN} GROUP BY T1.{{fk}} HAVING COUNT(*) >= {{few}}",
        f"= SELECT T2.{{name}} {JOIN} GROUP BY T2.{{key}} HAVING NOT COUNT(*) < {{few}}",
    ],
    "bare name, most": [
        f"SELECT T2.{{name}} {JOIN} GROUP BY T1.{{fk}} ORDER BY COUNT(*) DESC LIMIT 1",
        f"= SELECT T2.{{name}} {JOIN} GROUP BY T2.{{key}}, T2.{{name}} "
        "ORDER BY COUNT(*) DESC LIMIT 1",
        f"! SELECT T2.{{name}} {JOIN} GROUP BY T1.{{kind}} ORDER BY COUNT(*) DESC LIMIT 1",
    ],
    "joined twice": [
        "SELECT T1.{note} FROM {f2} AS T1 JOIN {d} AS T2 ON T1.{home} = T2.{key} JOIN {d} AS T3 "
        "ON T1.{away} = T3.{key} WHERE T2.{city} = '{s}' AND T3.{city} = '{r}'",
        "! SELECT T1.{note} FROM {f2} AS T1 JOIN {d} AS T2 ON T1.{home} = T2.{key} JOIN {d} AS T3 "
        "ON T1.{away} = T3.{key} WHERE T2.{city} = '{r}' AND T3.{city} = '{s}'",
    ],
    "joined twice, count": [
        "SELECT COUNT(*) FROM {f2} AS T1 JOIN {d} AS T2 ON T1.{home} = T2.{key} JOIN {d} AS T3 "
        "ON T1.{away} = T3.{key} WHERE T2.{city} = '{s}' AND T3.{city} = '{r}'"
    ],
    "nested in": [
        "SELECT {name} FROM {d} WHERE {key} IN (SELECT {fk} FROM {f} WHERE {pay} >= {k})"
    ],
    "nested not in": [
        "SELECT {name} FROM {d} WHERE NOT {key} IN (SELECT {fk} FROM {f} WHERE {pay} > {k})"
    ],
    "exists": [
        "SELECT {name} FROM {d} WHERE EXISTS (SELECT 1 FROM {f} WHERE {f}.{fk} = {d}.{key} "
        "AND {f}.{pay} < {k})"
    ],
    "intersect": [
        "SELECT {city} FROM {d} WHERE {size} > {j} INTERSECT "
        "SELECT {city} FROM {d} WHERE {size} < {k}"
    ],
    "except": ["SELECT {city} FROM {d} EXCEPT SELECT {city} FROM {d} WHERE {size} >= {k}"],
    "union": [
        "SELECT {city} FROM {d} WHERE {size} > {k} UNION "
        "SELECT {place} FROM {e} WHERE {area} <= {j}"
    ],
    "above average": ["SELECT {name} FROM {d} WHERE {size} < (SELECT AVG({size}) FROM {d})"],
    "largest": ["SELECT {name} FROM {d} WHERE {size} = (SELECT MAX({size}) FROM {d})"],
    "derived": [
        "SELECT {kind} FROM (SELECT {kind}, SUM({pay}) AS total FROM {f} GROUP BY {kind}) "
        "WHERE total > {j}"
    ],
    "common table": [
        "WITH rich AS (SELECT {fk}, {pay} FROM {f} WHERE {pay} > {k}) SELECT T2.{name}, rich.{pay} "
        "FROM rich JOIN {d} AS T2 ON rich.{fk} = T2.{key}"
    ],
    "case": [
        "SELECT {kind}, SUM(CASE WHEN {pay} > {k} THEN 1 ELSE 0 END) FROM {f} GROUP BY {kind}"
    ],
    "is null": ["SELECT {note} FROM {f} WHERE {kind} IS NULL AND {pay} > {k}"],
    "like": ["SELECT {name} FROM {d} WHERE {city} LIKE '%{s}%'"],
    "starts with": ["SELECT COUNT(*) FROM {d} WHERE {city} LIKE '{s}%' AND {size} > {k}"],
    "year": ["SELECT {note} FROM {f} WHERE STRFTIME('%Y', {day}) = '{year}'"],
    "month": ["SELECT {note} FROM {f} WHERE CAST(STRFTIME('%m', {day}) AS INTEGER) = {month}"],
    "month of a year": [
        "SELECT COUNT(*) FROM {f} WHERE STRFTIME('%Y-%m', {day}) = '{year}-0{month}'"
    ],
    "day": ["SELECT {note} FROM {f} WHERE {day} >= '{year}-0{month}-15' AND {pay} > {k}"],
    "length": ["SELECT {name} FROM {d} WHERE LENGTH({name}) > {length}"],
    "lower": ["SELECT {name} FROM {d} WHERE LOWER({city}) = '{lower}' AND {size} >= {k}"],
    "substr": ["SELECT {note} FROM {f} WHERE SUBSTR({kind}, 1, 3) = '{start}'"],
    "cast": ["SELECT {note} FROM {f} WHERE CAST({note} AS INTEGER) > {k}"],
    "abs": ["SELECT {note} FROM {f} WHERE ABS({pay}) > {k}"],
    "arithmetic": ["SELECT {note} FROM {f} WHERE {pay} + {few} > {k}"],
    "remainder": ["SELECT {note} FROM {f} WHERE {pay} % 7 = 3"],
    "foreign": ["SELECT {name} FROM {d} WHERE {city} = '{foreign}' AND {size} > {k}"],
    "foreign like": ["SELECT {name} FROM {d} WHERE {city} LIKE '{foreign}%'"],
    "long number": ["SELECT {note} FROM {f} WHERE {phone} = {long}"],
    "long number as text": ["SELECT {note} FROM {f} WHERE {note} = {long}"],
    "fraction": ["SELECT {note} FROM {f} WHERE {cost} > {k}.25"],
}  # fmt: skip


def make_schema(rng: random.Random) -> tuple[str, dict[str, str]]:
    """A context and the names that the shapes are filled with."""
    names = iter(rng.sample(WORDS, 24))
    slots = "f d e f2 kind note pay cost day phone name city size age place area home away"
    fill = {slot: next(names) for slot in slots.split()}
    fill["key"] = rng.choice((f"{fill['d']}_id", "id", f"{fill['d'][:3]}code"))
    fill["fk"] = fill["key"] if rng.random() < 0.5 and fill["key"] != "id" else f"{fill['d']}_ref"
    text = rng.choice(("VARCHAR", "TEXT", "VARCHAR(40)"))
    number = rng.choice(("INTEGER", "INT"))
    kind, primary = rng.choice((text, number)), rng.choice(("", " PRIMARY KEY"))
    real = rng.choice((number, "REAL", "DECIMAL(8, 2)"))
    tables = {
        "d": f"{{key}} {kind}{primary}, {{name}} {text}, {{city}} {text}, {{size}} {number}, "
        f"{{age}} {number}",
        "f": f"{{fk}} {kind}, {{kind}} {text}, {{note}} {text}, {{pay}} {number}, {{cost}} {real}, "
        f"{{day}} DATE, {{phone}} {number}",
        "f2": f"{{home}} {kind}, {{away}} {kind}, {{note}} {text}",
        "e": f"{{place}} {text}, {{area}} {number}",
    }
    order = rng.sample(sorted(tables), 4)
    context = "; ".join(f"CREATE TABLE {fill[t]} ({tables[t].format(**fill)})" for t in order)
    k, year = rng.choice((5, rng.randint(4, 99), rng.randint(100, 900))), rng.randint(1990, 2020)
    s, r = rng.sample(TEXTS, 2)
    return context, fill | {
        "k": str(k), "j": str(k + rng.randint(2, 200)), "s": s, "r": r,
        "few": str(rng.randint(2, 6)), "many": str(rng.randint(10, 60)),
        "year": str(year), "month": str(rng.randint(1, 9)),
        "length": str(rng.randint(6, 30)), "lower": s.lower(), "start": s[:3],
        "foreign": rng.choice(FOREIGN), "long": str(rng.randint(10**15, 9 * 10**17)),
    }  # fmt: skip


def make_shapes(schemas: int, seed: int) -> list[tuple[str, str, str, list[str], list[str]]]:
    """(shape, context, gold, right, wrong) for so many schemas, and for each shape."""
    found = []
    for number in range(schemas):
        for shape, (gold, *more) in SHAPES.items():
            context, names = make_schema(random.Random(f"{seed} {number} {shape}"))
            right = [text[2:].format(**names) for text in more if text[0] == "="]
            wrong = [text[2:].format(**names) for text in more if text[0] == "!"]
            found.append((shape, context, gold.format(**names), right, wrong))
    return found
