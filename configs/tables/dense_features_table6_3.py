"""Table 6.3 of He's thesis: features of different stages of the segmentation net.

python -m segjax.main --mode table --table configs/tables/dense_features_table6_3.py \\
    --scale quick --workdir runs/table6_3
... --scale paper --config.data.root=/data/cityscapes   PSPNet-101 on Cityscapes
    --override 'baseline:init_from.path=pspnet101_cityscapes.pth'

Every tap has two rows. The first shows the statistics of its real features, and its synthetic
features as the net reads them. The second shows the gain of a refit over its start.
The taps of the scale quick are those of a PSPNet-18 (configs/dense_features.py).
"""

from segjax.modes.table import (
    STREETS,
    Claim,
    Column,
    Row,
    Scale,
    Table,
    published_numbers,
    small_scale,
)

FILE = 'configs/dense_features.py:{scale}'
BASELINE = 'baseline'
STATISTICS = ('entropy', 'IoU of hist.', 'PSPNet-score')
GAINS = ('gain of ClassAcc', 'gain of mIoU')
PUBLISHED = {
    'image': ('images', (4.8290, 0.5596, 2.22), (-3.80, -3.18)),
    'stem': ('conv1_3', (3.0987, 0.5257, 9.76), (0.02, -1.09)),
    'stage2': ('conv2_3', (3.1584, 0.3171, 26.97), (0.65, -0.37)),
    'stage3': ('conv3_4', (4.0767, 0.3431, 56.77), (0.81, -0.1)),
    'early': ('conv4_6', (3.3799, 0.4295, 70.66), (0.99, 0.11)),
    'middle': ('conv4_12', (3.3659, 0.4087, 74.33), (1.17, 0.55)),
    'late': ('conv4_18', (3.2535, 0.3651, 61.54), (1.75, 0.13)),
    'last': ('conv4_23', (3.4065, 0.2802, 83.78), (0.08, 0.05)),
}
"""{tap: (name in the thesis, numbers of STATISTICS, numbers of GAINS)}."""
REAL_FEATURES = 86.15
"""Published PSPNet-score of real features."""


def get_rows():
    """Returns the hidden baseline, and two rows for each tap."""
    rows = [Row(BASELINE, 'baseline', f'{FILE},stages=segmentation', hidden=True)]
    for tap, (name, statistics, gains) in PUBLISHED.items():
        features = f'{tap}_features'
        config = f'{FILE},tap={tap},mining=false'
        rows += [
            Row(
                features,
                name,
                f'{config},stages=features',
                published=published_numbers(STATISTICS, statistics),
                after=BASELINE,
            ),
            Row(
                f'{tap}_refit',
                f'{name}, refit',
                f'{config},stages=refit',
                published=published_numbers(GAINS, gains),
                after=features,
            ),
        ]
    return tuple(rows)


def get_claims():
    """Returns the orderings of Table 6.3."""
    score = 'PSPNet-score'
    mIoU = 'gain of mIoU'
    return (
        Claim('the net reads no synthetic image', score, 'stem_features', 'image_features'),
        Claim('features of stage 3 are read better', score, 'stage3_features', 'stem_features'),
        Claim('the last features are read best', score, 'last_features', 'stage3_features'),
        Claim('images overlap most', 'IoU of hist.', 'image_features', 'last_features'),
        Claim('features help more than images', mIoU, 'middle_refit', 'image_refit'),
        Claim('the middle helps more than the last block', mIoU, 'middle_refit', 'last_refit'),
    )


def get_table():
    """Returns the table."""
    return Table(
        title='Synthetic dense features: Table 6.3',
        source='He, thesis, Table 6.3 (Cityscapes)',
        columns=(
            Column('entropy', 'entropy', digits=4),
            Column('IoU of hist.', 'histogram_iou', digits=4),
            Column('PSPNet-score', 'synthetic_mIoU', unit='%', factor=100, better='max', digits=2),
            Column(
                'real features',
                'baseline_real_features/mIoU',
                unit='%',
                factor=100,
                digits=2,
            ),
            Column('gain of ClassAcc', 'gain_class_accuracy', unit='%', factor=100, digits=2),
            Column('gain of mIoU', 'gain_mIoU', unit='%', factor=100, better='max', digits=2),
        ),
        rows=get_rows(),
        scales={
            'quick': small_scale('quick', STREETS),
            'paper': Scale('', (0,), note="The thesis' setting, one run each."),
        },
        notes='Entropy and IoU of histograms: means over classes and channels of real features, '
        f'as the thesis defines them. Published score of real features: {REAL_FEATURES}.',
        claims=get_claims(),
    )
