"""Table 4.2 of He's thesis: fixed dilations of DeepLab-LargeFOV against learned dilations.

python -m segjax.main --mode table --table configs/tables/learned_dilation_table4_2.py \
    --scale quick --workdir runs/table4_2
... --scale paper --config.data.root=/data/cityscapes --config.init_from.path=largefov_voc.npz
                                                          10 trainings of 20,000 steps on Cityscapes
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

FILE = 'configs/learned_dilation.py:{scale},net=largefov'
LAYERS = ('conv5_1', 'conv5_2', 'conv5_3', 'fc6')


def row(key, name, published, dilations, learned='', config=FILE, overrides=()):
    """Builds a row.

    Args:
      key: of the row.
      name: of the row, as printed.
      published: pixel accuracy, class accuracy, fwIoU and mIoU in per cent. () if the thesis has no
        such row.
      dilations: of LAYERS, as printed.
      learned: layers that learn, as printed.
      config: of the row.
      overrides: of the row.
    """
    metrics = ('Pixel Acc.', 'Cls Acc.', 'f.w. IoU', 'Mean IoU')
    return Row(
        key=key,
        name=name,
        config=config,
        published=published_numbers(metrics, published) if published else {},
        overrides=overrides,
        labels={**dict(zip(LAYERS, dilations, strict=True)), 'learned': learned},
    )


def fixed(key, published, *conv5):
    """Builds a row of fixed dilations of conv5_1, conv5_2 and conv5_3."""
    pairs = tuple((f'vgg/{layer}', float(dilation)) for layer, dilation in zip(LAYERS, conv5))
    dilations = (*map(str, conv5), '12')
    return row(
        key,
        'fixed',
        published,
        dilations,
        config=f'{FILE},dilation=fixed',
        overrides=(f'dilation.replace={pairs!r}',),
    )


def get_rows():
    """Returns the rows in the order of the thesis, and the control with random factors."""
    published = ('2', '2', '2', '12')
    anywhere = ('[1,4]', '[1,4]', '[1,4]', '[4,20]')
    return (
        fixed('fixed_1', (93.11, 68.70, 87.76, 58.91), 1, 1, 1),
        fixed('fixed_2', (93.49, 71.76, 88.36, 61.44), 2, 2, 2),
        fixed('fixed_3', (93.50, 71.93, 88.37, 62.17), 3, 3, 3),
        fixed('fixed_4', (93.49, 72.35, 88.38, 62.51), 4, 4, 4),
        fixed('fixed_mean', (93.63, 72.46, 88.58, 62.94), 2.35, 2.6, 3.5),
        row(
            'learned_conv5',
            'learned',
            (93.50, 73.25, 88.41, 62.31),
            published,
            'conv5',
            overrides=("dilation.learn=('vgg/conv5_.*',)",),
        ),
        row(
            'learned_fc6',
            'learned',
            (93.65, 72.64, 88.61, 62.86),
            published,
            'fc6',
            overrides=("dilation.learn=('fc6',)",),
        ),
        row(
            'learned_uniform',
            'learned, random start',
            (93.69, 72.90, 88.71, 62.92),
            anywhere,
            'conv5, fc6',
            config=f'{FILE},start=uniform',
        ),
        row('learned', 'learned', (93.72, 73.38, 88.77, 63.31), published, 'conv5, fc6'),
        row('random', 'random, fixed (ours)', (), anywhere, config=f'{FILE},dilation=random'),
    )


def get_table():
    """Returns the table."""
    return Table(
        title='Learned dilation factors: Table 4.2',
        source='He, thesis, Table 4.2 (Cityscapes val, DeepLab-LargeFOV)',
        columns=(
            Column('Pixel Acc.', 'pixel_accuracy', unit='%', factor=100, better='max', digits=2),
            Column('Cls Acc.', 'class_accuracy', unit='%', factor=100, better='max', digits=2),
            Column('f.w. IoU', 'fwIoU', unit='%', factor=100, better='max', digits=2),
            Column('Mean IoU', 'mIoU', unit='%', factor=100, better='max', digits=2),
            Column('Mean IoU, whole factors', 'mIoU_whole_factors', unit='%', factor=100, digits=2),
            Column('training time', 'speed/train/over/fixed_2', better='min', digits=2),
            Column('inference time', 'speed/predict/over/fixed_2', better='min', digits=2),
        ),
        rows=get_rows(),
        scales={
            'quick': small_scale('quick', STREETS),
            'paper': Scale(
                '',
                seeds=(0,),
                note="The paper's setting, but for its start from weights trained on PASCAL VOC: "
                'init_from.path.',
            ),
        },
        notes='Fixed fractional dilations (2.35, 2.6, 3.5) are the published means of the learned '
        'dilations, at every scale. The means of our own learned row may differ. Random factors '
        'are drawn uniformly from the ranges and never learn: a control of ours, which tells '
        'learning from diversity. Whole factors: the trained net with its factors rounded, without '
        'any further training. Times are per image, relative to fixed dilations of 2, 2, 2. '
        'Published: 1.10 in training, 1.03 to 1.08 in inference.',
        compare=('fixed_2', 'fixed_mean', 'learned_uniform', 'learned'),
        claims=(
            Claim('dilation helps', 'Mean IoU', 'fixed_2', 'fixed_1'),
            Claim('learning helps', 'Mean IoU', 'learned', 'fixed_2'),
            Claim('learned beats the best fixed whole dilation', 'Mean IoU', 'learned', 'fixed_4'),
            Claim(
                'a factor for each channel beats their mean', 'Mean IoU', 'learned', 'fixed_mean'
            ),
            Claim('fractional means beat whole dilations', 'Mean IoU', 'fixed_mean', 'fixed_4'),
            Claim('conv5 has something to learn', 'Mean IoU', 'learned_conv5', 'fixed_2'),
            Claim('fc6 has something to learn', 'Mean IoU', 'learned_fc6', 'fixed_2'),
            Claim('a random start beats fixed dilations', 'Mean IoU', 'learned_uniform', 'fixed_4'),
            Claim('learning beats random factors (not published)', 'Mean IoU', 'learned', 'random'),
        ),
    )
