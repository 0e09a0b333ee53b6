"""A paper's table: its rows trained and scored over several seeds, our numbers beside the published ones.

    python -m segjax.main --mode table --table configs/tables/FILE.py --scale quick --workdir runs/table

    <workdir>/<row>/seed_<n>/               a run folder as --mode train makes it; with failed.json if it diverged
    <workdir>/speed.json                    times of the rows, where columns show them
    <workdir>/table.md, .csv, .json, .html  written anew after every run; claims.csv, too, if there are claims

A table file is Python with a function `get_table()` that returns a `Table`. All configs are checked before the first
run. What is finished is not trained again, so an interrupted table goes on by the same command. The order is all rows
of the first seed, then all of the second: an interrupted table has whole columns. Times are measured after the last
run, of all rows in turn, and again when rows, their configs or the machine are others.
"""

from segjax.modes.table.loop import run_table
from segjax.modes.table.plan import make_table_plan
from segjax.modes.table.spec import (
    STREETS,
    Claim,
    Column,
    Condition,
    Difference,
    Row,
    Scale,
    Table,
    small_scale,
)

__all__ = [
    'STREETS',
    'Claim',
    'Column',
    'Condition',
    'Difference',
    'Row',
    'Scale',
    'Table',
    'make_table_plan',
    'run_table',
    'small_scale',
]
