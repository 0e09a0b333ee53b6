"""Times `--mode predict` on large images and on a video.

    python -m benchmarks.predict --workdir runs/first --sizes 1024x2048,4000x6000 --video 480x640

The images are random textures in JPEG files. The video moves over such a texture. Each input is
predicted by a process of its own, so that peak memory is that of the input. Measured are the start
(compilation), the pixels a second, and the part of the time that does not wait for the net:
reading, cutting, blending and writing.
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from benchmarks import machine, options, table
from benchmarks.data import FORMATS, start_worker, texture
from benchmarks.workers import WorkerError
from segjax.errors import InputError
from segjax.train import stored

RATE = 25.0
"""Frames a second of the video."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads and checks the arguments.

    Raises:
      InputError: an argument is wrong, or `--workdir` is no run.
    """
    parser = options.Parser(prog='python -m benchmarks.predict', allow_abbrev=False)
    parser.add_argument('--workdir', required=True, help='folder of a finished run')
    parser.add_argument('--sizes', default='1024x2048,4000x6000', help='HEIGHTxWIDTH of images')
    parser.add_argument('--images', type=int, default=2, help='number of images of a size')
    parser.add_argument('--video', default='', help="HEIGHTxWIDTH of a video; '' for none")
    parser.add_argument('--frames', type=int, default=50, help='of the video')
    parser.add_argument('--limit', type=float, default=1800.0, help='seconds for an input')
    parser.add_argument('--output', default='runs/bench_predict', help='PATH.json and PATH.md')
    args = parser.parse_args(argv)

    # Everything that is cheap to check comes first.
    args.sizes = [options.size_2d(text, '--sizes') for text in args.sizes.split(',')]
    args.video = options.size_2d(args.video, '--video') if args.video else ()
    for name in ('images', 'frames'):
        options.at_least(f'--{name}', getattr(args, name), 1)
    args.workdir = pathlib.Path(args.workdir).absolute()
    if not (args.workdir / stored.CONFIG).exists():
        raise InputError(
            '--workdir',
            got=f'{args.workdir}, which is no run',
            expected='the folder of a finished run',
            fix='python -m segjax.main --config configs/supervised.py:smoke --workdir runs/first',
        )
    return args


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Measures all inputs, prints the table, and writes the record and the page."""
    args = parse(argv)
    report = options.report(args.output)
    settings = {key: value for key, value in vars(args).items() if key != 'output'}
    settings['workdir'] = str(args.workdir)
    net = stored.read_config(args.workdir / stored.CONFIG)['model']
    record: dict[str, Any] = {'settings': settings, 'net': net, 'machine': machine.describe()}

    # An input needs much room, so it is written when its turn comes.
    record['inputs'] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in inputs(pathlib.Path(folder), args):
            print(f'{name} ...', file=sys.stderr, flush=True)
            record['inputs'][name] = measure(path, args)
    record['machine']['load at end'] = machine.load()
    text = page(record)
    report.write(record, text)
    print(text, flush=True)
    return record


# --- inputs ---------------------------------------------------------------------------------------


def inputs(folder: pathlib.Path, args: argparse.Namespace) -> Iterator[tuple[str, pathlib.Path]]:
    """Writes the inputs one at a time, and yields their names and paths."""
    rng = np.random.default_rng(0)
    for height, width in args.sizes:
        name = f'{args.images} images of {height}x{width}'
        images = folder / f'{height}x{width}'
        images.mkdir(exist_ok=True)
        for i in range(args.images):
            picture = texture(rng, (height, width))
            cv2.imwrite(str(images / f'{i:03}.jpeg'), picture, FORMATS['jpeg'])
        yield name, images
    if args.video:
        height, width = args.video
        path = folder / 'video.avi'
        write_video(path, texture(rng, (height, width)), args.frames)
        yield f'video of {height}x{width}', path


def write_video(path: pathlib.Path, picture: np.ndarray, num_frames: int) -> None:
    """Writes a video of a picture [H, W, 3] that moves by a pixel a frame."""
    height, width = picture.shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), RATE, (width, height))
    for frame in range(num_frames):
        writer.write(np.roll(picture, frame, axis=1))
    writer.release()


# --- measurements ---------------------------------------------------------------------------------


def measure(path: pathlib.Path, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the summary of the prediction of an input, or {'error': text}."""
    target = path.with_name(f'{path.name}_labels')
    with start_worker('segjax', 'predict_worker', sys.executable, path.parent) as worker:
        try:
            return worker.ask(
                'predict',
                args.limit,
                workdir=str(args.workdir),
                source=str(path),
                target=str(target),
            )
        except WorkerError as error:
            return {'error': str(error)}


# --- the page -------------------------------------------------------------------------------------


def page(record: Mapping[str, Any]) -> str:
    """Returns the page of a record."""
    net = ', '.join(f'{key}={value}' for key, value in record['net'].items())
    lines = [
        '# Speed of predictions on large images',
        '',
        'Start is the time of compilation. Host is the part of the other time that does not wait',
        'for the net: reading, cutting, blending and writing.',
        '',
        f'- Command: `{command(record["settings"])}`',
        f'- Net: {net}',
        *machine.lines(record['machine']),
        '',
        *table.markdown(rows(record['inputs']), num_names=1),
    ]
    for name, entry in record['inputs'].items():
        if 'error' in entry:
            lines.append(f'\n{name} failed: {entry["error"]}')
    return '\n'.join(lines) + '\n'


def command(settings: Mapping[str, Any]) -> str:
    """Returns the command that measures a record again."""
    words = ['python -m benchmarks.predict --workdir RUN']
    words.append('--sizes ' + ','.join('x'.join(map(str, size)) for size in settings['sizes']))
    words.append(f'--images {settings["images"]}')
    if settings['video']:
        words.append('--video ' + 'x'.join(map(str, settings['video'])))
        words.append(f'--frames {settings["frames"]}')
    return ' '.join(words)


def rows(entries: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yields the rows of the table, the head first."""
    yield 'input', 'tiles', 'start s', 's', 'images/s', 'megapixels/s', 'host %', 'peak GB'
    for name, entry in entries.items():
        if 'error' in entry:
            continue
        seconds = entry['seconds']
        peak = entry['peak_bytes']
        yield (
            name,
            str(entry['tiles']),
            f'{entry["compile_seconds"]:.1f}',
            f'{seconds:.1f}',
            f'{entry["images_per_second"]:.2f}',
            f'{entry["megapixels"] / seconds:.2f}',
            f'{100 * (1 - entry["waiting_seconds"] / seconds):.0f}',
            f'{peak / 1e9:.1f}' if peak else '-',
        )


if __name__ == '__main__':
    options.run_main(main)
