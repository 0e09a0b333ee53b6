"""`--mode table`: trains the rows of a paper's table over several seeds, and compares the numbers.

    python -m segjax.main --mode table --table configs/tables/FILE.py --scale quick --workdir
    runs/table

    <workdir>/<row>/seed_<n>/               a run folder as --mode train makes it, with failed.json
                                            if the run diverged
    <workdir>/speed.json                    times of the rows, if columns show times
    <workdir>/table.md, .csv, .json, .html  written again after every run
    <workdir>/claims.csv                    written again after every run, if the table has claims
                                            or headlines

A table file is Python with a function `get_table()` that returns a `Table`. All configs are checked
before the first run. Finished runs are not trained again, so the same command resumes an
interrupted table. All rows are trained with the first seed, then all rows with the second seed, so
that an interrupted table has whole columns. Times are measured after the last run, for all rows in
turn. They are measured again if the rows, their configs or the machine change.
"""

from segjax.modes.table.loop import run_table
from segjax.modes.table.plan import make_table_plan
from segjax.modes.table.spec import (
    SEGMENTATION_SCORES,
    STREETS,
    Claim,
    Column,
    Condition,
    Difference,
    Literature,
    Row,
    Scale,
    Scatter,
    Table,
    literature,
    load,
    published_numbers,
    share_columns,
    small_scale,
    starting_from,
    with_published,
)

__all__ = [
    'SEGMENTATION_SCORES',
    'STREETS',
    'Claim',
    'Column',
    'Condition',
    'Difference',
    'Literature',
    'Row',
    'Scale',
    'Scatter',
    'Table',
    'literature',
    'load',
    'make_table_plan',
    'published_numbers',
    'run_table',
    'share_columns',
    'small_scale',
    'starting_from',
    'with_published',
]
