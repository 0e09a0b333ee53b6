"""Checks a machine with an accelerator in a few minutes. launch/device_check.sh describes it.

Each part is a process of its own with its own time limit. A part that fails or hangs costs no
other part.

This process never imports jax: it would hold the memory of the device.
"""

import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
PREEMPTED = 75
"""Exit code of a training that was told to stop and saved."""

FORCE_AFTER = 15.0
"""Seconds between SIGTERM and SIGKILL."""

WORTHWHILE = 0.25
"""Smallest fraction of its limit for which a part is started."""

DEVICES = """
import json, platform, jax, jaxlib, flax, numpy
devices = jax.devices()
print(json.dumps({
    'platform': jax.default_backend(),
    'devices': [device.device_kind for device in devices],
    'memory': (devices[0].memory_stats() or {}).get('bytes_limit'),
    'python': platform.python_version(),
    'jax': jax.__version__, 'jaxlib': jaxlib.__version__,
    'flax': flax.__version__, 'numpy': numpy.__version__,
}))
"""

PIPELINES = ('supervised', 'noise_cyclegan', 'learned_dilation', 'scene_geometry')
MODES = ('pmap', 'shard_map')
DTYPES = ('float32', 'bfloat16')
BOTH_DTYPES = "--config.bench.variants=('train.dtype=bfloat16',)"

# Net: its config, the size of its images, and whether bfloat16 is timed, too. PSPNet compiles long.
NETS = {
    'erfnet': ('supervised.py', (512, 1024), True),
    'bisenet': ('scene_geometry.py:method=baseline', (256, 832), True),
    'pspnet': ('learned_dilation.py:net=pspnet,dilation=fixed', (713, 713), False),
    'largefov': ('learned_dilation.py:net=largefov,dilation=fixed', (321, 321), True),
}
CAMVID_BATCH = 8
CAMVID_SIZE = (360, 480)


class Task(NamedTuple):
    """One command of a part.

    name       names its log and run folder
    arguments  of the Python interpreter
    variables  environment variables in addition to those of this process
    """

    name: str
    arguments: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()


class Part(NamedTuple):
    """One part of the check.

    name     name in the report
    tasks    commands
    limit    seconds
    read     output folder, texts that the tasks printed -> figures for the report
    at_once  number of tasks that run at the same time
    codes    exit codes of a task that passed
    untimed  whether a task that used up its time, and then stopped with one of `codes`, passed
    skip     reason to leave the part out, or ''
    """

    name: str
    tasks: tuple[Task, ...]
    limit: float
    read: Callable[[pathlib.Path, Mapping[str, str]], Any]
    at_once: int = 1
    codes: tuple[int, ...] = (0,)
    untimed: bool = False
    skip: str = ''


class Ended(NamedTuple):
    """How a task ended: exit code, whether its time was up, and what it printed."""

    code: int
    timed_out: bool
    text: str


# --- parts ----------------------------------------------------------------------------------------


def main_task(name: str, out: pathlib.Path, config: str, *more: str) -> Task:
    """Returns the task that runs segjax.main on a config of the repository."""
    flags = (f'--config={ROOT}/configs/{config}', f'--workdir={out / "runs" / name}', *more)
    return Task(name, ('-m', 'segjax.main', *flags))


def smoke_part(out: pathlib.Path, small: bool, limit: float) -> Part:
    """Trains the smoke config of each pipeline with both kinds of mapping and both dtypes."""
    tasks = []
    for pipeline in PIPELINES[: 1 if small else None]:
        for mode in MODES[: 1 if small else None]:
            for dtype in DTYPES:
                settings = (f'--config.parallel.mode={mode}', f'--config.train.dtype={dtype}')
                name = f'{pipeline}-{mode}-{dtype}'
                tasks.append(main_task(name, out, f'{pipeline}.py:smoke', *settings))
    shared = (('XLA_PYTHON_CLIENT_PREALLOCATE', 'false'),)
    tasks = tuple(task._replace(variables=shared) for task in tasks)
    at_once = max(1, min(8, len(os.sched_getaffinity(0)) // 2))
    return Part('smoke', tasks, limit, read_scores, at_once)


def read_scores(out: pathlib.Path, texts: Mapping[str, str]) -> Any:
    """Returns the scores of each run. Raises ValueError if one of them is not finite."""
    found = {}
    for name in texts:
        scores = json.loads((out / 'runs' / name / 'scores.json').read_text())
        if not all(math.isfinite(x) for x in numbers(scores)):
            raise ValueError(f'{name}: a score is not finite')
        found[name] = scores
    return found


def numbers(tree: Any) -> list[float]:
    """Returns all numbers of a JSON value."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        return [x for branch in tree for x in numbers(branch)]
    return [tree] if isinstance(tree, int | float) else []


def bench_part(net: str, out: pathlib.Path, small: bool, limit: float) -> Part:
    """Times a net on rendered images of the size that its config trains with."""
    config, size, both = NETS[net]
    name = f'bench-{net}'
    more = ['--mode=bench', *([BOTH_DTYPES] if both and not small else [])]
    if small:
        config = f'{config.partition(":")[0]}:smoke'
        more += ['--config.bench.repetitions=1', '--config.bench.warmup=1']
    else:
        more += [
            '--config.data.name=streets',
            '--config.data.world.num_train=32',
            '--config.data.world.num_val=8',
            f'--config.data.world.size={size}',
        ]
    return Part(name, (main_task(name, out, config, *more),), limit, read_bench)


def read_bench(out: pathlib.Path, texts: Mapping[str, str]) -> Any:
    """Returns images per second, peak memory and compile time by stage, program and variant."""
    (name,) = texts
    report = json.loads((out / 'runs' / name / 'bench.json').read_text())
    found: dict[str, Any] = {}
    for stage, parts in report['stages'].items():
        for program in ('train', 'evaluate', 'predict', 'input'):
            for variant, entry in parts.get(program, {}).items():
                found[f'{stage} {program} {variant}'] = {
                    'batch_size': entry['batch_size'],
                    'size': entry['size'],
                    'images_per_second': entry['images_per_second'],
                    'peak_bytes': (entry.get('memory') or {}).get('peak'),
                    'compile_seconds': entry.get('compile_seconds'),
                }
    return found


def torch_part(python: str, out: pathlib.Path, platform: str, small: bool, limit: float) -> Part:
    """Times ERFNet and BiSeNet against torch on one GPU, one call of each in turn."""
    skip = ''
    if small or platform != 'gpu':
        skip = 'torch is timed on a GPU at full size alone'
    elif not python:
        skip = 'no SEGJAX_TORCH'
    arguments = ('--torch', python, '--nets', 'erfnet,bisenet', '--device', 'gpu')
    arguments += ('--size', '512x1024', '--channels-last', '--output', str(out / 'torch'))
    task = Task('torch', ('-m', 'benchmarks.nets', *arguments))
    return Part('torch', (task,), limit, read_torch, skip=skip)


def read_torch(out: pathlib.Path, texts: Mapping[str, str]) -> Any:
    """Returns the rows of the table, and what failed. Raises ValueError without a finished net."""
    lines = (out / 'torch.md').read_text().splitlines()
    rows = [line for line in lines if line.startswith(('| ', '- '))]
    if not any('| torch |' in line for line in rows):
        raise ValueError('no net has finished')
    return {str(number): row for number, row in enumerate(rows, start=1)}


def tests_part(platform: str, small: bool, limit: float) -> Part:
    """Runs the tests of mapping and of the operations on the device."""
    files = ('tests/ops/test_pool.py',) if small else ('tests/core/test_parallel.py', 'tests/ops')
    arguments = ('-m', 'pytest', '-q', '-rfEs', '--maxfail=30', '-p', 'no:cacheprovider', *files)
    task = Task('tests', arguments, (('SEGJAX_TEST_PLATFORM', platform),))
    return Part('tests', (task,), limit, read_tests)


def read_tests(out: pathlib.Path, texts: Mapping[str, str]) -> Any:
    """Returns the last line of pytest."""
    return texts['tests'].strip().splitlines()[-1].strip('= ')


def camvid_part(data: str, out: pathlib.Path, small: bool, limit: float, steps: int) -> Part:
    """Trains ERFNet on CamVid from scratch in the time that is left."""
    root = pathlib.Path(data) / 'camvid'
    skip = '' if data and root.is_dir() else f'no folder {root}' if data else 'no --data'
    every = max(1, steps // 8)
    more = [
        f'--config.data.root={root}',
        f'--config.train.num_steps={steps}',
        f'--config.logging.eval_every={every}',
        f'--config.logging.checkpoint_every={every}',
    ]
    if small:
        more += [
            '--config.model.width=0.25',
            '--config.model.blocks=(1,1,0,0)',
            '--config.augment.resize=(48,64)',
            '--config.augment.crop=(48,64)',
            '--config.data.eval_size=(48,64)',
        ]
    else:
        more.append(f'--config.train.batch_size={CAMVID_BATCH}')
    task = main_task('camvid', out, 'supervised.py:camvid', *more)
    codes = (0, PREEMPTED)
    return Part('camvid', (task,), limit, read_curve, codes=codes, untimed=True, skip=skip)


def read_curve(out: pathlib.Path, texts: Mapping[str, str]) -> Any:
    """Returns [step, mIoU] of each evaluation. Raises ValueError if there was none."""
    curve = []
    for path in sorted((out / 'runs/camvid').glob('*/metrics.jsonl')):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if record['kind'] == 'eval':
                curve.append([record['step'], record['mIoU']])
    if not curve:
        raise ValueError('stopped before the first evaluation')
    return curve


def camvid_steps(benched: Mapping[str, Any] | None, seconds: float, small: bool) -> int:
    """Returns the number of steps of ERFNet on CamVid that fit into `seconds`."""
    if small:
        return 8
    for name, entry in (benched or {}).items():
        if ' train base' in f' {name}':
            pixels_per_second = entry['images_per_second'] * math.prod(entry['size'])
            steps_per_second = pixels_per_second / math.prod(CAMVID_SIZE) / CAMVID_BATCH
            # Preparation of the data, compilation and evaluation take the other half.
            return max(200, int(steps_per_second * seconds / 2))
    return 1000


# --- running --------------------------------------------------------------------------------------


class Check:
    """Runs parts one after another within a budget, and writes the report after each of them."""

    def __init__(self, out: pathlib.Path, minutes: float, dry_run: bool):
        self.out = out
        self.dry_run = dry_run
        self.end = time.monotonic() + 60 * minutes
        self.report: dict[str, Any] = {'minutes': minutes, 'parts': {}}
        self.lines: list[str] = []
        self.children: set[subprocess.Popen] = set()

    def left(self) -> float:
        """Returns the seconds of the budget that are left, less the time to end a part."""
        return self.end - time.monotonic() - FORCE_AFTER

    def say(self, line: str) -> None:
        """Prints a line and keeps it for the text report."""
        print(line, flush=True)
        self.lines.append(line)

    def run(self, part: Part) -> Any:
        """Runs a part and returns its figures, or None if it did not pass."""
        limit = min(part.limit, self.left())
        if self.dry_run:
            if part.skip:
                print(f'# {part.name} would be skipped: {part.skip}')
            for task in () if part.skip else part.tasks:
                set_first = [f'{key}={value}' for key, value in task.variables]
                print(shlex.join(['env', *set_first, sys.executable, *task.arguments]))
            return None
        if part.skip or limit < WORTHWHILE * part.limit:
            reason = part.skip or f'{max(0, limit):.0f} s are left of the budget'
            return self._record(part, 'skipped', reason, 0.0, None)

        # All tasks of a part share its time.
        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(part.at_once) as pool:
            futures = {
                task.name: pool.submit(self._task, task, start + limit) for task in part.tasks
            }
        ends = {name: future.result() for name, future in futures.items()}
        seconds = time.monotonic() - start

        # Figures are read from what passed, so a single failure leaves the figures of the rest.
        passed = {name: ended for name, ended in ends.items() if passes(part, ended)}
        reasons = [describe(name, end) for name, end in ends.items() if name not in passed]
        figures = None
        if passed:
            try:
                figures = part.read(self.out, {name: end.text for name, end in passed.items()})
            except (OSError, ValueError, LookupError) as error:
                reasons.append(f'no figures: {error}')
        status = 'failed' if reasons else 'passed'
        return self._record(part, status, '; '.join(reasons), seconds, figures)

    def _task(self, task: Task, end: float) -> Ended:
        log = self.out / 'logs' / f'{task.name}.log'
        log.parent.mkdir(parents=True, exist_ok=True)
        if time.monotonic() >= end:
            return Ended(1, True, 'not started')
        with open(log, 'w') as file:
            process = subprocess.Popen(
                [sys.executable, *task.arguments],
                cwd=ROOT,
                env={**os.environ, **dict(task.variables)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.children.add(process)
            timed_out = False
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                timed_out = True
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(FORCE_AFTER)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            self.children.discard(process)
        return Ended(code, timed_out, log.read_text(errors='replace'))

    def stop(self) -> None:
        """Ends all running processes."""
        for process in tuple(self.children):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def _record(self, part: Part, status: str, reason: str, seconds: float, figures: Any) -> Any:
        entry = {'status': status, 'seconds': round(seconds, 1), 'limit': part.limit}
        entry |= {'reason': reason, 'figures': figures}
        entry['commands'] = [shlex.join((sys.executable, *task.arguments)) for task in part.tasks]
        self.report['parts'][part.name] = entry
        self.say(f'{part.name:16}{status:9}{seconds:6.0f} s  {reason}'.rstrip())
        for line in figure_lines(figures):
            self.say(f'    {line}')
        self.write()
        return figures if status == 'passed' else None

    def write(self) -> None:
        """Writes device_check.json and device_check.txt.

        A killed check leaves its finished parts.
        """
        (self.out / 'device_check.json').write_text(json.dumps(self.report, indent=1) + '\n')
        (self.out / 'device_check.txt').write_text('\n'.join(self.lines) + '\n')

    def failed(self) -> list[str]:
        """Returns the names of the parts that failed."""
        return [n for n, entry in self.report['parts'].items() if entry['status'] == 'failed']


def passes(part: Part, ended: Ended) -> bool:
    """Returns whether a task passed."""
    return ended.code in part.codes and (part.untimed or not ended.timed_out)


def describe(name: str, ended: Ended) -> str:
    """Returns why a task did not pass, with the last line that it printed."""
    lines = ended.text.strip().splitlines()
    last = lines[-1][:160] if lines else 'nothing printed'
    why = 'time was up' if ended.timed_out else f'exit code {ended.code}'
    return f'{name}: {why} ({last}), see logs/{name}.log'


def figure_lines(figures: Any) -> list[str]:
    """Returns figures as lines of text. Nested scores are left to the JSON report."""
    if not isinstance(figures, dict):
        return [] if figures is None else [str(figures)]
    lines = []
    for name, entry in figures.items():
        if not isinstance(entry, dict):
            lines.append(f'{name}: {entry}')
        elif 'images_per_second' in entry:
            peak = entry['peak_bytes']
            seconds = entry['compile_seconds']
            memory = '' if peak is None else f', {peak / 1e9:.2f} GB'
            compiled = '' if seconds is None else f', compiled in {seconds:.1f} s'
            rate = f'{entry["images_per_second"]:.1f} images/s'
            lines.append(f'{name}: {rate}{memory}{compiled}')
    return lines


def find_devices(check: Check, small: bool) -> dict[str, Any] | None:
    """Returns versions and devices, or None if there is nothing to check."""
    part = Part(
        'devices',
        (Task('devices', ('-c', DEVICES)),),
        60,
        lambda out, texts: json.loads(texts['devices'].strip().splitlines()[-1]),
    )
    found = check.run(part)
    if check.dry_run or (found and (small or found['platform'] != 'cpu')):
        return found
    got = 'no device but the CPU' if found else check.report['parts']['devices']['reason']
    advice = 'SEGJAX_ACCELERATOR=cuda13 bash launch/env.sh, or set SEGJAX_PYTHON'
    print(
        f'{sys.executable}, JAX_PLATFORMS={os.environ.get("JAX_PLATFORMS", "")}\n'
        f'  got:      {got}\n'
        '  expected: a jax with CUDA (or for TPU) that finds its device\n'
        f'  fix:      {advice}; --small checks a CPU',
        file=sys.stderr,
    )
    return None


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(prog='device_check.sh', add_help=False, allow_abbrev=False)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--minutes', type=float, required=True)
    parser.add_argument('--data', default='')
    parser.add_argument('--small', action='store_true')
    parser.add_argument('--dry-run', action='store_true')
    return parser.parse_args(argv)


def run_parts(check: Check, found: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Runs all parts after `devices`, the most telling ones first."""
    out = check.out
    erfnet = check.run(bench_part('erfnet', out, args.small, 80))
    check.run(smoke_part(out, args.small, 100))
    for net in list(NETS)[1 : 1 if args.small else None]:
        check.run(bench_part(net, out, args.small, 80))
    python = os.environ.get('SEGJAX_TORCH', '')
    check.run(torch_part(python, out, found['platform'], args.small, 80))
    platform = {'gpu': 'cuda'}.get(found['platform'], found['platform'])
    check.run(tests_part(platform, args.small, 100))
    limit = max(60.0, check.left())
    steps = camvid_steps(erfnet, limit, args.small)
    check.run(camvid_part(args.data, out, args.small, limit, steps))


def main(argv: Sequence[str]) -> int:
    """Runs the check and returns the exit code."""
    args = parse(argv)
    out = args.out.absolute()
    check = Check(out, args.minutes, args.dry_run)
    if args.dry_run:
        find_devices(check, args.small)
        run_parts(check, {'platform': 'gpu'}, args)
        return 0
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        found = find_devices(check, args.small)
        if found is None:
            return 1
        run_parts(check, found, args)
    finally:
        check.stop()
    failed = check.failed()
    check.say(f'failed: {", ".join(failed)}' if failed else 'no part failed')
    check.write()
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
