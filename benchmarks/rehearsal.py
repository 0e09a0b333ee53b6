"""Rehearses trainings of the papers: a few full-size steps of each, and the hours of all steps.

    python -m benchmarks.rehearsal --data cityscapes=/data/cityscapes --data nyu_depth=/data/nyu

Every config of RUNS whose data set is named runs `--mode bench` in a process of its own, with its
full-size nets and images and random parameters. A few images in the layout of the data set are
enough. The batches are cut to `--images`, so that nets of many devices fit into one machine.

Work and memory traffic of a step are XLA's estimates, which grow with the batch in proportion. The
hours on another device are those of the slower of both: the work at a sustained `--rate`, or the
traffic at a sustained `--bandwidth`. Evaluations and the input are left out. Fusion differs between
devices, so compare with a measured step of the device before you rely on the hours.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from benchmarks import machine, options, table
from benchmarks.workers import ROOT
from segjax.config import config_file
from segjax.errors import InputError, unknown_name
from segjax.modes.bench import BASE, open_untrained

DEVICES = (1, 8)
"""Numbers of devices whose hours are estimated, at the same rate each."""


class Rehearsed(NamedTuple):
    """A training of a paper: its config, the data set that it reads, and further config keys."""

    config: str
    data: str
    keys: Mapping[str, Any] = types.MappingProxyType({})


FEW_MEMBERS = (
    'victim_members=train:draw(2)',
    'victim_non_members=train:draw(2)',
    'shadow_members=train:draw(2)',
    'shadow_non_members=train:draw(2)',
)
"""Lists of members that few images can fill."""

RUNS = {
    'supervised': Rehearsed('supervised.py', 'cityscapes'),
    'noise_cyclegan': Rehearsed('noise_cyclegan.py', 'cityscapes'),
    'learned_dilation': Rehearsed('learned_dilation.py', 'cityscapes'),
    'learned_dilation_pspnet': Rehearsed('learned_dilation.py:camvid,net=pspnet', 'camvid'),
    'scene_geometry': Rehearsed('scene_geometry.py', 'apolloscape'),
    'semantic_inpainting': Rehearsed('semantic_inpainting.py:sem=none', 'cityscapes_all'),
    'semantic_inpainting_bedroom': Rehearsed(
        'semantic_inpainting.py:bedroom,sem=none', 'ade20k_bedroom'
    ),
    'shape_classifier': Rehearsed('shape_classifier.py', 'coco_panoptic'),
    'label_to_image': Rehearsed(
        'label_to_image.py', 'cityscapes_all', {'painter.weights.vgg': 0.0}
    ),
    # The unit of the depth files changes no time.
    'std2p': Rehearsed('std2p.py', 'nyu_depth', {'data.rgbd.depth_scale': 1000.0}),
    'dropout_codes': Rehearsed('dropout_codes.py:features=random', 'lfw'),
    'dropout_codes_pets': Rehearsed('dropout_codes.py:pets,features=random', 'oxford_pet'),
    'conditional_gan': Rehearsed('conditional_gan.py:features=random', 'lfw'),
    'pixel_neighbours': Rehearsed('pixel_neighbours.py:features=random', 'lfw'),
    'dense_features': Rehearsed('dense_features.py', 'cityscapes'),
    # The published lists need all images.
    'membership': Rehearsed('membership.py', 'cityscapes', {'data.lists': FEW_MEMBERS}),
}
"""The trainings, by name. Nets that would be loaded and never train are random or left out."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads and checks the arguments.

    Raises:
      InputError: an argument is wrong.
    """
    parser = options.Parser(prog='python -m benchmarks.rehearsal', allow_abbrev=False)
    parser.add_argument('--data', action='append', default=[], help='DATA_SET=FOLDER, repeatable')
    parser.add_argument('--runs', default='', help='names of RUNS, all by default')
    parser.add_argument('--images', type=int, default=2, help='largest batch of the rehearsal')
    parser.add_argument('--steps', type=int, default=3, help='timed steps')
    parser.add_argument('--rate', type=float, default=100.0, help='sustained TFLOP/s of a device')
    parser.add_argument('--bandwidth', type=float, default=3.0, help='sustained TB/s of a device')
    parser.add_argument('--limit', type=float, default=1800.0, help='seconds for a training')
    parser.add_argument('--output', default='runs/rehearsal', help='PATH.json and PATH.md')
    args = parser.parse_args(argv)
    for name in ('images', 'steps'):
        options.at_least(f'--{name}', getattr(args, name), 1)
    for name, usual in (('rate', 100), ('bandwidth', 3), ('limit', 1800)):
        options.above_0(f'--{name}', getattr(args, name), usual)

    # The trainings whose data set is named.
    args.data = dict(folder_of(text) for text in args.data)
    wanted = args.runs.split(',') if args.runs else list(RUNS)
    for name in wanted:
        if name not in RUNS:
            raise unknown_name('--runs', name, RUNS)
    args.runs = [name for name in wanted if RUNS[name].data in args.data]
    if not args.runs:
        missing = RUNS[wanted[0]].data
        raise InputError(
            '--data',
            got=', '.join(args.data) or 'nothing',
            expected=f'the data set of a training, such as {missing}',
            fix=f'--data {missing}=/data/{missing}',
        )
    return args


def folder_of(text: str) -> tuple[str, str]:
    """Returns data set and folder of a text such as 'camvid=/data/camvid'.

    Raises:
      InputError: the text has another form, no training reads the data set, or there is no folder.
    """
    name, separator, folder = text.partition('=')
    if not separator:
        raise InputError(
            '--data', got=repr(text), expected='DATA_SET=FOLDER', fix='--data camvid=/data/camvid'
        )
    known = sorted({rehearsed.data for rehearsed in RUNS.values()})
    if name not in known:
        raise unknown_name('--data', name, known)
    if not pathlib.Path(folder).is_dir():
        raise InputError(
            f'--data {name}', got=f'{folder}, which is no folder', expected='a folder of images'
        )
    return name, str(pathlib.Path(folder).absolute())


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Rehearses all trainings, prints the table, and writes the record and the page.

    A training that fails says why, and the rest goes on.
    """
    args = parse(argv)
    report = options.report(args.output)
    settings = {key: value for key, value in vars(args).items() if key != 'output'}
    record: dict[str, Any] = {
        'settings': settings,
        'machine': machine.describe(),
        'stages': [],
        'errors': {},
    }
    for name in args.runs:
        print(f'{name} ...', file=sys.stderr, flush=True)
        workdir = report.record.parent / f'{report.record.stem}_{name}'
        try:
            record['stages'] += rehearse(name, workdir, args)
        except (InputError, RuntimeError) as error:
            record['errors'][name] = ' '.join(str(error).split())[:300]
        # What is done so far outlives a kill.
        report.write(record, page(record))
    print(page(record), flush=True)
    return record


# --- a training -----------------------------------------------------------------------------------


def rehearse(name: str, workdir: pathlib.Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures the steps of all stages of a training.

    Returns:
      An entry for each stage with steps, see `entry_of`.

    Raises:
      InputError: the data or the config cannot be read.
      RuntimeError: the bench failed. The message has the last line that it printed.
    """
    rehearsed = RUNS[name]
    config_path = f'{ROOT}/configs/{rehearsed.config}'
    config = config_file.load(config_path)
    keys = {'data.root': args.data[rehearsed.data], **rehearsed.keys}
    config.update_from_flattened_dict(keys)
    # Parameters are random, as in the bench.
    _, stages = open_untrained(config, str(workdir))

    flags = [f'--config={config_path}']
    flags += [f'--config.{key}={value}' for key, value in keys.items()]
    flags += [f'--config.{key}={args.images}' for key in larger_batches(config, args.images)]
    flags += [f'--config.bench.repetitions={args.steps}', '--config.bench.warmup=1']
    flags.append("--config.bench.parts=('train',)")
    bench(flags, workdir, args.limit)
    measured = json.loads((workdir / 'bench.json').read_text(encoding='utf-8'))['stages']

    entries = []
    for stage in stages:
        if stage.num_steps:
            parts = measured[stage.name]
            entries.append(entry_of(name, stage, parts['train'][BASE], parts['whole'][BASE]))
    return entries


def larger_batches(config: ml_collections.ConfigDict, images: int) -> Iterator[str]:
    """Yields the keys of a config that set a batch of more images, as 'train.batch_size'."""
    for section, values in config.items():
        is_section = isinstance(values, ml_collections.ConfigDict)
        if is_section and values.get('batch_size', 0) > images:
            yield f'{section}.batch_size'


def bench(flags: Sequence[str], workdir: pathlib.Path, limit: float) -> None:
    """Runs `--mode bench` in a process of its own.

    Raises:
      RuntimeError: it failed, or took more than `limit` seconds.
    """
    command = [sys.executable, '-m', 'segjax.main', '--mode=bench', f'--workdir={workdir}', *flags]
    paths = filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])
    try:
        ended = subprocess.run(
            command,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f'it took more than {limit:.0f} s') from None
    if ended.returncode:
        lines = ended.stdout.strip().splitlines() or ['nothing printed']
        raise RuntimeError(f'exit code {ended.returncode}: {" ".join(lines[-4:])}')


def entry_of(
    name: str, stage: Any, step: Mapping[str, Any], whole: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the figures of a stage.

    Args:
      name: of the training.
      stage: of the full config, with its whole batch.
      step: the measured step with its cut batch, from bench.json.
      whole: all steps with the cut batch, from bench.json.

    Returns:
      {'run', 'stage', 'batch_size', 'size', 'steps': of the training; 'images', 'seconds',
      'peak_bytes': of the measured step; 'flops', 'bytes': of all steps, None if XLA gives no
      estimate}.
    """
    batch_size = stage.train_input.batch_size
    share = batch_size / step['batch_size']
    flops = whole['flops']
    traffic = whole['bytes_accessed']
    return {
        'run': name,
        'stage': stage.name,
        'batch_size': batch_size,
        'size': list(step['size']),
        'steps': stage.num_steps,
        'images': step['batch_size'],
        'seconds': step['median_seconds'],
        'peak_bytes': step['memory'] and step['memory']['peak'],
        'flops': flops and flops * share,
        'bytes': traffic and traffic * share,
    }


# --- the page -------------------------------------------------------------------------------------


def page(record: Mapping[str, Any]) -> str:
    """Returns the page of a record."""
    facts = record['machine']
    settings = record['settings']
    lines = [
        '# Rehearsal of the trainings of the papers',
        '',
        'Full-size nets and images, and the real layout of the data. Measured: seconds and memory',
        'of a step of few images. Estimated by XLA: work and memory traffic of all steps with the',
        'whole batch. The hours are those of the slower of both at',
        f'{settings["rate"]:g} TFLOP/s and {settings["bandwidth"]:g} TB/s a device.',
        'Evaluations and the input are not counted.',
        '',
        f'- Command: `{command(settings)}`',
        f'- Commit {facts["commit"]}, Python {facts["python"]}, {facts["processor"]}',
        '',
        *table.markdown(rows(record['stages'], settings['rate'], settings['bandwidth']), 2),
    ]
    if record['errors']:
        lines += ['', 'Failed:', '']
        lines += [f'- {name}: {error}' for name, error in record['errors'].items()]
    return '\n'.join(lines) + '\n'


def command(settings: Mapping[str, Any]) -> str:
    """Returns the command that measures a record again."""
    words = ['python -m benchmarks.rehearsal']
    words += [f'--data {name}=/data/{name}' for name in settings['data']]
    words += [f'--runs {",".join(settings["runs"])}', f'--images {settings["images"]}']
    words += [f'--steps {settings["steps"]}', f'--rate {settings["rate"]:g}']
    words.append(f'--bandwidth {settings["bandwidth"]:g}')
    return ' '.join(words)


def rows(
    stages: Sequence[Mapping[str, Any]], rate: float, bandwidth: float
) -> Iterator[tuple[str, ...]]:
    """Yields the rows of the table, the head first.

    Args:
      stages: entries of `entry_of`.
      rate: TFLOP/s of a device.
      bandwidth: TB/s of a device.
    """
    yield (
        *('training', 'stage', 'image', 'batch', 'steps', 'images measured', 's a step', 'GB'),
        *('EFLOP', 'PB', *(f'hours, {number} device{"s" * (number > 1)}' for number in DEVICES)),
    )
    for entry in stages:
        flops = entry['flops']
        traffic = entry['bytes']
        peak = entry['peak_bytes']
        # An estimate that XLA does not give counts as no time.
        seconds = max((flops or 0) / (rate * 1e12), (traffic or 0) / (bandwidth * 1e12))
        hours = [seconds / 3600 / number for number in DEVICES]
        yield (
            entry['run'],
            entry['stage'],
            'x'.join(map(str, entry['size'])),
            str(entry['batch_size']),
            f'{entry["steps"]:,}',
            str(entry['images']),
            f'{entry["seconds"]:.2f}',
            f'{peak / 1e9:.1f}' if peak else '-',
            f'{flops / 1e18:.2f}' if flops else '-',
            f'{traffic / 1e15:.2f}' if traffic else '-',
            *(f'{value:.1f}' if value else '-' for value in hours),
        )


if __name__ == '__main__':
    options.run_main(main)
