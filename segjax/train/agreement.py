"""What the processes of a run must have in common, compared before anything is built or written.

Copies of the data set, of the weights and of the cache may lie at other paths on every host. The run folder is one
folder: process 0 writes a file into it, which the remaining processes look for.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import time
import uuid
from collections.abc import Iterator

import jax
import ml_collections
from flax import traverse_util

from segjax import config as config_lib
from segjax.core import environment, processes
from segjax.core.processes import Fact
from segjax.data import Prepared
from segjax.train import checkpoints, initialization

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'grain')
OWN = {
    'data.root',
    'data.cache',
    'data.classes',
    'data.threads',
    'data.workers',
    'data.prefetch',
    'init_from.path',
}
"""Keys of the config that each host may have for itself."""
SHOW_SECONDS = 30.0
"""How long a shared file system may take to show a new file to another host."""

SAME_FOLDER = '--workdir on a file system that all hosts share, and the same for every process'
SAME_COMMAND = 'the same command on every host, but for --process_id'
SAME_CODE = 'the same checkout of segjax and the same environment on every host'
SAME_DATA = 'copy the data set again, so that all hosts hold the same files'


def check_start(config: ml_collections.ConfigDict, workdir: pathlib.Path, use: str) -> None:
    """Raises InputError, in every process, unless all have one run folder, one config and one code.

    Args:
      use: 'train' or 'evaluate'.
      config: valid.
      workdir: the run folder, which need not exist.
    """
    if not processes.joined():
        return
    facts = {
        'use': Fact(use, SAME_COMMAND),
        'devices': Fact(
            f'{jax.local_device_count()} x {jax.local_devices()[0].device_kind}', SAME_CODE
        ),
        'code': Fact(code_digest(), SAME_CODE),
        **{f'version of {name}': Fact(environment.version(name), SAME_CODE) for name in PACKAGES},
        **{
            f'config.{key}': Fact(value, SAME_COMMAND)
            for key, value in _shared_keys(config).items()
        },
        'newest checkpoints': Fact(newest_steps(workdir), SAME_FOLDER),
    }
    with _marked(workdir) as marked:
        processes.compare(facts | {'run folder': Fact(marked, SAME_FOLDER)})


def check_data(data: Prepared, start: str) -> None:
    """Raises InputError, in every process, unless all have the same data and the same start.

    Waits for a process that still prepares its data.

    Args:
      data: as this process has prepared it.
      start: digest of the parameters that the run begins from, '' for none.
    """
    if not processes.joined():
        return
    facts = {
        'data': Fact(data_digest(data), SAME_DATA),
        'start': Fact(start, 'the same file or run as config.init_from.path on every host'),
    }
    for split, number in data.spec.num_examples.items():
        facts[f'examples of {split}'] = Fact(str(number), SAME_DATA)
    processes.compare(facts)


def code_digest() -> str:
    """Returns twelve hexadecimal digits that depend on every Python file of the package."""
    package = pathlib.Path(__file__).resolve().parent.parent
    found = hashlib.sha256()
    for path in sorted(package.rglob('*.py')):
        found.update(f'{path.relative_to(package).as_posix()};'.encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def data_digest(data: Prepared) -> str:
    """Returns twelve hexadecimal digits of the specification, which has a digest of the content of each split.

    Of splits whose records are older than the digest, three images count.
    """
    found = hashlib.sha256(repr(data.spec.to_json()).encode())
    for split, number in data.spec.num_examples.items():
        if number and split not in data.spec.digest:
            source = data.open_split(split, ('image',))
            for index in sorted({0, number // 2, number - 1}):
                found.update(source[index]['image'].tobytes())
    return found.hexdigest()[:12]


def newest_steps(workdir: pathlib.Path) -> str:
    """Returns the newest whole checkpoint of every stage in a run folder, as text."""
    stages = sorted(filter(initialization.has_checkpoint, workdir.glob('*')))
    return (
        ', '.join(
            f'{stage.name} {checkpoints.newest_step(stage / "checkpoints")}' for stage in stages
        )
        or 'none'
    )


def _shared_keys(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Returns the keys of a config that all processes must share, with their values as text."""
    values = traverse_util.flatten_dict(config_lib.to_json(config), sep='.')
    return {key: repr(value) for key, value in values.items() if key not in OWN}


@contextlib.contextmanager
def _marked(workdir: pathlib.Path) -> Iterator[str]:
    """Yields 'that of process 0' where the run folder is the same folder, else what is there.

    Process 0 leaves a file in the folder while the block runs. It removes folders that it made for it.
    """
    place = processes.place()
    if jax.process_index() == 0:
        mark = f'.processes-{uuid.uuid4().hex}'
        made = _make(workdir)
        (workdir / mark).touch()
        try:
            processes.tell(place, f'{platform.node()} {mark}')
            yield 'that of process 0'
        finally:
            (workdir / mark).unlink(missing_ok=True)
            for folder in made:
                with contextlib.suppress(OSError):  # somebody else has put something into it
                    folder.rmdir()
        return
    host, mark = processes.hear(place).rsplit(' ', 1)
    end = time.monotonic() + (1.0 if host == platform.node() else SHOW_SECONDS)
    while not (workdir / mark).exists() and time.monotonic() < end:
        time.sleep(0.2)
        with contextlib.suppress(OSError):
            os.listdir(workdir)  # NFS looks again
    yield 'that of process 0' if (workdir / mark).exists() else f'{workdir}, another folder'


def _make(folder: pathlib.Path) -> list[pathlib.Path]:
    """Makes a folder, and returns the folders that it was necessary to make, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing
