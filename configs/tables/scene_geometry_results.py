"""The results table of the scene geometry paper: six methods, and additionally the per-class loss.

python -m segjax.main --mode table --table configs/tables/scene_geometry_results.py \
    --workdir runs/geometry --scale quick
... --scale cityscapes --config.data.root=/data/cityscapes       the official sequences, at 512x256
... --scale paper --config.data.root=/data/apolloscape           Apolloscape at 832x256
"""

from segjax.modes.table import STREETS, Claim, Column, Row, Scale, Table, small_scale

ONE_IMAGE = ('predict.batch_size=1',)
"""The published times are of one image."""
FILE = 'configs/scene_geometry.py:{scale},method='
ROWS = (
    ('baseline', 'baseline, BiSeNet (no depth) [1]', 39.557, 6.2),
    ('klingner', '[2] (multitask)', 34.318, 6.4),
    ('novosel', 'baseline + [3] (multitask)', 37.683, 8.3),
    ('chen', 'baseline + regulariser of [4] (pretrained)', 39.610, 6.2),
    ('chen_multitask', 'baseline + regulariser of [4] (multitask)', 38.153, 9.0),
    ('per_class', 'baseline + L_p (pretrained)', None, None),
    ('holistic', 'baseline + L_h (pretrained, proposed)', 40.597, 6.2),
)
"""(method, name, published mIoU, published inference time in ms)."""
PRETRAINED = ('chen', 'per_class', 'holistic')
DEPTH = Row('depth', 'depth net of the pretrained rows', FILE + 'depth', hidden=True)
"""One depth net for each seed, from which all rows of PRETRAINED begin."""


def row(method, name, miou, time):
    """Builds the row of a method, which begins from the row `depth` if its depth is pretrained."""
    published = {} if miou is None else {'Mean IoU': miou, 'time': time}
    row = Row(method, name, FILE + method, published, stage='segmentation')
    if method in PRETRAINED:
        return row._replace(after='depth', overrides=('depth.num_steps=0',))
    return row


def get_table():
    """Returns the table."""
    return Table(
        title='Segmentation guided by scene geometry: results',
        source='Papadopoulos, Mademlis, Pitas (Apolloscape, 832x256, BiSeNet with a ResNet-50)',
        columns=(
            Column('Mean IoU', 'mIoU', unit='%', factor=100, better='max', digits=2),
            Column('Pixel Acc.', 'pixel_accuracy', unit='%', factor=100, better='max', digits=2),
            Column('time', 'speed/predict/ms_per_image', unit='ms', better='min', digits=1),
        ),
        rows=(DEPTH, *(row(*entry) for entry in ROWS)),
        scales={
            'quick': small_scale('quick', STREETS, *ONE_IMAGE),
            'cityscapes': Scale(
                'cityscapes',
                seeds=(0, 1, 2),
                overrides=ONE_IMAGE,
                note='Cityscapes sequences; published: Apolloscape.',
            ),
            'paper': Scale(
                '', seeds=(0,), overrides=ONE_IMAGE, note="The paper's setting, from scratch."
            ),
        },
        notes='[1] BiSeNet, [2] Klingner et al., [3] Novosel et al., [4] Chen et al. Published '
        'times are of an unnamed device and contain the depth decoder in multitask rows ([3], '
        '[4]). Our times leave it out, as it is not needed.',
        claims=(
            Claim('L_h beats the baseline', 'Mean IoU', 'holistic', 'baseline'),
            Claim('L_h beats the regulariser of [4]', 'Mean IoU', 'holistic', 'chen'),
            Claim(
                'the regulariser of [4] helps with a depth net from before',
                'Mean IoU',
                'chen',
                'baseline',
            ),
            Claim('and costs mIoU in multitask training', 'Mean IoU', 'baseline', 'chen_multitask'),
            Claim('multitask training of [3] costs mIoU', 'Mean IoU', 'baseline', 'novosel'),
            Claim('[2] is behind all others', 'Mean IoU', 'novosel', 'klingner'),
        ),
    )
