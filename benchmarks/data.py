"""Times reading, decoding and augmenting of images of the size of Cityscapes, beside torch's way.

    python -m benchmarks.data --torch PATH/TO/torch/python --counts 1,2,4

The images are random textures, written as PNG and JPEG into a temporary folder, with label maps as
PNG. Each reader decodes them, halves their size, shifts them by up to two pixels, mirrors half of
them, and returns batches of uint8, as `configs/supervised.py` trains.

    threads N    segjax, N threads of the main process
    workers N    segjax, N worker processes of one thread
    torch N      PIL and a DataLoader with N worker processes

All readers are measured in each round, one after another, and every second round runs in reverse
order. Without `--torch`, segjax is measured alone.
"""

import argparse
import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from benchmarks import machine, options, table
from benchmarks.workers import ROOT, Worker, WorkerError
from segjax.errors import InputError, unknown_name

FORMATS = {'png': (), 'jpeg': (cv2.IMWRITE_JPEG_QUALITY, 95)}
"""Format of the images -> options of OpenCV's encoder."""

MULTIPLE = 16
"""Heights and widths are multiples of it: ERFNet needs multiples of 8 at half the size."""

NUM_CLASSES = 19

WORKERS = {'segjax': 'data_worker', 'torch': 'torch_data_worker'}
"""Side -> module of its process."""


class Reader(NamedTuple):
    """A way to read: 'threads', 'workers' or 'torch', and the number of threads or processes."""

    kind: str
    count: int

    @property
    def side(self) -> str:
        """Returns the process that measures it."""
        return 'torch' if self.kind == 'torch' else 'segjax'

    @property
    def name(self) -> str:
        """Returns the name in tables: 'threads 2'."""
        return f'{self.kind} {self.count}'


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads and checks the arguments.

    Raises:
      InputError: an argument is wrong, or `--torch` names no Python with torch.
    """
    cores = options.usable_cores()
    parser = options.Parser(prog='python -m benchmarks.data', allow_abbrev=False)
    parser.add_argument('--torch', default='', help='Python with torch, torchvision and timm')
    parser.add_argument('--formats', default='png,jpeg')
    parser.add_argument('--size', default='1024x2048', help='HEIGHTxWIDTH of an image')
    parser.add_argument('--images', type=int, default=16, help='number of different images')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--batches', type=int, default=8, help='timed batches of a measurement')
    parser.add_argument('--counts', default=','.join(map(str, sorted({1, min(2, cores), cores}))))
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--limit', type=float, default=600.0, help='seconds for a measurement')
    parser.add_argument('--output', default='runs/bench_data', help='PATH.json and PATH.md')
    args = parser.parse_args(argv)

    # Everything that is cheap to check comes first.
    args.size = options.size_2d(args.size)
    if any(side % MULTIPLE for side in args.size):
        fix = 'x'.join(str(-(-side // MULTIPLE) * MULTIPLE) for side in args.size)
        raise InputError(
            '--size',
            got='x'.join(map(str, args.size)),
            expected=f'multiples of {MULTIPLE}',
            fix=f'--size {fix}',
        )
    for name in ('images', 'batch', 'batches', 'rounds'):
        options.at_least(f'--{name}', getattr(args, name), 1)
    options.above_0('--limit', args.limit, 600)
    args.formats = list(dict.fromkeys(args.formats.split(',')))
    for name in args.formats:
        if name not in FORMATS:
            raise unknown_name('--formats', name, FORMATS)
    args.counts = options.whole_numbers('--counts', args.counts)
    if args.torch:
        options.check_torch(args.torch)
    return args


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Measures all readers, prints the table, and writes the record and the page."""
    args = parse(argv)
    report = options.report(args.output)
    settings = {key: value for key, value in vars(args).items() if key not in ('torch', 'output')}
    record: dict[str, Any] = {'settings': settings, 'machine': machine.describe(), 'formats': {}}

    # Both sides live until the end. Only the side that is asked works.
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = {}
        for side in ('segjax', 'torch') if args.torch else ('segjax',):
            python = sys.executable if side == 'segjax' else args.torch
            worker = start_worker(side, WORKERS[side], python, folder)
            sides[side] = stack.enter_context(worker)
        for name in args.formats:
            print(f'{name} ...', file=sys.stderr, flush=True)
            root = folder / name
            size_of_file = write_images(root, name, args)
            entry = measure(sides, readers(args), root, args)
            record['formats'][name] = {'bytes': size_of_file, **entry}
    record['machine']['load at end'] = machine.load()
    text = page(record)
    report.write(record, text)
    print(text, flush=True)
    return record


def readers(args: argparse.Namespace) -> list[Reader]:
    """Returns all readers. Those of equal counts are neighbours."""
    kinds = ('threads', 'workers', 'torch') if args.torch else ('threads', 'workers')
    found = []
    for count in args.counts:
        found += [Reader(kind, count) for kind in kinds]
    return found


def start_worker(side: str, module: str, python: str, folder: pathlib.Path) -> Worker:
    """Starts the process of a side on the CPU.

    Args:
      side: 'segjax' or 'torch'.
      module: of this package, which the process runs.
      python: that runs it.
      folder: for its log and its cache.
    """
    # Packages of segjax's Python would not fit torch's.
    given = os.environ.get('PYTHONPATH') if side == 'segjax' else None
    variables = {
        'PYTHONPATH': os.pathsep.join([str(ROOT), *filter(None, [given])]),
        'JAX_PLATFORMS': 'cpu',
        'OMP_NUM_THREADS': '1',
        'SEGJAX_CACHE': str(folder / 'cache'),
    }
    command = [python, '-m', f'benchmarks.{module}']
    return Worker(side, command, folder / f'{side}.log', variables)


# --- images ---------------------------------------------------------------------------------------


def write_images(root: pathlib.Path, name: str, args: argparse.Namespace) -> int:
    """Writes a folder of images and masks, and returns the mean size of an image file.

    The folder has the layout of `data.name='folder'`: images, masks and classes.yaml.
    """
    rng = np.random.default_rng(0)
    sizes = []
    for split, number in (('train', args.images), ('val', 1)):
        for kind in ('images', 'masks'):
            (root / kind / split).mkdir(parents=True)
        for i in range(number):
            path = root / 'images' / split / f'{i:03}.{name}'
            cv2.imwrite(str(path), texture(rng, args.size), FORMATS[name])
            mask = root / 'masks' / split / f'{i:03}.png'
            cv2.imwrite(str(mask), blocks(rng, args.size))
            sizes.append(path.stat().st_size)
    classes = ', '.join(f'class{i}' for i in range(NUM_CLASSES))
    (root / 'classes.yaml').write_text(f'[{classes}]\n', encoding='utf-8')
    return round(sum(sizes) / len(sizes))


def texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Returns smooth random colours with fine noise, [H, W, 3] uint8.

    A PNG of it is about as large as one of Cityscapes.
    """
    height, width = size
    coarse = rng.uniform(0, 255, (height // 16, width // 16, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = rng.normal(0, 1.5, (height, width, 3)).astype(np.float32)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def blocks(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Returns a label map of blocks of 16 x 16 pixels, [H, W] uint8."""
    height, width = size
    ids = rng.integers(0, NUM_CLASSES, (height // 16, width // 16), np.uint8)
    return np.kron(ids, np.ones((16, 16), np.uint8))


# --- measurements ---------------------------------------------------------------------------------


def measure(
    sides: Mapping[str, Any], order: Sequence[Reader], root: pathlib.Path, args: argparse.Namespace
) -> dict[str, Any]:
    """Measures the readers in rounds. A reader that fails says why, and the rest goes on.

    Returns:
      {'rates': {name: images a second of each round}, 'errors': {name: text}}.
    """
    rates: dict[str, list[float]] = {reader.name: [] for reader in order}
    errors: dict[str, str] = {}
    size = [side // 2 for side in args.size]

    # Every second round runs in reverse order.
    for turn in range(args.rounds):
        for reader in order if turn % 2 == 0 else list(reversed(order)):
            if reader.name in errors:
                continue
            try:
                rate = sides[reader.side].ask(
                    'read',
                    args.limit,
                    kind=reader.kind,
                    count=reader.count,
                    root=str(root),
                    size=size,
                    batch_size=args.batch,
                    batches=args.batches,
                )
            except WorkerError as error:
                errors[reader.name] = str(error)
                del rates[reader.name]
                continue
            rates[reader.name].append(rate)
    return {'rates': rates, 'errors': errors}


# --- the page -------------------------------------------------------------------------------------


def page(record: Mapping[str, Any]) -> str:
    """Returns the page of a record."""
    size = 'x'.join(map(str, record['settings']['size']))
    command = table.command('benchmarks.data', record['settings'])

    # Conditions first, then the table, then readers that failed.
    lines = [
        '# Speed of reading images',
        '',
        f'Images of {size} a second, decoded, halved, shifted and mirrored: the median (quartiles)',
        'over the rounds. A ratio is the rate over that of torch with as many processes in the',
        'same round, so above 1 segjax is faster.',
        '',
        f'- Command: `{command}`',
        *machine.lines(record['machine']),
        '',
        *rates_table(record['formats']),
    ]
    for name, entry in record['formats'].items():
        for reader, error in entry['errors'].items():
            lines.append(f'\n{name}, {reader} failed: {error}')
    return '\n'.join(lines) + '\n'


def rates_table(formats: Mapping[str, Any]) -> list[str]:
    """Returns the table of rates and ratios."""
    rows = [('format', 'reader', 'MB a file', 'images/s', '/ torch')]
    for name, entry in formats.items():
        megabytes = f'{entry["bytes"] / 1e6:.1f}'
        for reader, rates in entry['rates'].items():
            kind, _, count = reader.partition(' ')
            low, median, high = np.quantile(rates, (0.25, 0.5, 0.75))
            theirs = entry['rates'].get(f'torch {count}')
            ratio = '-'
            if theirs and kind != 'torch':
                ratio = f'{table.ratio(rates, theirs)[0]:.2f}'
            rate = f'{median:.1f} ({low:.1f} to {high:.1f})'
            rows.append((name, reader, megabytes, rate, ratio))
    return table.markdown(rows, num_names=2)


if __name__ == '__main__':
    options.run_main(main)
