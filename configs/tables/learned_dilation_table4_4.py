"""Table 4.4 of He's thesis, and the CamVid half of Table 4.5: IoU by class of two nets.

python -m segjax.main --mode table --table configs/tables/learned_dilation_table4_4.py \
    --scale paper --config.data.root=/data/camvid --workdir runs/table4_4 \
    --override 'deeplab_v2:init_from.path=deeplabv1_resnet101-coco.pth' \
    --override 'pspnet:init_from.path=pspnet101_cityscapes.pth'
... --scale camvid_quick ...                           a hundred times smaller, on the split val

The nets are DeepLab-v2 and PSPNet, each with fixed, learned and random dilation. There is no scale
`quick`, because the classes of `streets` differ (see learned_dilation_table4_3.py).
"""

from segjax.modes.table import (
    Claim,
    Column,
    Row,
    Scale,
    Table,
    share_columns,
    small_scale,
    with_published,
)

FILE = 'configs/learned_dilation.py:{scale}'
CLASSES = {
    'Building': 'Building',
    'Tree': 'Tree',
    'Sky': 'Sky',
    'Car': 'Car',
    'Sign': 'Sign',
    'Road': 'Road',
    'Pedestrian': 'Pedestrian',
    'Fence': 'Fence',
    'Pole': 'Pole',
    'Sidewalk': 'Pavement',
    'Bicyclist': 'Bicyclist',
}
"""Name in the table -> name in the data set."""
NETS = {'deeplab_v2': 'DeepLab-v2', 'pspnet': 'PSPNet'}
PUBLISHED = {
    'deeplab_v2_fixed': (83.8, 76.5, 90.9, 89.1, 46.0, 94.6, 57.0, 28.4, 19.6, 81.4, 50.1, 65.2),
    'deeplab_v2_learned': (84.1, 76.3, 90.9, 88.8, 47.5, 94.4, 58.1, 32.4, 20.0, 80.8, 54.0, 66.1),
    'pspnet_fixed': (87.8, 79.5, 91.4, 91.4, 57.7, 96.5, 66.7, 58.6, 23.5, 87.8, 66.9, 73.4),
    'pspnet_learned': (88.0, 79.3, 91.3, 91.7, 58.8, 96.5, 66.9, 61.9, 23.0, 87.8, 69.4, 73.9),
}
"""IoU of CLASSES in their order, then the mean."""
SUFFIXES = {
    'fixed': '',
    'learned': ', learned dilation',
    'random': ', random fixed dilation (ours)',
}


def get_rows():
    """Returns a row of each net and dilation."""
    rows = []
    for net, name in NETS.items():
        for dilation, suffix in SUFFIXES.items():
            key = f'{net}_{dilation}'
            config = f'{FILE},net={net},dilation={dilation}'
            rows.append(Row(key, name + suffix, config))
    return with_published(rows, (*CLASSES, 'mean IoU'), PUBLISHED)


def get_claims():
    """Returns the claims about means, and about the classes that the thesis names."""
    claims = [
        Claim('learning helps DeepLab-v2', 'mean IoU', 'deeplab_v2_learned', 'deeplab_v2_fixed'),
        Claim('learning helps PSPNet', 'mean IoU', 'pspnet_learned', 'pspnet_fixed'),
    ]
    for net, name in NETS.items():
        text = f'learning beats random factors, {name} (not published)'
        claims.append(Claim(text, 'mean IoU', f'{net}_learned', f'{net}_random'))
    claims.append(
        Claim('PSPNet beats DeepLab-v2', 'mean IoU', 'pspnet_fixed', 'deeplab_v2_learned')
    )
    for column in ('Sign', 'Fence', 'Bicyclist'):
        for net, name in NETS.items():
            text = f'learning helps {name}: {column}'
            claims.append(Claim(text, column, f'{net}_learned', f'{net}_fixed'))
    return claims


def get_table():
    """Returns the table."""
    of_classes = share_columns({name: f'IoU/{ours}' for name, ours in CLASSES.items()})
    return Table(
        title='Learned dilation factors: Table 4.4',
        source='He, thesis, Tables 4.4 and 4.5 (CamVid)',
        columns=(
            *of_classes,
            Column('mean IoU', 'mIoU', unit='%', factor=100, better='max'),
            Column('mean IoU, whole factors', 'mIoU_whole_factors', unit='%', factor=100),
        ),
        rows=get_rows(),
        scales={
            'camvid_quick': small_scale(
                'camvid_quick', 'CamVid at 160x120, scored on the split val'
            ),
            'paper': Scale(
                'camvid',
                seeds=(0, 1, 2),
                overrides=('data.eval_split=test',),
                note='Scored on the test split, as the works that the table compares with; starts '
                'from trained weights are those of init_from.path.',
            ),
        },
        notes='Random factors are drawn uniformly from the ranges and never learn: a control of '
        'ours, which tells learning from diversity.',
        claims=tuple(get_claims()),
    )
