"""Tables 3.2 and 3.4 of the thesis: STD2P with and without frames, and its baselines.

python -m segjax.main --mode table --table configs/tables/std2p_table3_2.py --scale quick \\
    --workdir runs/std2p
... --scale paper --config.data.root=/data/nyu --override '^fcn$:init_from.path=FILE'
                               NYUDv2 with 40 classes, fine-tuned from a trained FCN-16s

All rows begin from the net of the row `fcn`. The rows that evaluate another row test the same net
in another way: with a single frame, with several frames, with the frames before the target alone,
or along the optical flow of pixels. At the scale of the paper, `fcn` has no steps: it is the given
net.
"""

from segjax.modes.table import (
    Claim,
    Row,
    Scale,
    Table,
    literature,
    share_columns,
    small_scale,
    with_published,
)

FILE = 'configs/std2p.py:{scale}'
AFTER_FCN = ('frames.num_steps=0',)
"""Override of rows that fine-tune the net of another row."""
COLUMNS = ('pixel accuracy', 'class accuracy', 'mIoU', 'fwIoU')

PUBLISHED = {
    'fcn': (65.4, 46.1, 34.0, 49.5),
    'superpixel': (68.5, 48.7, 36.0, 52.9),
    'superpixel_plus': (68.4, 52.1, 38.1, 54.0),
    'full': (70.1, 53.8, 40.1, 55.7),
    'fcn_pixel': (66.2, 45.9, 34.6, 50.2),
}
"""{row: numbers of COLUMNS} on NYUDv2 with 40 classes."""
LITERATURE = {
    'Deng et al. 2015': (63.8, None, 31.5, 48.5),
    'Gupta et al. 2014': (60.3, None, 28.6, 47.0),
    'Kendall et al. 2015': (68.0, 45.8, 32.4, None),
    'Eigen and Fergus 2015': (65.6, 45.1, 34.1, 51.4),
    'Zheng et al. 2015, CRF-RNN': (66.3, 48.9, 35.4, 51.0),
    'Chen et al. 2014, DeepLab': (68.7, 46.9, 36.8, 52.5),
    'Chen et al. 2018, DeepLab-LFOV': (70.3, 49.6, 39.4, 54.7),
    'Gadde et al. 2016, BI(1000)': (57.7, 37.8, 27.1, 41.9),
    'Gadde et al. 2016, BI(3000)': (58.9, 39.3, 27.7, 43.0),
    'Caesar et al. 2016, E2S2': (58.1, 52.9, 31.0, 44.2),
}
"""Further methods of Table 3.2."""
NOTES = (
    'superpixel: trained and tested with the target frame alone. superpixel+: trained with several '
    'frames, tested with the target alone. full: several frames in both. Tests of the net of FCN '
    'change nothing but the pooling, on the same images and frames.'
)


def trained(key, name, arguments):
    """Builds the row of a net that is fine-tuned with pooling from the row `fcn`."""
    return Row(key, name, f'{FILE},{arguments}', overrides=AFTER_FCN, after='fcn')


def tested(key, name, arguments, evaluates, overrides=()):
    """Builds the row of a trained net that is tested in another way."""
    return Row(
        key,
        name,
        f'{FILE},{arguments}',
        overrides=(*(AFTER_FCN if evaluates == 'full' else ()), *overrides),
        evaluates=evaluates,
    )


def get_rows():
    """Returns all rows."""
    past = ('testing.direction=past',)
    rows = (
        Row('fcn', 'FCN', f'{FILE},system=fcn'),
        tested(
            'fcn_superpixel', 'FCN, tested with superpixels', 'system=fcn,test=superpixel', 'fcn'
        ),
        tested('fcn_full', 'FCN, tested with frames', 'system=fcn,test=full', 'fcn'),
        tested('fcn_past', 'FCN, past frames', 'system=fcn,test=full', 'fcn', overrides=past),
        tested('fcn_pixel', 'FCN, pixel correspondence', 'system=fcn,test=pixel', 'fcn'),
        trained('superpixel', 'superpixel', 'use=superpixel'),
        trained('full', 'full', 'use=full'),
        tested('superpixel_plus', 'superpixel+', 'use=full,test=superpixel', 'full'),
        tested('full_past', 'full, past frames', 'use=full', 'full', overrides=past),
    )
    return with_published(rows, COLUMNS, PUBLISHED)


def get_claims():
    """Returns the orderings of Tables 3.2 and 3.4."""
    claims = []
    for column in COLUMNS:
        claims += [
            Claim(f'superpixels raise {column}', column, 'superpixel', 'fcn'),
            Claim(f'frames in the test raise {column}', column, 'full', 'superpixel_plus'),
            Claim(f'the full model raises {column} over FCN', column, 'full', 'fcn'),
            Claim(f'regions raise {column} over pixels', column, 'fcn_full', 'fcn_pixel'),
            Claim(f'past and future raise {column} over the past', column, 'full', 'full_past'),
        ]
    claims.append(
        Claim('unlabelled frames in training raise mIoU', 'mIoU', 'superpixel_plus', 'superpixel')
    )
    return tuple(claims)


def get_table():
    """Returns the table."""
    names = ('pixel_accuracy', 'class_accuracy', 'mIoU', 'fwIoU')
    scores = dict(zip(COLUMNS, names, strict=True))
    scores['boundary F'] = 'boundaries/ODS_F'
    return Table(
        title='Spatio-temporal data-driven pooling: Tables 3.2 and 3.4',
        source='He, thesis, Tables 3.2 and 3.4 (NYUDv2, 40 classes)',
        columns=share_columns(scores),
        rows=get_rows(),
        scales={
            'quick': small_scale('quick', 'the procedural world `rooms`'),
            'paper': Scale(
                '',
                seeds=(0,),
                overrides=('testing.boundary_thresholds=99',),
                note="The paper's setting. Its rows are one run each.",
            ),
        },
        notes=NOTES,
        compare=('fcn', 'fcn_superpixel', 'fcn_full', 'superpixel', 'full'),
        claims=get_claims(),
        literature=literature(COLUMNS, LITERATURE),
    )
