"""Times training and inference of nets against torch, one call of each in turn.

    python -m benchmarks.nets --torch PATH/TO/torch/python --nets erfnet,bisenet --size 256x512

Each side is a process of its own, which compiles a net and then waits. This process tells the sides
in turn to make one call, A B and then B A, so that a machine that slows down affects all sides
equally. Only one side works at a time, on the same cores and with the same number of threads. Each
net has new processes, so that peak memory is that of the net.

    train    uint8 batch to the device, forward, cross-entropy of all heads, backward, Adam
    predict  uint8 batch to the device, forward, probabilities of the main head

segjax runs the programs of `configs/supervised.py`. Its step also computes the learning rate, the
sums that are logged, and whether all numbers are finite. torch runs the twins of
`benchmarks/torch_nets.py`, which have equal parameters.
"""

import argparse
import contextlib
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import machine, options, table
from benchmarks.workers import ROOT, Worker, WorkerError
from segjax.errors import InputError, unknown_name

NETS = (
    *('erfnet', 'bisenet', 'pspnet', 'deeplab_largefov', 'deeplab_v2', 'deeplab_v3plus', 'fcn'),
    'efficientnet',
)
"""The names of `torch_nets.NETS`, which need torch to be read."""
DEFAULT_NETS = 'erfnet,bisenet,pspnet,deeplab_largefov,deeplab_v3plus,efficientnet'

PARTS = ('train', 'predict')
OURS = 'segjax'
EAGER = 'torch'
COMPILED = 'torch.compile'


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads and checks the arguments.

    Raises:
      InputError: an argument is wrong, or there is no Python with torch.
    """
    parser = options.Parser(prog='python -m benchmarks.nets', allow_abbrev=False)
    parser.add_argument('--torch', default='', help='Python with torch, torchvision and timm')
    parser.add_argument('--nets', default=DEFAULT_NETS, help='names, separated by commas')
    parser.add_argument('--size', default='256x512', help='HEIGHTxWIDTH of an image')
    parser.add_argument('--batch', type=int, default=4, help='images of a call')
    parser.add_argument('--width', type=float, default=1.0, help='factor on the channels')
    parser.add_argument('--rounds', type=int, default=7, help='timed calls of each side')
    parser.add_argument('--warmup', type=int, default=2, help='calls before them')
    parser.add_argument('--threads', type=int, default=options.usable_cores())
    parser.add_argument('--device', choices=('cpu', 'gpu'), default='cpu')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
    parser.add_argument('--compile', action='store_true', help='also time torch.compile')
    parser.add_argument('--channels-last', action='store_true', help="torch's images as NHWC")
    parser.add_argument('--limit', type=float, default=1800.0, help='seconds for each command')
    parser.add_argument('--output', default='runs/bench_nets', help='PATH.json and PATH.md')
    args = parser.parse_args(argv)

    # Everything that is cheap to check comes first.
    args.nets = [name for name in args.nets.split(',') if name]
    for name in args.nets:
        if name not in NETS:
            raise unknown_name('--nets', name, NETS)
    if not args.nets:
        raise InputError('--nets', got='no name', expected=', '.join(NETS), fix='--nets erfnet')
    args.size = options.size_2d(args.size)
    options.at_least('--batch', args.batch, 1)
    options.at_least('--rounds', args.rounds, 1)
    options.at_least('--warmup', args.warmup, 0)
    options.above_0('--limit', args.limit, 1800)
    if not 0 < args.width <= 1:
        raise InputError(
            '--width', got=str(args.width), expected='a factor above 0, at most 1', fix='--width 1'
        )
    options.check_threads(args.threads)
    options.check_torch(args.torch)
    return args


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Benches the nets, prints the table, and writes the record and the page.

    The record is written after each net, so a run that is stopped leaves its finished nets.
    """
    args = parse(argv)
    report = options.report(args.output)
    settings = {key: value for key, value in vars(args).items() if key not in ('torch', 'output')}
    record: dict[str, Any] = {'settings': settings, 'machine': machine.describe(), 'nets': {}}
    for net in args.nets:
        print(f'{net} ...', file=sys.stderr, flush=True)
        record['nets'][net] = bench_net(net, args)
        record['machine']['load at end'] = machine.load()
        report.write(record, table.page(record))
    print(table.page(record), flush=True)
    return record


# --- a net ----------------------------------------------------------------------------------------


def bench_net(net: str, args: argparse.Namespace) -> dict[str, Any]:
    """Times a net on all sides. A side that fails says why, and the rest goes on.

    Returns:
      {'sides': {side: {'error'} or {'versions', 'parameters', 'prepare_seconds', 'peak_bytes',
      'parts': {part: {'seconds', 'cpu_seconds'}}}}}. The lists have an entry for each round. segjax
      also has the costs of its programs, and the options of the compiler for convolutions.
    """
    sides: dict[str, dict[str, Any]] = {}

    # All sides are ready before the first timed call. They end with the block.
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers: dict[str, Worker] = {}
        facts: dict[str, Any] = {}
        for side in (OURS, EAGER, COMPILED) if args.compile else (OURS, EAGER):
            start = time.perf_counter()
            try:
                worker = stack.enter_context(start_worker(side, args, folder))
                prepared, versions = prepare(worker, side, net, args, folder, facts)
                check_parameters(side, prepared, facts)
            except WorkerError as error:
                sides[side] = {'error': str(error)}
                # Without segjax, torch has no batch to train on.
                if side == OURS:
                    return {'sides': sides}
                continue
            facts = facts or prepared
            workers[side] = worker
            sides[side] = {
                'versions': versions,
                'parameters': prepared['parameters'],
                'programs': prepared.get('programs'),
                'convolutions': prepared.get('convolutions'),
                'prepare_seconds': time.perf_counter() - start,
            }
        measure(workers, sides, args)
    return {'sides': sides}


def start_worker(side: str, args: argparse.Namespace, folder: pathlib.Path) -> Worker:
    """Starts the process of a side, bound to the first `--threads` usable cores."""
    python = sys.executable
    module = 'segjax_worker'
    search_path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    if side != OURS:
        python = args.torch
        module = 'torch_worker'
        search_path = str(ROOT)  # packages of another Python would not fit
    variables = {
        'PYTHONPATH': search_path,
        'JAX_PLATFORMS': 'cuda' if args.device == 'gpu' else 'cpu',
        'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',  # both sides are on the device at once
        'OMP_NUM_THREADS': str(args.threads),
        'SEGJAX_CACHE': str(folder / 'cache'),
    }
    if args.device == 'gpu':
        visible = os.environ.get('CUDA_VISIBLE_DEVICES', '0')
        variables['CUDA_VISIBLE_DEVICES'] = visible.split(',')[0]
    command = [python, '-m', f'benchmarks.{module}', str(args.threads)]
    return Worker(side, command, folder / f'{side}.log', variables)


def prepare(
    worker: Worker,
    side: str,
    net: str,
    args: argparse.Namespace,
    folder: pathlib.Path,
    facts: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compiles the programs of a side, and returns (its answer, its versions)."""
    shared = dict(net=net, width=args.width, dtype=args.dtype, folder=str(folder))
    if side == OURS:
        versions = worker.ask('describe', args.limit)
        shared |= dict(size=list(args.size), batch_size=args.batch)
        return worker.ask('prepare', args.limit, **shared), versions
    device = 'cuda' if args.device == 'gpu' else 'cpu'
    versions = worker.ask('describe', args.limit, threads=args.threads, device=device)
    shared |= dict(device=device, channels_last=args.channels_last, compiled=side == COMPILED)
    prepared = worker.ask('prepare', args.limit, facts=facts, **shared)
    # torch compiles in the first calls.
    for part in PARTS:
        worker.ask('call', args.limit, part=part)
    return prepared, versions


def check_parameters(side: str, prepared: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Raises WorkerError for a net that has other parameters than the net of segjax."""
    expected = facts.get('parameters', prepared['parameters'])
    if prepared['parameters'] != expected:
        raise WorkerError(f'{side}: {prepared["parameters"]} parameters, {OURS} has {expected}')


def measure(
    workers: Mapping[str, Worker], sides: dict[str, dict[str, Any]], args: argparse.Namespace
) -> None:
    """Adds times and peak memory to the sides. A side that fails gets an error."""
    for part in PARTS:
        working = {side: worker for side, worker in workers.items() if 'error' not in sides[side]}
        times, errors = take_turns(working, part, args.rounds, args.warmup, args.limit)
        for side, seconds in times.items():
            sides[side].setdefault('parts', {})[part] = seconds
        for side, error in errors.items():
            sides[side]['error'] = error
    for side, worker in workers.items():
        if 'error' in sides[side]:
            continue
        try:
            sides[side]['peak_bytes'] = worker.ask('memory', args.limit)
        except WorkerError as error:
            sides[side]['error'] = str(error)


def take_turns(
    workers: Mapping[str, Any], part: str, rounds: int, warm_up: int, limit: float
) -> tuple[dict[str, dict[str, list[float]]], dict[str, str]]:
    """Has all workers make one call in each round. Every second round runs in reverse order.

    Args:
      workers: by side.
      part: of the calls.
      rounds: timed rounds.
      warm_up: rounds before the timed rounds, which do not count.
      limit: seconds that a call may take.

    Returns:
      ({side: {'seconds': [..], 'cpu_seconds': [..]}}, {side: error}). A side that failed has no
      times.
    """
    times: dict[str, dict[str, list[float]]] = {}
    for side in workers:
        times[side] = {'seconds': [], 'cpu_seconds': []}
    errors: dict[str, str] = {}
    for turn in range(warm_up + rounds):
        for side in list(workers) if turn % 2 == 0 else list(reversed(workers)):
            if side in errors:
                continue
            try:
                measured = workers[side].ask('call', limit, part=part)
            except WorkerError as error:
                errors[side] = str(error)
                del times[side]
                continue
            if turn >= warm_up:
                for name, value in measured.items():
                    times[side][name].append(value)
    return times, errors


if __name__ == '__main__':
    options.run_main(main)
