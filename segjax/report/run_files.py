"""Reads the files of a run folder that its report shows."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from segjax.core import files
from segjax.report.scores import MADE_BY
from segjax.spec import DataSpec


class StageFiles(NamedTuple):
    """The files of one stage. Missing files are empty.

    name      of the stage
    scores    of scores.json
    metrics   lines of metrics.jsonl
    timing    lines of timing.jsonl
    pictures  (group, folder, content of info.json) of each example
    """

    name: str
    scores: dict[str, Any]
    metrics: list[dict[str, Any]]
    timing: list[dict[str, Any]]
    pictures: list[tuple[str, pathlib.Path, dict[str, Any]]]

    @property
    def last_step(self) -> int:
        """Returns the last step in the metrics, 0 without metrics."""
        return max((line['step'] for line in self.metrics), default=0)


class RunFiles(NamedTuple):
    """The files of a run folder. Missing files are empty.

    workdir      the run folder
    config       of config.json
    environment  of environment.json
    specs        the data sets by config section; {} if the caller does not know them
    stages       that have left files, in the order in which they ran
    planned      steps by stage
    start        of start.json
    """

    workdir: pathlib.Path
    config: dict[str, Any]
    environment: dict[str, Any]
    specs: Mapping[str, DataSpec]
    stages: list[StageFiles]
    planned: dict[str, int]
    start: dict[str, Any]

    @property
    def spec(self) -> DataSpec | None:
        """Returns the main data set, None if the caller does not know it."""
        return self.specs.get('data')

    def spec_of(self, stage: StageFiles) -> DataSpec | None:
        """Returns the data set on which a stage was scored, as the digests of its splits tell.

        Scores without digests belong to the main data set.
        """
        made_by = stage.scores.get(MADE_BY)
        evaluated = made_by.get('data') if isinstance(made_by, Mapping) else None
        if isinstance(evaluated, Mapping) and evaluated:
            for spec in self.specs.values():
                if evaluated.items() <= dict(spec.digest).items():
                    return spec
        return self.spec

    def setting(self, path: str) -> Any:
        """Returns config['a']['b'] for 'a.b'; None if there is no such key, as pipelines differ."""
        value: Any = self.config
        for key in path.split('.'):
            value = value[key] if isinstance(value, Mapping) and key in value else None
        return value


def read_run(workdir: pathlib.Path, specs: Mapping[str, DataSpec]) -> RunFiles:
    """Reads a run folder."""
    folders = sorted(folder for folder in workdir.iterdir() if folder.is_dir())
    order = list(_optional(files.read_json, workdir / 'scores.json', {}))

    def position(folder: pathlib.Path) -> tuple[float, ...]:
        """Sorts stages as scores.json lists them, then further stages by their last change."""
        times = []
        for file in (folder / 'metrics.jsonl', folder / 'scores.json'):
            if file.exists():
                times.append(file.stat().st_mtime)
        place = order.index(folder.name) if folder.name in order else len(order)
        return place, *times[:1]

    # A folder without any file of a stage is no stage.
    stages = [_read_stage(folder) for folder in sorted(folders, key=position)]
    start = _optional(files.read_json, workdir / files.START, {})
    return RunFiles(
        workdir,
        config=_optional(files.read_json, workdir / 'config.json', {}),
        environment=_optional(files.read_json, workdir / 'environment.json', {}),
        specs=specs,
        stages=[stage for stage in stages if any(stage[1:])],
        planned=dict(zip(start.get('stages', ()), start.get('steps', ()))),
        start=start,
    )


def _read_stage(folder: pathlib.Path) -> StageFiles:
    """Reads the folder of a stage."""
    pictures = []
    for path in sorted((folder / 'pictures').glob('*_*/info.json')):
        info = _optional(files.read_json, path, {})
        if info:
            group = path.parent.name.rsplit('_', 1)[0]
            pictures.append((group, path.parent, info))
    return StageFiles(
        folder.name,
        _optional(files.read_json, folder / 'scores.json', {}),
        _optional(files.read_lines, folder / 'metrics.jsonl', []),
        _optional(files.read_lines, folder / 'timing.jsonl', []),
        pictures,
    )


def _optional(read: Callable, path: pathlib.Path, default: Any) -> Any:
    """Reads a file. Returns `default` if it is missing, broken or of another type.

    A report must not stop a run.
    """
    try:
        content = read(path) if path.exists() else default
    except (ValueError, OSError):
        return default
    return content if isinstance(content, type(default)) else default
