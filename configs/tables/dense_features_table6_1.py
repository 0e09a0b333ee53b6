"""Table 6.1 of He's thesis: synthetic features and synthetic images as training data.

python -m segjax.main --mode table --table configs/tables/dense_features_table6_1.py \\
    --scale quick --workdir runs/table6_1
... --scale camvid --config.data.root=/data/camvid      CamVid with a PSPNet-50 of half the width
... --scale paper --config.data.root=/data/cityscapes   PSPNet-101 on Cityscapes
    --override 'baseline:init_from.path=pspnet101_cityscapes.pth'

All rows of a seed begin from the net of the row `baseline`. The rows of our features share a
generator, which a hidden row trains. The row `steps` refits with real images alone: further steps
alone may move the scores.

Not rows: pix2pixHD (Wang et al.) needs the run of a painter. configs/dense_features.py has
`source=painter`. The semi-parametric images of Qi et al. are not implemented.
"""

from segjax.modes.table import (
    SEGMENTATION_SCORES,
    STREETS,
    Claim,
    Row,
    Scale,
    Table,
    literature,
    share_columns,
    small_scale,
    with_published,
)

FILE = 'configs/dense_features.py:{scale}'
BASELINE = 'baseline'
PUBLISHED = {
    BASELINE: (96.34, 86.34, 79.73, 93.15),
    'images': (95.84, 82.54, 76.55, 92.17),
    'ours': (96.40, 87.29, 80.30, 93.27),
    'ours_val': (96.40, 87.47, 80.33, 93.29),
}
"""{row: numbers of SEGMENTATION_SCORES} on the validation images of Cityscapes."""
LITERATURE = {
    'Images (Wang et al. 2018), layouts of train': (96.21, 85.61, 79.52, 93.07),
    'Images (Qi et al. 2018), layouts of val': (96.33, 85.99, 79.60, 93.11),
}


def generator(key, arguments):
    """Builds the hidden row of a generator on the features of the baseline."""
    config = f'{FILE},stages=features{arguments}'
    return Row(key, key, config, after=BASELINE, hidden=True)


def refit(key, name, arguments, start=BASELINE):
    """Builds the row of a refit, after the row of its generator or of the baseline."""
    return Row(key, name, f'{FILE},stages=refit{arguments}', after=start)


def get_rows():
    """Returns all rows."""
    rows = (
        Row(BASELINE, 'Baseline', f'{FILE},stages=segmentation'),
        generator('generator', ''),
        generator('generator_images', ',tap=image'),
        refit('steps', 'Further steps on real images', ',source=none'),
        refit('noise', 'Noised features', ',source=noise'),
        refit('mixup', 'Mixed features', ',source=mixup'),
        refit('images', 'Images (BicycleGAN)', ',tap=image,mining=false', 'generator_images'),
        refit('ours', 'Ours', '', 'generator'),
        refit('ours_val', 'Ours, layouts of train and val', ',layouts=val', 'generator'),
    )
    return with_published(rows, SEGMENTATION_SCORES, PUBLISHED)


def get_claims():
    """Returns the orderings of Table 6.1."""
    claims = []
    for column in ('ClassAcc', 'mIoU'):
        claims += [
            Claim(f'synthetic features raise {column}', column, 'ours', BASELINE),
            Claim(f'they raise it more than further steps: {column}', column, 'ours', 'steps'),
            Claim(f'synthetic images lower {column}', column, BASELINE, 'images'),
            Claim(f'layouts of val raise {column}', column, 'ours_val', 'ours'),
        ]
    return tuple(claims)


def get_table():
    """Returns the table."""
    return Table(
        title='Synthetic dense features: Table 6.1',
        source='He, thesis, Table 6.1 (Cityscapes val, single scale)',
        columns=share_columns(SEGMENTATION_SCORES, digits=2),
        rows=get_rows(),
        scales={
            'quick': small_scale('quick', STREETS),
            'camvid': small_scale('camvid', 'CamVid at 360x480'),
            'paper': Scale('', (0,), note="The thesis' setting, one run each."),
        },
        notes='ClassAcc: mean accuracy of the classes. fwIoU: IoU weighted by frequency.',
        claims=get_claims(),
        literature=literature(SEGMENTATION_SCORES, LITERATURE),
    )
