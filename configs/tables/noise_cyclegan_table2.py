"""Table 2 of the noise injection paper: 16 systems, mIoU and PSNR on the validation split.

python -m segjax.main --mode table --table configs/tables/noise_cyclegan_table2.py --scale quick --workdir runs/table2
... --scale paper --config.data.root=/data/cityscapes      16 trainings of 200 epochs on Cityscapes at 512x256
... --scale camvid --rows 'erfnet|none|quantize_2bit|gaussian_7.38dB' --config.data.root=/data/camvid
... --scale camvid_quick ...                           the same, a hundred times smaller
"""

from segjax.tables import STREETS, Claim, Column, Row, Scale, Table, small_scale

FILE = 'configs/noise_cyclegan.py:{scale}'
GAUSSIAN = {  # SNR in dB: published mIoU, PSNR
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
QUANTIZE = {  # bits: measured SNR as published, mIoU, PSNR
    4: (21.02, 43.3, 25.54),
    3: (14.50, 42.9, 24.48),
    2: (7.38, 45.1, 25.30),
    1: (-0.55, 7.7, 24.38),
}


def cyclegan(key, noise, name, miou, psnr, snr=None, bits=''):
    return Row(
        key=key,
        name=f'CycleGAN ERFNet, {name}',
        config=f'{FILE},range=tanh_noise_only,{noise}',
        published={'mIoU': miou, 'PSNR': psnr} | ({} if snr is None else {'SNR': snr}),
        labels={'# of bits': bits},
        overrides=('compare=()',),
    )


def get_table():
    rows = [
        Row('erfnet', 'plain ERFNet', f'{FILE},system=erfnet', {'mIoU': 40.2}, labels={'# of bits': ''}),
        cyclegan('none', 'noise=none', 'no noise', 39.4, 25.37),
        cyclegan('max_only', 'noise=max_only', 'max-only', 41.4, 24.71, snr=0.22),
        *(
            cyclegan(f'gaussian_{snr}dB', f'noise=gaussian,snr={snr}', 'Gaussian', miou, psnr, snr=float(snr))
            for snr, (miou, psnr) in GAUSSIAN.items()
        ),
        *(
            cyclegan(f'quantize_{bits}bit', f'noise=quantize,bits={bits}', 'quantization', miou, psnr, snr, str(bits))
            for bits, (snr, miou, psnr) in QUANTIZE.items()
        ),
    ]
    return Table(
        title='Noise injection into the latent segmentation: Table 2',
        source='Löhdefink and Fingscheidt, Table 2 (Cityscapes val, 512x256)',
        columns=(
            Column('SNR', 'SNR', unit='dB', digits=2),
            Column('mIoU', 'mIoU', unit='%', factor=100, better='max'),
            Column('PSNR', 'PSNR', unit='dB', better='max', digits=2),
            Column('PSNR lost to 20 dB', 'watermark/gaussian_20dB/PSNR_lost', unit='dB', digits=2),
            Column('latent residual', 'latent_residual', unit='%', factor=100),
        ),
        rows=tuple(rows),
        scales={
            'quick': small_scale('quick', STREETS, 'train.num_steps=500'),
            'camvid_quick': small_scale('camvid_quick', 'CamVid at 128x96'),
            'camvid': Scale('camvid', seeds=(0, 1, 2), note='CamVid, 11 classes; published: Cityscapes.'),
            'paper': Scale('', seeds=(0,), note="The paper's setting. Its rows are one run each, of an unknown seed."),
        },
        notes='SNR: measured on the validation split (published: set for Gaussian noise). The noise works on tanh of '
        'the latent: the codebook reaches from -1 to 1, and only bounded latents explain the SNRs that the paper '
        'measured. PSNR lost to 20 dB: how much worse the reconstruction becomes with Gaussian noise of 20 dB in '
        'evaluation only. Latent residual: share of the energy of the latent that its label map does not explain. mIoU '
        'is scored at the size of the labels.',
        compare=('erfnet', 'none', 'max_only', 'quantize_2bit', 'gaussian_21.02dB'),
        claims=(
            Claim('the cycle without noise costs mIoU', 'mIoU', 'erfnet', 'none'),
            Claim('max-only noise helps', 'mIoU', 'max_only', 'none'),
            Claim('2-bit quantisation helps', 'mIoU', 'quantize_2bit', 'none'),
            Claim('2-bit quantisation beats plain ERFNet', 'mIoU', 'quantize_2bit', 'erfnet'),
            Claim('2 bits beat 4 bits', 'mIoU', 'quantize_2bit', 'quantize_4bit'),
            Claim('1 bit costs mIoU (published: it collapses)', 'mIoU', 'none', 'quantize_1bit'),
            Claim('at 7.38 dB quantisation beats Gaussian noise', 'mIoU', 'quantize_2bit', 'gaussian_7.38dB'),
            Claim('at 14.50 dB quantisation beats Gaussian noise', 'mIoU', 'quantize_3bit', 'gaussian_14.5dB'),
            Claim('at 21.02 dB quantisation beats Gaussian noise', 'mIoU', 'quantize_4bit', 'gaussian_21.02dB'),
            Claim('Gaussian noise of 21.02 dB beats plain ERFNet', 'mIoU', 'gaussian_21.02dB', 'erfnet'),
            Claim('strong noise costs PSNR', 'PSNR', 'none', 'gaussian_-20dB'),
            Claim('no noise reconstructs better than 2 bits', 'PSNR', 'none', 'quantize_2bit'),
        ),
    )
