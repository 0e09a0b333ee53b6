"""Table 4.3 of He's thesis, and the Cityscapes half of Table 4.5: DeepLab-v2 and PSPNet.

python -m segjax.main --mode table --table configs/tables/learned_dilation_table4_3.py \
    --scale quick --workdir runs/table4_3
... --scale paper --config.data.root=/data/cityscapes      4 trainings of 20,000 steps on Cityscapes
    --override 'deeplab_v2:init_from.path=deeplabv1_resnet101-coco.pth'
    --override 'pspnet:init_from.path=pspnet101_cityscapes.pth'

Each net has a row with fixed and a row with learned dilation. Published numbers by class are left
out.
"""

from segjax.modes.table import STREETS, Claim, Column, Row, Scale, Table, small_scale

FILE = 'configs/learned_dilation.py:{scale}'
NETS = {'deeplab_v2': ('DeepLab-v2', 70.9, 71.1), 'pspnet': ('PSPNet', 79.4, 79.9)}
"""{net: (name, published mIoU with fixed dilation, with learned dilation)}."""
CLASSES = ('fence', 'terrain', 'person', 'rider', 'car', 'bus')


def get_rows():
    """Returns a row with fixed and a row with learned dilation for each net."""
    rows = []
    for net, (name, fixed, learned) in NETS.items():
        config = f'{FILE},net={net}'
        rows.append(Row(f'{net}_fixed', name, f'{config},dilation=fixed', {'Mean IoU': fixed}))
        rows.append(
            Row(f'{net}_learned', f'{name}, learned dilation', config, {'Mean IoU': learned})
        )
    return rows


def get_table():
    """Returns the table."""
    return Table(
        title='Learned dilation factors: Table 4.3',
        source='He, thesis, Tables 4.3 and 4.5 (Cityscapes val)',
        columns=(
            *(Column(name, f'IoU/{name}', unit='%', factor=100) for name in CLASSES),
            Column('Mean IoU', 'mIoU', unit='%', factor=100, better='max'),
            Column('Mean IoU, whole factors', 'mIoU_whole_factors', unit='%', factor=100),
        ),
        rows=tuple(get_rows()),
        scales={
            'quick': small_scale('quick', STREETS),
            'paper': Scale(
                '',
                seeds=(0,),
                note="The paper's setting, but for its starts: DeepLab-v2 from weights trained on "
                'MS-COCO, PSPNet from weights trained on Cityscapes (init_from.path).',
            ),
        },
        notes='The classes are those for which the thesis names general improvements.',
        claims=(
            Claim(
                'learning helps DeepLab-v2', 'Mean IoU', 'deeplab_v2_learned', 'deeplab_v2_fixed'
            ),
            Claim('learning helps PSPNet', 'Mean IoU', 'pspnet_learned', 'pspnet_fixed'),
            Claim(
                'DeepLab-v2 sees more of persons',
                'person',
                'deeplab_v2_learned',
                'deeplab_v2_fixed',
            ),
            Claim('PSPNet sees more of persons', 'person', 'pspnet_learned', 'pspnet_fixed'),
            Claim(
                'DeepLab-v2 sees more of riders', 'rider', 'deeplab_v2_learned', 'deeplab_v2_fixed'
            ),
            Claim('PSPNet sees more of riders', 'rider', 'pspnet_learned', 'pspnet_fixed'),
        ),
    )
