"""Table 2 of the noise injection paper: 16 systems, mIoU and PSNR on the validation split.

python -m segjax.main --mode table --table configs/tables/noise_cyclegan_table2.py --scale quick \
    --workdir runs/table2
... --scale pilot              a fifth of the steps: shows that all rows run, and what G and F reach
... --scale paper --config.data.root=/data/cityscapes
                               16 trainings of 200 epochs on Cityscapes at 512x256
... --scale camvid --rows 'erfnet|none|quantize_2bit|gaussian_-20dB' --config.data.root=/data/camvid
... --scale camvid_quick ...   the same at 128x96, with small nets

All rows of a seed begin from one plain ERFNet, the hidden row `start`. At the small scales it is
trained. At the scales paper and camvid it has no steps, and the rows share their initial nets.
Claims about mIoU need the row gaussian_-20dB: it shows whether a row without noise has a watermark.
The comparison of classes in table.html is the paper's Fig. 4.
"""

from segjax.modes.table import (
    STREETS,
    Claim,
    Column,
    Condition,
    Difference,
    Row,
    Scale,
    Table,
    small_scale,
)

FILE = 'configs/noise_cyclegan.py:{scale}'
GAUSSIAN = {
    '40': (38.7, 24.79),
    '30': (39.0, 25.05),
    '21.02': (42.1, 24.96),
    '14.5': (41.5, 24.43),
    '7.38': (38.9, 23.44),
    '-0.55': (39.6, 22.82),
    '-10': (41.9, 20.77),
    '-15': (39.3, 19.56),
    '-20': (39.5, 18.74),
}
"""{SNR in dB: (published mIoU, PSNR)}."""
QUANTIZE = {
    4: (21.02, 43.3, 25.54),
    3: (14.50, 42.9, 24.48),
    2: (7.38, 45.1, 25.30),
    1: (-0.55, 7.7, 24.38),
}
"""{bits: (measured SNR as published, mIoU, PSNR)}."""
NOTES = (
    'All rows of a seed begin from the same nets. Plain ERFNet has as many further steps as the '
    'CycleGANs. SNR: measured on the validation split (published: set for Gaussian noise). The '
    'noise works on tanh(logits / 8). On trained nets that gives the published ratios within 1 dB, '
    'except for 1 bit, which is 3 dB noisier. PSNR lost to max-only: how much worse the '
    'reconstruction becomes when evaluation keeps the maximum of the latent alone. A row without '
    'noise that loses little hides nothing. PSNR lost to 20 dB: the same with Gaussian noise of 20 '
    'dB. Latent residual: share of the energy of the latent that its label map does not explain. '
    'mIoU is scored at the size of the images. The comparison of classes is Fig. 4.'
)
WATERMARK = Condition(
    'PSNR',
    higher='none',
    lower='gaussian_-20dB',
    at_least=3.0,
    why='a reconstruction hardly better than from strong noise uses no watermark',
)


def cyclegan(key, noise, name, miou, psnr, snr=None, bits=''):
    """Builds the row of one injector, which begins from the row `start`."""
    published = {'mIoU': miou, 'PSNR': psnr}
    if snr is not None:
        published['SNR'] = snr
    return Row(
        key=key,
        name=f'CycleGAN ERFNet, {name}',
        config=f'{FILE},{noise}',
        published=published,
        labels={'# of bits': bits},
        overrides=('compare=()', 'start.num_steps=0'),
        after='start',
    )


def plain(key, name, system, published, **options):
    """Builds a row of plain ERFNet."""
    return Row(key, name, f'{FILE},system={system}', published, labels={'# of bits': ''}, **options)


def about_miou(text, higher, lower, *conditions):
    """Builds a claim about mIoU, which needs a watermark in the row without noise."""
    return Claim(text, 'mIoU', higher, lower, only_if=(WATERMARK, *conditions))


def at_one_ratio(quantizer, gaussian):
    """Builds the claim that quantisation beats Gaussian noise of the same measured ratio."""
    same = Condition(
        'SNR', quantizer, gaussian, at_most=1.0, why='the measured signal-to-noise ratios differ'
    )
    snr = gaussian.removeprefix('gaussian_').removesuffix('dB')
    return about_miou(f'at {snr} dB quantisation beats Gaussian noise', quantizer, gaussian, same)


def get_rows():
    """Returns the 16 rows of the table, after the hidden row `start`."""
    rows = [
        plain('start', 'plain ERFNet, the common start', 'start', {}, hidden=True),
        plain('erfnet', 'plain ERFNet', 'erfnet', {'mIoU': 40.2}, after='start'),
        cyclegan('none', 'noise=none', 'no noise', 39.4, 25.37),
        cyclegan('max_only', 'noise=max_only', 'max-only', 41.4, 24.71, snr=0.22),
    ]
    for snr, (miou, psnr) in GAUSSIAN.items():
        key = f'gaussian_{snr}dB'
        noise = f'noise=gaussian,snr={snr}'
        rows.append(cyclegan(key, noise, 'Gaussian', miou, psnr, float(snr)))
    for bits, (snr, miou, psnr) in QUANTIZE.items():
        key = f'quantize_{bits}bit'
        noise = f'noise=quantize,bits={bits}'
        rows.append(cyclegan(key, noise, 'quantization', miou, psnr, snr, str(bits)))
    return rows


def get_claims():
    """Returns the claims of the paper, and what each of them needs to be tested."""
    return [
        about_miou('the cycle without noise costs mIoU', 'erfnet', 'none'),
        about_miou('max-only noise helps', 'max_only', 'none'),
        about_miou('2-bit quantisation helps', 'quantize_2bit', 'none'),
        about_miou('2-bit quantisation beats plain ERFNet', 'quantize_2bit', 'erfnet'),
        about_miou('2 bits beat 4 bits', 'quantize_2bit', 'quantize_4bit'),
        about_miou('1 bit costs mIoU (published: it collapses)', 'none', 'quantize_1bit'),
        at_one_ratio('quantize_2bit', 'gaussian_7.38dB'),
        at_one_ratio('quantize_3bit', 'gaussian_14.5dB'),
        at_one_ratio('quantize_4bit', 'gaussian_21.02dB'),
        about_miou('Gaussian noise of 21.02 dB beats plain ERFNet', 'gaussian_21.02dB', 'erfnet'),
        Claim('strong noise costs PSNR', 'PSNR', 'none', 'gaussian_-20dB'),
        Claim('no noise reconstructs better than 2 bits', 'PSNR', 'none', 'quantize_2bit'),
    ]


def get_table():
    """Returns the table."""
    return Table(
        title='Noise injection into the latent segmentation: Table 2',
        source='Löhdefink and Fingscheidt, Table 2 (Cityscapes val, 512x256)',
        columns=(
            Column('PSNR lost to max-only', 'watermark/max_only/PSNR_lost', unit='dB', digits=2),
            Column('SNR', 'SNR', unit='dB', digits=2),
            Column('mIoU', 'mIoU', unit='%', factor=100, better='max'),
            Column('PSNR', 'PSNR', unit='dB', better='max', digits=2),
            Column('PSNR lost to 20 dB', 'watermark/gaussian_20dB/PSNR_lost', unit='dB', digits=2),
            Column('latent residual', 'latent_residual', unit='%', factor=100),
        ),
        rows=tuple(get_rows()),
        scales={
            'quick': small_scale('quick,start=3000,steps=4000', STREETS),
            'pilot': small_scale('quick,start=600,steps=800', STREETS),
            'camvid_quick': small_scale('camvid_quick,start=2000,steps=2500', 'CamVid at 128x96'),
            'camvid': Scale(
                'camvid', seeds=(0, 1, 2), note='CamVid, 11 classes; published: Cityscapes.'
            ),
            'paper': Scale(
                '',
                seeds=(0,),
                note="The paper's setting. Its rows are one run each, of an unknown seed.",
            ),
        },
        notes=NOTES,
        headlines=(
            Difference(
                'watermark gap: PSNR without noise above that with noise of -20 dB '
                '(published: 6.63)',
                'PSNR',
                'none',
                'gaussian_-20dB',
                wanted='at least 3',
            ),
            Difference(
                'PSNR without noise above max-only (published: 0.66)', 'PSNR', 'none', 'max_only'
            ),
        ),
        compare=('erfnet', 'none', 'max_only', 'quantize_2bit', 'gaussian_21.02dB'),
        claims=tuple(get_claims()),
    )
