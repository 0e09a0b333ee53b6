"""Opens a run: checks everything that can be checked before a step, and locks the run folder."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import ml_collections
from absl import logging

from segjax import config as config_lib
from segjax import data as data_lib
from segjax import pipelines
from segjax.core import files, host, parallel, paths, processes
from segjax.errors import InputError
from segjax.protocol import Stage
from segjax.train import advice, agreement, checks, data_sets, features, initialization, same_run
from segjax.train.run import Run
from segjax.train.stop import StopSignal
from segjax.train.stored import CONFIG, SPEC


def open_run(
    config: ml_collections.ConfigDict, workdir: str, use: str, stop: StopSignal | None = None
) -> tuple[Run, tuple[Stage, ...]]:
    """Prepares the data, makes the stages, checks them, and prints warnings before a run begins.

    Derived features that the stages read are computed after the checks.

    Args:
      config: unchecked.
      workdir: the run folder.
      use: 'train', 'evaluate' or 'predict'. Predicting needs the run folder, but no data set.
      stop: asked while data are prepared.
    """
    run, stages = checked_run(config, workdir, use, stop=stop)
    if use == 'train' and parallel.is_main() and not initialization.has_begun(run.workdir):
        for warning in advice.before_training(run.config, run.specs, stages):
            print(warning, flush=True)
    return run, stages


def checked_run(
    config: ml_collections.ConfigDict,
    workdir: str,
    use: str,
    trace_steps: bool = True,
    stop: StopSignal | None = None,
    has_start: bool = True,
) -> tuple[Run, tuple[Stage, ...]]:
    """Opens a run like `open_run`, but prints nothing.

    Args:
      config, workdir, use, stop: as in `open_run`.
      trace_steps: as in `checks.problems`.
      has_start: whether the run at `init_from.path` exists. Without it, nets begin at random.

    Raises:
      InputError: the first refusal of `segjax/train/checks.py`. Nothing has been compiled.
    """
    # The config and the folder alone. Nothing is written before all processes agree.
    config_lib.validate(config)
    checks.check_precision(config)
    folder = paths.local('--workdir', workdir).absolute()
    if use == 'train' or processes.joined() or not folder.is_dir():
        paths.check_writable('--workdir', folder)
    if use != 'predict':
        agreement.check_start(config, folder, use)

    # The run that the folder holds decides how images are prepared.
    topology = parallel.topology(config.parallel.mode, options=host.compiler_options(config))
    source = initialization.reader(config.init_from) if has_start else lambda: None
    sources = initialization.open_net_sources(config.init_from)
    if use == 'train':
        config = initialization.with_preprocess(config, folder / CONFIG, source)
    else:
        config = same_run.as_trained(config, folder, use)

    # The data, which may take long to prepare.
    datasets = _open_data(config, folder, use, stop)
    begun = initialization.has_begun(folder)
    reads_sources = use == 'train' and not begun
    start = initialization.start_digest(source, sources) if reads_sources else ''
    agreement.check_data(datasets, start)

    # The checks open every input: a data set that lacks a requested feature is refused here.
    datasets = features.promised(config, datasets)
    run = Run(config, datasets, folder, topology, source, sources)
    stages = pipelines.make_stages(config, run.specs)
    for problem in checks.problems(run, stages, use, begun, trace_steps):
        raise problem

    # Derived features may take long too. They are computed last, and only those that are read.
    if use != 'predict':
        inputs = features.inputs_of(stages, use)
        folders = features.make(config, datasets, inputs, _check_stop(stop))
        agreement.check_features(folders)
        checks.check_rows(run, stages, use)
    return run, stages


def _open_data(
    config: ml_collections.ConfigDict, folder: pathlib.Path, use: str, stop: StopSignal | None
) -> dict[str, data_lib.Prepared]:
    """Prepares the data sets, by config section.

    For predicting, the specifications in the run folder are enough.
    """
    if use == 'predict' and (folder / SPEC).exists():
        stored = same_run.stored_specs(folder)
        specs = {name: stored.get(name, stored['data']) for name in data_sets.sections(config)}
        return {name: data_lib.Prepared(spec, folder, spec.name) for name, spec in specs.items()}
    datasets = data_sets.prepare(config, _check_stop(stop))
    specs = {name: data.spec for name, data in datasets.items()}
    specs = same_run.with_stored_parts(folder, specs)
    return {name: data._replace(spec=specs[name]) for name, data in datasets.items()}


def _check_stop(stop: StopSignal | None) -> Callable[[], None]:
    """Returns the function that is called between examples that are prepared."""
    return stop.check_preparing if stop else data_lib.never_stop


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps a second training out of a run folder.

    The system releases the lock when the process ends, however it ends.

    Raises:
      InputError: another process is training in the folder.
    """
    # The main process holds the lock for all processes.
    if not parallel.is_main():
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / '.lock').open('w') as lock:
        try:
            files.lock(lock)
        except BlockingIOError as error:
            raise InputError(
                f'--workdir {workdir}',
                got='a folder in which another process is training',
                expected='a free folder',
                fix='wait for that training, stop it, or use another --workdir',
            ) from error
        # Some network file systems have no locks. That must not stop a training.
        except OSError as error:
            logging.error(
                '%s: this file system cannot lock (%s); make sure that only one run uses it',
                workdir,
                error,
            )
        yield
