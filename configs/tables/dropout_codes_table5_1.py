"""Table 5.1 of the thesis, and Figs. 5.4 to 5.7: animal heads drawn from normal maps.

python -m segjax.main --mode table --table configs/tables/dropout_codes_table5_1.py --scale quick \\
    --workdir runs/dropout_codes_heads
... --scale paper --config.data.root=/data/oxford_pet
                               Oxford-IIIT Pet at 96x96, VGG19 from --config.init_from.sources

The scores compare the normals that a net estimates on samples and on true images. All rows take the
net that the row `single` trains, and have the weights of the loss that it calibrates. The best
sample of each image counts. The curves `best_of_...` of all rows are Fig. 5.4, and the scores
`_top` Fig. 5.6. The rows `..._100` test a net with 100 samples, most of which have new codes.
"""

from segjax.modes.table import (
    Claim,
    Column,
    Row,
    Scale,
    Scatter,
    Table,
    small_scale,
    starting_from,
    with_published,
)

FILE = 'configs/dropout_codes.py:{scale}'
GAN = 'configs/conditional_gan.py:{scale}'
PIXELS = 'configs/pixel_neighbours.py:{scale}'
SCORED = ('normals.use=load', "init_from.nets=('normal_net', 'loss_factors')")
"""Overrides of rows that score normals with the net of the row `single`."""
EQUAL_LOSS = 'loss.use=load'
"""Override of rows that have the calibrated weights of the row `single`."""
OF_RIVALS = 'testing.num_samples=72'
"""Override of rivals whose best of 72 samples is published."""

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
    'pixel_neighbours': (13.8, 11.9, 16.6, 46.9, 84.9, 94.1),
    'crn_72': (11.8, 10.3, 13.9, 56.3, 91.4, 97.6),
    'shared_4': (12.4, 10.9, 14.5, 52.9, 90.0, 97.0),
    'shared_8': (12.4, 10.8, 14.4, 53.6, 90.2, 97.1),
    'shared_20': (12.0, 10.5, 14.1, 55.2, 91.1, 97.6),
    'shared_72': (11.7, 10.2, 13.7, 56.7, 91.9, 97.8),
}
"""{row: numbers of COLUMNS}. The best of 72 samples counts for all rivals."""
NUMBERS = (4, 8, 20, 72)
"""Branches of the published models with shared parameters."""
NOTES = (
    'Angles in degrees and shares of pixels, of the best sample of each image. A mean over images '
    'of the scores of each image; the thesis pools all pixels. distance: of samples to their mean '
    'image, in grey values (Fig. 5.7).'
)


def get_rows():
    """Returns all rows."""
    world = 'world=heads,neighbours=false'
    single = Row('single', 'one image', f'{FILE},branches=single,{world}')
    rivals = (
        Row('pix2pix', 'pix2pix', f'{GAN},gan=pix2pix,world=heads'),
        Row('bicycle', 'BicycleGAN', f'{GAN},gan=bicycle,world=heads'),
        Row('pixel_neighbours', 'PixelNN', f'{PIXELS},world=heads'),
    )
    rows = []
    for number in (8, 72):
        late = f'{FILE},branches=late,number={number},{world}'
        separate = f'{FILE},branches=separate,number={number},{world}'
        rows.append(Row(f'crn_{number}', f'CRN, {number}', late))
        rows.append(Row(f'separate_{number}', f'Separate, {number}', separate))
    for number in NUMBERS:
        key = f'shared_{number}'
        config = f'{FILE},number={number},{world}'
        rows.append(Row(key, f'Shared, {number}', config))
        rows.append(
            Row(
                f'{key}_100',
                f'Shared, {number}, 100 samples',
                config,
                overrides=('testing.codes=both', 'testing.num_samples=100'),
                evaluates=key,
            )
        )
    every = (
        single,
        *starting_from('single', rivals, *SCORED, OF_RIVALS),
        *starting_from('single', rows, *SCORED, EQUAL_LOSS),
    )
    return with_published(every, COLUMNS, PUBLISHED)


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
            Column('SSIM', 'SSIM_best', better='max', digits=3),
            Column('distance', 'distance_mean', unit='grey values', better='max'),
        ),
        rows=get_rows(),
        scales={
            'quick': small_scale('quick', 'the procedural world `heads`'),
            'paper': Scale('pets', (0,), note='110,000 steps a row, and 300 epochs of the GANs.'),
        },
        notes=NOTES,
        claims=get_claims(),
        scatters=(Scatter('distance', '11.25°'),),
    )
