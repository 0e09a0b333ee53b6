"""Checks that rotation is learned: the pose net alone on the true depth of `streets`.

python -m segjax.main --mode table --table configs/tables/scene_geometry_pose.py \
    --workdir runs/pose --scale quick
"""

from segjax.modes.table import STREETS, Column, Row, Table, small_scale

FILE = 'configs/scene_geometry.py:{scale},method=pose'
ERROR = dict(unit='deg', better='min', digits=3)
PATH = dict(unit='m', better='min', digits=3)
SHARES = (0.0, 0.5)


def row(share):
    """Builds the row of one share of flipped examples."""
    overrides = (f'augment.flip={share}',)
    return Row(f'flip_{share}', f'{share:.0%} flipped', FILE, overrides=overrides, stage='pose')


def get_table():
    """Returns the table."""
    return Table(
        title='Is rotation learned?',
        source='an experiment of this project, not of a paper',
        columns=(
            Column('rotation', 'rotation_error', **ERROR),
            Column('no rotation', 'baseline_still/rotation_error', **ERROR | {'better': ''}),
            Column('yaw correlation', 'yaw_correlation', better='max', digits=2),
            Column('trajectory', 'trajectory_error', **PATH),
            Column('no motion', 'baseline_still/trajectory_error', **PATH | {'better': ''}),
        ),
        rows=tuple(row(share) for share in SHARES),
        scales={'quick': small_scale('quick', STREETS)},
        notes='Saying "no rotation" has the error of the column `no rotation`, and no correlation.',
        claims=(),
    )
