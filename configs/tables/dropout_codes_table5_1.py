"""Table 5.1 of the thesis, and Figs. 5.4 to 5.7: animal heads drawn from normal maps.

python -m segjax.main --mode table --table configs/tables/dropout_codes_table5_1.py --scale quick \\
    --workdir runs/dropout_codes_heads
... --scale paper --config.data.root=/data/oxford_pet
                               Oxford-IIIT Pet at 96x96, VGG19 from --config.init_from.sources

The scores compare the normals that a net estimates on samples and on true images. All rows take the
net that the row `single` trains. The best sample of each image counts. The curves `best_of_...` of
all rows are Fig. 5.4, and the scores `_top` Fig. 5.6. The rows `..._100` test a net with 100
samples, most of which have new codes.
"""

from segjax.modes.table import (
    Claim,
    Column,
    Literature,
    Row,
    Scale,
    Table,
    published_numbers,
    small_scale,
)

FILE = 'configs/dropout_codes.py:{scale}'
GAN = 'configs/conditional_gan.py:{scale}'
SCORED = ('normals.use=load',)
"""Override of rows that score normals with the net of the row `single`."""
START = 'single/normals'
"""The stage that trains this net."""
OF_RIVALS = ('testing.num_samples=72',)
"""Override of the GANs, whose best of 72 samples is published."""

COLUMNS = ('mean', 'median', 'RMSE', '11.25°', '22.5°', '30°')
SCORES = (
    'mean_angle_best',
    'median_angle_best',
    'rms_angle_best',
    'accuracy_11.25_best',
    'accuracy_22.5_best',
    'accuracy_30_best',
)
PUBLISHED = {
    'pix2pix': (13.2, 11.4, 15.7, 49.2, 87.1, 95.3),
    'bicycle': (21.6, 19.3, 24.9, 24.3, 60.2, 77.5),
    'crn_72': (11.8, 10.3, 13.9, 56.3, 91.4, 97.6),
    'shared_4': (12.4, 10.9, 14.5, 52.9, 90.0, 97.0),
    'shared_8': (12.4, 10.8, 14.4, 53.6, 90.2, 97.1),
    'shared_20': (12.0, 10.5, 14.1, 55.2, 91.1, 97.6),
    'shared_72': (11.7, 10.2, 13.7, 56.7, 91.9, 97.8),
}
"""{row: numbers of COLUMNS}. The best of 72 samples counts for all rivals."""
PIXEL_NN = (13.8, 11.9, 16.6, 46.9, 84.9, 94.1)
"""Numbers of COLUMNS of PixelNN."""
NUMBERS = (4, 8, 20, 72)
"""Branches of the published models with shared parameters."""
NOTES = (
    'Angles in degrees and shares of pixels, of the best sample of each image. A mean over images '
    'of the scores of each image; the thesis pools all pixels. distance: of samples to their mean '
    'image, in grey values (Fig. 5.7).'
)


def row(key, name, config, start=START, overrides=()):
    """Builds a row whose samples are scored by the normal net of the row `single`."""
    return Row(
        key,
        name,
        config,
        published=published_numbers(COLUMNS, PUBLISHED[key]) if key in PUBLISHED else {},
        overrides=(*(SCORED if start else ()), *overrides),
        after=start,
    )


def get_rows():
    """Returns all rows."""
    world = 'world=heads,neighbours=false'
    rows = [
        row('single', 'one image', f'{FILE},branches=single,{world}', start=''),
        row('pix2pix', 'pix2pix', f'{GAN},gan=pix2pix,world=heads', overrides=OF_RIVALS),
        row('bicycle', 'BicycleGAN', f'{GAN},gan=bicycle,world=heads', overrides=OF_RIVALS),
    ]
    for number in (8, 72):
        rows.append(
            row(f'crn_{number}', f'CRN, {number}', f'{FILE},branches=late,number={number},{world}')
        )
        rows.append(
            row(
                f'separate_{number}',
                f'Separate, {number}',
                f'{FILE},branches=separate,number={number},{world}',
            )
        )
    for number in NUMBERS:
        config = f'{FILE},number={number},{world}'
        rows.append(row(f'shared_{number}', f'Shared, {number}', config))
        rows.append(
            Row(
                f'shared_{number}_100',
                f'Shared, {number}, 100 samples',
                config,
                overrides=(*SCORED, 'testing.codes=both', 'testing.num_samples=100'),
                evaluates=f'shared_{number}',
            )
        )
    return tuple(rows)


def get_claims():
    """Returns the orderings of Table 5.1 and of Fig. 5.7."""
    return (
        Claim('more branches are better', '11.25°', 'shared_72', 'shared_4'),
        Claim('shared branches are better than CRN', '11.25°', 'shared_72', 'crn_72'),
        Claim(
            'new codes are better than the training codes alone',
            '11.25°',
            'shared_8_100',
            'shared_8',
        ),
        Claim('four branches are better than BicycleGAN', '11.25°', 'shared_4', 'bicycle'),
        Claim('an early split is more diverse', 'distance', 'separate_8', 'crn_8'),
    )


def get_table():
    """Returns the table."""
    columns = []
    for column, score in zip(COLUMNS, SCORES, strict=True):
        if score.startswith('accuracy'):
            columns.append(Column(column, score, unit='%', factor=100, better='max'))
        else:
            columns.append(Column(column, score, better='min'))
    return Table(
        title='Drop-out codes: Table 5.1',
        source='He, thesis, Table 5.1 (heads of Oxford-IIIT Pet)',
        columns=(
            *columns,
            Column('SSIM', 'SSIM_best', better='max'),
            Column('distance', 'distance_mean', better='max'),
        ),
        rows=get_rows(),
        scales={
            'quick': small_scale('quick', 'the procedural world `heads`'),
            'paper': Scale('pets', (0,), note='110,000 steps a row, and 300 epochs of the GANs.'),
        },
        notes=NOTES,
        claims=get_claims(),
        literature=(Literature('PixelNN', published_numbers(COLUMNS, PIXEL_NN)),),
    )
