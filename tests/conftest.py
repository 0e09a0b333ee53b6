"""Shared fixtures.

Everything runs on simulated CPU devices unless a test starts a process of its own.
`SEGJAX_TEST_PLATFORM=cuda` (or rocm, tpu) runs the tests on the devices of that platform instead.
Tests of the operations and of the mapping are made for that. A test that needs more devices is
skipped.
"""

import concurrent.futures
import functools
import gc
import os
import pathlib
import types

import compiler

# Before numpy starts. Threads for tiny matrices wait for each other longer than they compute.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
# Before jax starts.
os.environ.update(compiler.environment(os.environ))
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path.home() / '.cache/segjax/jax_tests')
)
# Of everything, however small: processes that tests start find it, too.
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')

import jax
import parameter_shapes
import pytest
from flax import linen

LONGEST_FIRST = (
    'test_smoke',
    'modes/test_doctor',
    'core/test_processes',
    'pipelines/test_semantic_inpainting',
    'pipelines/test_noise_cyclegan',
    'train/test_driver',
    'test_main',
    'tasks/test_translation',
    'tasks/test_shapes',
    'test_configs',
    'pipelines/test_scene_geometry',
    'tasks/test_segmentation',
    'train/test_rows',
    'train/test_data_sets',
    'train/test_extension',
    'tasks/test_classification',
    'train/test_net_sources',
    'pipelines/test_supervised',
    'pipelines/test_learned_dilation',
    'pipelines/test_std2p',
    'pipelines/test_dropout_codes',
    'pipelines/test_dense_features',
    'models/segmentation/test_nets',
    'models/denoisers/test_denoisers',
    'models/generators/test_nets',
    'modes/predict/test_predict',
    'parity/test_torch',
    'train/test_features',
    'train/test_products',
    'launch/test_launch',
    'test_examples',
)
"""Files of tests that take long. They come first, so that the processes end at the same time."""


def pytest_collection_modifyitems(items):
    """Puts files that take long first, so that several processes end at the same time."""
    here = pathlib.Path(__file__).parent
    rank = {here / f'{name}.py': i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish():
    """Has the garbage collector look less often, and not at what was imported and collected.

    Tracing makes many small objects, of which few are garbage. The collector took a tenth of the
    time of tests that train.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 5)


def pytest_runtest_setup(item):
    """Skips a test that needs more devices than there are.

    The mark or the parameter `devices` of the test is the number.
    """
    mark = item.get_closest_marker('devices')
    parameters = item.callspec.params if hasattr(item, 'callspec') else {}
    needed = mark.args[0] if mark else parameters.get('devices', 1)
    if isinstance(needed, int) and needed > 1 and needed > len(jax.devices()):
        pytest.skip(f'needs {needed} devices')


def _tell_test_script(line: str) -> None:
    """Appends a line to the file in which launch/test.sh expects how the session ends."""
    if 'SEGJAX_TEST_ENDED' in os.environ and 'PYTEST_XDIST_WORKER' not in os.environ:
        with open(os.environ['SEGJAX_TEST_ENDED'], 'a') as file:
            file.write(line + '\n')


def pytest_sessionfinish():
    """Tells launch/test.sh that pytest comes to its summary."""
    _tell_test_script('finished')


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem():
    """Tells launch/test.sh that a worker of pytest-xdist died."""
    _tell_test_script('crashed')


@pytest.fixture(scope='session')
def real_data() -> pathlib.Path:
    """Returns the folder with real images (camvid/, cityscapes_mini/, ...).

    Tests that need the folder are skipped where it is absent.
    """
    return _folder_of('SEGJAX_REAL_DATA', 'real images')


@pytest.fixture(scope='session')
def weights() -> pathlib.Path:
    """Returns the folder with published weights (efficientnet_lite0.safetensors, ...).

    Tests that need the folder are skipped where it is absent.
    """
    return _folder_of('SEGJAX_WEIGHTS', 'published weights')


def _folder_of(variable: str, content: str) -> pathlib.Path:
    """Returns the folder that a variable of the environment names, or skips the test."""
    folder = os.environ.get(variable, '')
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip(f'${variable} names no folder with {content}')
    return pathlib.Path(folder)


@pytest.fixture(scope='session')
def torch_python() -> str:
    """Returns a Python with torch, which is no dependency of the project."""
    python = os.environ.get('SEGJAX_TORCH', '')
    if not python or not pathlib.Path(python).is_file():
        pytest.skip('$SEGJAX_TORCH names no Python with torch')
    return python


@pytest.fixture(scope='session', autouse=True)
def data_cache(tmp_path_factory):
    """Prepared records of the tests; never the user's own cache."""
    folder = tmp_path_factory.mktemp('cache')
    os.environ['SEGJAX_CACHE'] = str(folder)
    return folder


@pytest.fixture(scope='session', autouse=True)
def quick_traces():
    """Traces nets without a trace of the initialiser of each parameter."""
    with pytest.MonkeyPatch.context() as patch:
        parameter_shapes.check_without_a_trace(patch)
        yield


def _codes(value, kept: list):
    """Returns the code of all functions in a value, with the numbers and texts that they enclose.

    Args:
      value: a stage, or stages.
      kept: gets all functions, so that no later function has the same `id`.
    """
    if isinstance(value, functools.partial):
        value = (value.func, value.args, tuple(value.keywords.items()))
    if isinstance(value, tuple):
        return tuple(_codes(each, kept) for each in value)
    if not callable(value) or isinstance(value, linen.Module):
        return repr(value)
    if not isinstance(value, types.FunctionType):
        kept.append(value)
        return id(value)
    kept.append(value.__code__)
    enclosed = [cell.cell_contents for cell in value.__closure__ or ()]
    plain = [each for each in enclosed if isinstance(each, (bool, int, float, str))]
    return id(value.__code__), repr(plain)


@pytest.fixture(scope='module', autouse=True)
def steps_are_checked_once():
    """Traces the steps of a config once in a file, before the first run that begins with it.

    A run that resumes, or a second run, has the same steps. Every run still traces what it maps.
    Stages with other functions, which a test put there, are other steps.
    """
    from segjax.train import checks

    accepted = []
    kept = []
    every_problem = checks.problems

    def problems(run, stages, use, begun, trace_steps=True):
        sections = run.config.to_dict().items()
        read = repr({name: keys for name, keys in sections if name not in ('init_from', 'logging')})
        steps = (read, run.specs, run.topology.count, _codes(tuple(stages), kept))
        is_new = steps not in accepted
        found = 0
        for problem in every_problem(run, stages, use, begun, trace_steps and is_new):
            found += 1
            yield problem
        if use == 'train' and trace_steps and not found:
            accepted.append(steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, 'problems', problems)
        yield


@pytest.fixture(scope='module')
def functions_are_mapped_once():
    """Lets all runs of a file with equal configs share the compiled functions of their stages.

    Tests that kill processes show that a run that resumes compiles equal functions.
    """
    from segjax.train import driver, products, stage_functions

    mapped = {}
    kept = []

    def map_functions(run, stage):
        config = run.config.to_json_best_effort()
        key = repr((config, run.specs, run.topology, _codes(stage, kept)))
        if key not in mapped:
            mapped[key] = stage_functions.map_functions(run, stage)
        return mapped[key]

    with pytest.MonkeyPatch.context() as patch:
        for module in (driver, products):
            patch.setattr(module, 'map_functions', map_functions)
        yield


@pytest.fixture
def without_traces(monkeypatch):
    """Has the doctor trace no steps, for findings that do not depend on steps."""
    from segjax.train import checks

    problems = functools.partial(checks.problems, trace_steps=False)
    monkeypatch.setattr(checks, 'problems', problems)


@pytest.fixture
def in_threads(monkeypatch):
    """Computes derived features in threads of this process, which start at once."""

    def pool(num_workers, **_):
        return concurrent.futures.ThreadPoolExecutor(num_workers)

    monkeypatch.setattr(concurrent.futures, 'ProcessPoolExecutor', pool)


@pytest.fixture(scope='module', autouse=True)
def not_too_many_programs():
    """Forgets compiled programs when there are many.

    Each program maps several pieces of memory. The number of pieces of a process is limited (Linux:
    vm.max_map_count, 65530). Beyond the limit, the compiler crashes.
    """
    maps = pathlib.Path('/proc/self/maps')
    if maps.exists() and maps.read_text().count('\n') > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope='module', autouse=True)
def shipped_pipelines():
    """What a test file adds to the registry (the toy pipeline) is gone after it."""
    from segjax import pipelines

    shipped = dict(pipelines.REGISTRY)
    yield
    pipelines.REGISTRY.clear()
    pipelines.REGISTRY.update(shipped)


@pytest.fixture
def one_device(monkeypatch):
    """Gives runs one of the eight devices of the tests: small batches do not divide over eight."""
    from segjax.core import parallel

    topology = parallel.topology
    monkeypatch.setattr(
        parallel, 'topology', lambda mode='pmap', *_, **options: topology(mode, 1, **options)
    )
