"""Compares folder, config, code and data of all processes, before anything is built or written.

The data set, the weights and the cache may be copies at another path on every host. The run folder
must be the same folder: process 0 writes a file into it, and the remaining processes look for it.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence

import jax
import ml_collections
from flax import traverse_util

from segjax import config as config_lib
from segjax.core import environment, processes
from segjax.core.processes import Fact
from segjax.data import Prepared, index
from segjax.data.cache import DERIVED
from segjax.train import checkpoints, initialization

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'grain')
OWN = {
    'data.root',
    'data.cache',
    'data.classes',
    'data.class_map',
    'data.lists',
    'data.threads',
    'data.workers',
    'data.prefetch',
    'init_from.path',
    'init_from.sources',
}
"""Config keys that may differ between hosts. Keys of `data` stand for all data sections."""
SHOW_SECONDS = 30.0
"""How long a shared file system may take to show a new file to another host."""

SAME_FOLDER = '--workdir on a file system that all hosts share, and the same for every process'
SAME_COMMAND = 'the same command on every host, but for --process_id'
SAME_CODE = 'the same checkout of segjax and the same environment on every host'
SAME_DATA = 'copy the data set again, so that all hosts hold the same files'
SAME_VALUES = 'config.data.cache on a file system that all hosts share, or copied to all hosts'
OF_MAIN = 'that of process 0'
"""Value of the fact 'run folder' in a process that sees the folder of process 0."""


def check_start(config: ml_collections.ConfigDict, workdir: pathlib.Path, use: str) -> None:
    """Raises InputError, in every process, unless all have the same run folder, config and code.

    Args:
      config: valid.
      workdir: the run folder, which need not exist.
      use: 'train' or 'evaluate'.
    """
    if not processes.joined():
        return
    devices = f'{jax.local_device_count()} x {jax.local_devices()[0].device_kind}'
    facts = {
        'use': Fact(use, SAME_COMMAND),
        'devices': Fact(devices, SAME_CODE),
        'code': Fact(code_digest(), SAME_CODE),
    }
    for name in PACKAGES:
        facts[f'version of {name}'] = Fact(environment.version(name), SAME_CODE)
    for key, value in _shared_keys(config).items():
        facts[f'config.{key}'] = Fact(value, SAME_COMMAND)
    facts['newest checkpoints'] = Fact(newest_steps(workdir), SAME_FOLDER)
    with _marked(workdir) as marked:
        processes.compare(facts | {'run folder': Fact(marked, SAME_FOLDER)})


def check_data(datasets: Mapping[str, Prepared], start: str) -> None:
    """Raises InputError, in every process, unless all have the same data and the same source.

    Waits for a process that still prepares its data.

    Args:
      datasets: by config section, as this process has prepared them.
      start: digests of the parameters from which the run begins, '' for none.
    """
    if not processes.joined():
        return
    expected = 'the same files and runs as config.init_from names, on every host'
    facts = {'start': Fact(start, expected)}
    for section, data in datasets.items():
        facts[section] = Fact(data_digest(data), SAME_DATA)
        of_section = '' if section == 'data' else f' in {section}'
        for split, number in data.spec.num_examples.items():
            facts[f'examples of {split}{of_section}'] = Fact(str(number), SAME_DATA)
    processes.compare(facts)


def check_features(folders: Sequence[pathlib.Path]) -> None:
    """Raises InputError, in every process, unless all have the same values of derived features.

    Waits for a process that still computes.

    Args:
      folders: of the values, as this process reads them.
    """
    if not processes.joined() or not folders:
        return
    # Features of several data sets may have the same name.
    digests: dict[str, str] = {}
    for folder in folders:
        (split,) = index.open_records(folder).info.splits
        digest = index.split_digest(index.load(folder, split))
        feature = folder.name.partition(DERIVED)[2].rpartition('-')[0]
        digests[feature] = f'{digests.get(feature, "")} {digest}'.strip()
    facts = {f'values of {name}': Fact(digests[name], SAME_VALUES) for name in digests}
    processes.compare(facts)


def code_digest() -> str:
    """Returns twelve hexadecimal digits that depend on every Python file of the package."""
    package = pathlib.Path(__file__).resolve().parent.parent
    sha = hashlib.sha256()
    for path in sorted(package.rglob('*.py')):
        sha.update(f'{path.relative_to(package).as_posix()};'.encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()[:12]


def data_digest(data: Prepared) -> str:
    """Returns twelve hexadecimal digits of the specification, which has a digest of each split.

    Splits whose records are older than the digest are compared by three images.
    """
    sha = hashlib.sha256(repr(data.spec.to_json()).encode())
    for split, number in data.spec.num_examples.items():
        if number and split not in data.spec.digest:
            source = data.open_split(split, ('image',))
            for index in sorted({0, number // 2, number - 1}):
                sha.update(source[index]['image'].tobytes())
    return sha.hexdigest()[:12]


def newest_steps(workdir: pathlib.Path) -> str:
    """Returns the newest checkpoint of every stage in a run folder, whole or damaged, as text."""
    steps = []
    for stage in sorted(filter(initialization.has_checkpoint, workdir.glob('*'))):
        steps.append(f'{stage.name} {checkpoints.newest_step(stage / "checkpoints")}')
    return ', '.join(steps) or 'none'


def _shared_keys(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Returns the config keys that all processes must share, with their values as text."""
    values = traverse_util.flatten_dict(config_lib.to_json(config), sep='.')
    own = config_lib.of_all_data_sets(OWN, config.pipeline)
    return {key: repr(value) for key, value in values.items() if key not in own}


@contextlib.contextmanager
def _marked(workdir: pathlib.Path) -> Iterator[str]:
    """Yields OF_MAIN if this process sees the run folder of process 0, else a text with its path.

    Process 0 leaves a file in the folder while the block runs. It removes folders that it made.
    """
    place = processes.place()
    if jax.process_index() == 0:
        mark = f'.processes-{uuid.uuid4().hex}'
        made = _make(workdir)
        (workdir / mark).touch()
        try:
            processes.tell(place, f'{platform.node()} {mark}')
            yield OF_MAIN
        finally:
            (workdir / mark).unlink(missing_ok=True)
            for folder in made:
                # Another program may have put something into the folder.
                with contextlib.suppress(OSError):
                    folder.rmdir()
        return
    host, mark = processes.hear(place).rsplit(' ', 1)
    patience = 1.0 if host == platform.node() else SHOW_SECONDS
    end = time.monotonic() + patience
    while not (workdir / mark).exists() and time.monotonic() < end:
        time.sleep(0.2)
        # Listing the folder makes NFS read it again.
        with contextlib.suppress(OSError):
            os.listdir(workdir)
    yield OF_MAIN if (workdir / mark).exists() else f'{workdir}, another folder'


def _make(folder: pathlib.Path) -> list[pathlib.Path]:
    """Makes a folder. Returns the folders that did not exist, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing
