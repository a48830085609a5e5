"""Names for the text-to-SQL generator: tables, columns and values, disjoint by split.

A line is `table: text columns | number columns`. The three pools share no table name and
no column name (`tests/test_tasks_sql.py` checks it), so a model that does well on `TEST`
has learned to read the schema, not to remember it.
"""

import random
from collections.abc import Collection

TRAIN = """
singers: name country genre | age songs awards
cities: city_name region mayor | population area altitude
players: player team position | goals height caps
books: title author publisher | pages price copies
cars: model maker color | speed weight doors
students: student school major | score credits grade
movies: movie_title studio director | rating budget minutes
rivers: river continent mouth | length depth bridges
hotels: hotel town owner | rooms stars guests
planes: aircraft airline engine | seats range wings
farmers: farmer village crop | acres cows tractors
museums: museum city curator | visitors paintings floors
dogs: dog_name breed trainer | legs bites puppies
ships: ship harbor captain | tons crew decks
doctors: doctor hospital specialty | patients shifts salary
courses: course teacher subject | hours lessons fee
bridges: bridge road builder | span lanes cost
games: game designer console | levels sales rank
teams: club coach stadium | wins losses points
trains: train line station | wagons delay stops
employees: employee department office | bonus years tasks
phones: phone brand system | memory screen cameras
cheeses: cheese milk dairy | fat calories months
lakes: lake county fish | width islands boats
songs: song band album | plays seconds likes
artists: artist style gallery | exhibits prizes works
orders: customer product courier | quantity total discount
houses: street buyer agent | bedrooms windows rent
flights: carrier origin destination | distance duration bags
schools: school_name principal district | pupils classes buses
parks: park ranger state | trails trees benches
poets: poet language movement | poems readers births
laptops: laptop vendor chip | battery ports storage
matches: home_team away_team referee | home_goals away_goals crowd
recipes: dish cook cuisine | spice servings ovens
horses: horse jockey stable | races odds laps
shops: shop manager mall | clerks shelves profit
writers: writer nation award | novels essays fans
trees: species forest soil | rings branches leaves
taxis: driver plate garage | trips fuel fare
""".strip().splitlines()

VALIDATION = """
comets: comet observer orbit | mass tail_km sightings
bakeries: bakery baker flour | loaves cakes customers
castles: castle king valley | towers walls gates
chess_masters: master federation opening | elo draws titles
festivals: festival host theme | tents tickets stages
gardens: garden gardener flower | ponds roses bees
""".strip().splitlines()

TEST = """
glaciers: glacier explorer range_name | thickness cracks retreat
orchestras: orchestra conductor hall | violins concerts members
satellites: satellite agency rocket | launch_mass antennas moons
wineries: winery grape vineyard | bottles barrels vintage
volcanoes: volcano island_group magma | eruptions crater_width ash
libraries: library librarian campus | volumes chairs loans
dancers: dancer ballet partner | leaps tours injuries
robots: robot inventor lab | joints sensors voltage
surfers: surfer beach sponsor | waves boards heats
temples: temple priest province | pillars bells pilgrims
violinists: violinist tutor quartet | recitals strings fees
whales: whale ocean pod | dives calves barnacles
markets: market vegetable seller | stalls kilos taxes
miners: miner tunnel mineral | carts lamps drills
""".strip().splitlines()

TRAIN_VALUES = (
    "Oslo Rome Kent Bolt Iris Nova Lima Zeta Opal Onyx Paris Berlin Tokyo Madrid Cairo Delhi "
    "Anna Boris Carla David Elena Frank Grace Henry Ivan Julia Karl Laura Martin Nina Oscar "
    "Paula Quinn Robert Sofia Thomas Ursula Victor Wendy Xavier Yvonne Zoltan Alpha Beta Delta "
    "Gamma Omega Sigma Red Blue Green Black White Gold Silver North South East West Apollo "
    "Atlas Comet Dragon Eagle Falcon Hector Juno Kappa Lotus Mercury Neptune Orion Phoenix"
).split()
TEST_VALUES = (
    "Bergen Milan Dover Prague Vienna Lagos Quito Hanoi Agnes Bruno Chloe Dmitri Esther Felix "
    "Gloria Hugo Irma Jonas Katya Lukas Mona Nestor Olga Pablo Ruth Stefan Tessa Umberto Vera "
    "Walter Yusuf Zelda Amber Coral Indigo Ivory Scarlet Teal Aurora Blizzard Cobra Dune "
    "Everest Fjord Granite Harbor Icarus Jasper Kodiak Lynx Maple Nimbus Pelican Raven Sequoia"
).split()


def parse(line: str) -> tuple[str, list[str], list[str]]:
    """`table: text columns | number columns` -> (table, text columns, number columns)."""
    table, columns = line.split(":")
    text, number = columns.split("|")
    return table.strip(), text.split(), number.split()


def words(pool: list[str]) -> set[str]:
    """Every word in the table and column names of a pool; `launch_mass` counts as two."""
    parsed = (parse(line) for line in pool)
    names = (name for table, text, number in parsed for name in (table, *text, *number))
    return {word for name in names for word in name.split("_")}


def _letter_chain(pool: list[str]) -> dict[str, str]:
    """After one or two letters (`^` starts, `$` ends a word): the letters seen to follow."""
    chain: dict[str, str] = {}
    for word in sorted(words(pool)):
        letters = f"^{word}$"
        for i in range(1, len(letters)):
            for context in {letters[i - 1], letters[max(0, i - 2) : i]}:
                chain[context] = chain.get(context, "") + letters[i]
    return chain


_CHAIN = _letter_chain(TRAIN)
_HELD_OUT_WORDS = words(VALIDATION) | words(TEST) | {value.lower() for value in TEST_VALUES}


def pseudo_word(rng: random.Random, held_out: Collection[str] = ()) -> str:
    """A word of 3 to 10 letters with the look of the training names, to make copying general.

    Letters follow each other as they do in the training names. Words of the held-out SQL names,
    and those in `held_out`, never come out.
    """
    while True:
        word = "^"
        while word[-1] != "$" and len(word) < 12:
            context = word[-2:] if rng.random() < 0.5 else word[-1]
            word += rng.choice(_CHAIN[context])
        word = word.strip("^$")
        if 3 <= len(word) <= 10 and word not in _HELD_OUT_WORDS and word not in held_out:
            return word
