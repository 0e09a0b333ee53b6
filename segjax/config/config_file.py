"""Config files and single keys from the command line: `--config file.py:variant,key=value --config.section.key=value`.

A config file is Python with a function `get_config(arg='')` that returns an `ml_collections.ConfigDict`. What is wrong
with it, or with a key, is an InputError that names the file and line, or the key; an error inside segjax stays what it
is, with its traceback.
"""

import difflib
import importlib.util
import inspect
import pathlib
import traceback
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import ml_collections

from segjax import config as config_lib
from segjax.errors import InputError, unknown_name
from segjax.schema import RENAMED, Choice

PACKAGE = pathlib.Path(__file__).resolve().parent.parent
# What a config file is written in: an error that comes out of these was made in the config file.
VOCABULARY = tuple(
    str(path)
    for path in (*PACKAGE.glob('config/*.py'), PACKAGE / 'schema.py', PACKAGE / 'errors.py')
)


class Assignment(NamedTuple):
    """`--config.optim.learning_rate=1e-3` is ('optim.learning_rate', '1e-3'); text is None for a bare --config.key."""

    key: str
    text: str | None


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[Assignment]]:
    """Takes `--config.key=value`, `--config.key value` and bare `--config.key` out of the command line, in order."""
    rest, assignments = [], []
    waiting = list(argv)
    while waiting:
        argument = waiting.pop(0)
        if argument == '--':
            rest += [argument, *waiting]
            break
        dashes, found, assignment = argument.partition('config.')
        if dashes not in ('-', '--') or not found:
            rest.append(argument)
            continue
        key, equals, text = assignment.partition('=')
        if not equals:
            text = waiting.pop(0) if waiting and not waiting[0].startswith('--') else None
        assignments.append(Assignment(key, text))
    return rest, assignments


def load(text: str) -> ml_collections.ConfigDict:
    """The config of `file.py` or `file.py:argument`, locked.

    Raises:
      InputError: no such file; an error in the file, with its line; a wrong argument.
    """
    name, _, argument = text.partition(':')
    path = pathlib.Path(name).expanduser()
    get_config = function(path, 'get_config', '--config', 'configs/supervised.py:quick', argument)
    if argument and not inspect.signature(get_config).parameters:
        raise InputError(
            '--config',
            got=f'{argument!r} after the colon',
            expected=f'nothing: {path} takes no argument',
        )
    needed = [p for p in inspect.signature(get_config).parameters.values() if p.default is p.empty]
    needed = [
        p.name
        for p in needed
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if len(needed) > bool(argument):
        got = f'get_config({", ".join(needed)})'
        raise InputError(
            str(path),
            got=got,
            expected='one argument with a default',
            fix="def get_config(arg=''):",
        )
    config = call(path, lambda: get_config(argument) if argument else get_config())
    if not isinstance(config, ml_collections.ConfigDict):
        got = f'a {type(config).__name__} from get_config'
        raise InputError(
            str(path),
            got=got,
            expected='a ConfigDict',
            fix='begin with segjax.config.defaults(pipeline)',
        )
    return config.lock()


def function(
    path: pathlib.Path, name: str, flag: str, example: str, argument: str = ''
) -> Callable:
    """The function that a file defines.

    Args:
      path: of the file.
      name: of the function: 'get_config'.
      flag: which named the file, for errors.
      example: file of the repository that the flag may name, for errors.
      argument: what follows the file behind a colon, for errors.

    Raises:
      InputError: no such file, an error in it, or no such function.
    """
    if not path.is_file():
        raise _no_file(path, flag, example, argument)
    found = getattr(call(path, lambda: _execute(path)), name, None)
    if not callable(found):
        raise InputError(str(path), got=f'no function {name}', expected=f'def {name}(...): ...')
    return found


def _no_file(path: pathlib.Path, flag: str, example: str, argument: str) -> InputError:
    """Returns the error for a path that names no file, with the nearest file in its folder, or in the repository."""
    if path.parent.is_dir() and not path.is_dir() and list(path.parent.glob('*.py')):
        nearest = unknown_name(flag, path.name, (p.name for p in path.parent.glob('*.py')))
        expected = f'{nearest.expected} in {path.parent}'
        return InputError(flag, got=f'no file {path}', expected=expected, fix=nearest.fix)
    file, _, variant = example.partition(':')
    home = pathlib.Path(file).parent
    home = home if home.is_dir() else PACKAGE.parent / home
    names = sorted(p.name for p in home.glob('*.py'))
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    got = f'the folder {path}' if path.is_dir() else f'no file {path}'
    expected = f'a file of Python, as {", ".join(names) or file} in {home}'
    if not path.parent.is_dir():
        expected += f'; there is no folder {path.parent} either, seen from {pathlib.Path.cwd()}'
    if near:
        fix = f'{flag} {home / near[0]}' + (f':{argument}' if argument else '')
    else:
        fix = f'{flag} {home / pathlib.Path(file).name}' + (f':{variant}' if variant else '')
    return InputError(flag, got=got, expected=expected, fix=fix)


def _execute(path: pathlib.Path) -> ModuleType:
    """The module that a file of configs is."""
    spec = importlib.util.spec_from_file_location('segjax_config_file', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(path: pathlib.Path, function) -> Any:
    """Calls a function of the config file; its errors become InputErrors with the file's line."""
    try:
        return function()
    except InputError:
        raise
    except SystemExit as error:
        got = f'a call of sys.exit({error.code!r})'
        raise InputError(
            str(path),
            got=got,
            expected='a file that returns a config',
            fix=f'take the sys.exit out of {path}',
        ) from None
    except SyntaxError as error:
        if error.filename is None:  # bytes that are no text
            raise InputError(
                str(path), got=error.msg, expected='Python', fix='save the file as text'
            ) from error
        if pathlib.Path(error.filename).resolve() != path.resolve():
            raise
        got = f'{error.msg}: {(error.text or "").strip()}'
        raise InputError(f'{path}, line {error.lineno}', got=got, expected='Python') from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]  # the first one is this function
        own = [
            frame for frame in frames if pathlib.Path(frame.filename).resolve() == path.resolve()
        ]
        ours = [
            f
            for f in frames
            if f.filename.startswith(str(PACKAGE)) and f.filename not in VOCABULARY
        ]
        if not own or ours:
            raise
        got = f'{type(error).__name__}: {error}'.replace('\n', ' ')
        expected = f'a line that works: {own[-1].line}'
        fix = f'correct that line: {PACKAGE / "schema.py"} has all keys, their meaning and their types'
        raise InputError(
            f'{path}, line {own[-1].lineno}', got=got, expected=expected, fix=fix
        ) from error


def assign(config: ml_collections.ConfigDict, assignments: Iterable[Assignment]) -> None:
    """Sets single keys; the type of the value there is the type of the key.

    `--config.<section>.name` of a section whose keys depend on its name (a net and its arguments) brings that name's
    own keys with their defaults.

    Raises:
      InputError: an unknown key (with the nearest one), a section, or a value of another type.
    """
    for key, text in assignments:
        *sections, last = key.split('.')
        values, path = config, '--config'
        for section in sections:
            values = _entry(values, path, section)
            path += f'.{section}'
            if not isinstance(values, ml_collections.ConfigDict):
                raise InputError(
                    path,
                    got=f'--config.{key}',
                    expected='a value: this is no section',
                    fix=f'{path}={config_lib.typed_text(values)}',
                )
        old = _entry(values, path, last)
        path += f'.{last}'
        if isinstance(old, ml_collections.ConfigDict):
            got = 'a value for a whole section' if text else 'a whole section'
            raise InputError(
                path,
                got=got,
                expected='one of its keys: ' + ', '.join(sorted(old)),
                fix=_first_key(path, old),
            )
        value = _typed(path, text, old)
        if last == 'name' and value != old and _depends_on_name(config, sections):
            config_lib.choose(config, sections[0], value)
        else:
            values[last] = value


def _first_key(path: str, section: ml_collections.ConfigDict) -> str:
    """Returns an assignment of one key of a section, with the value that it has."""
    key = next(
        (k for k in sorted(section) if not isinstance(section[k], ml_collections.ConfigDict)), ''
    )
    return (
        f'{path}.{key}={config_lib.typed_text(section[key])}'
        if key
        else f'one of {", ".join(sorted(section))}'
    )


def _depends_on_name(config: ml_collections.ConfigDict, sections: Sequence[str]) -> bool:
    schema = config_lib.schema_of(config.pipeline)
    return len(sections) == 1 and isinstance(schema[sections[0]], Choice)


def _entry(values: ml_collections.ConfigDict, path: str, key: str) -> Any:
    """Returns the value of a key, or raises InputError with the nearest key, or the new name of a renamed key."""
    if key not in values:
        section = path.removeprefix('--config').removeprefix('.')
        renamed = RENAMED.get(f'{section}.{key}' if section else key)
        if renamed:
            raise InputError(
                f'{path}.{key}',
                got='a key that was renamed',
                expected=f'--config.{renamed}',
                fix=f'--config.{renamed}',
            )
        raise unknown_name(f'{path}.{key}', key, values)
    return values[key]


def _typed(path: str, text: str | None, old: Any) -> Any:
    """`text` as a value of the type of `old`; a bare key is true."""
    try:
        if text is None and not isinstance(old, bool):
            raise ValueError('no value')
        return config_lib.typed('true' if text is None else text, old)
    except (ValueError, SyntaxError):
        got = 'nothing' if text is None else repr(text)
        kind = 'true or false' if isinstance(old, bool) else f'a value of type {type(old).__name__}'
        shown = f"'{path}={old!r}'" if isinstance(old, tuple) else f'{path}={old}'
        raise InputError(path, got=got, expected=kind, fix=f'as it is now: {shown}') from None


def overridden(config: ml_collections.ConfigDict, overrides: str) -> ml_collections.ConfigDict:
    """A checked copy of the config with 'section.key=value;section.key=value' assigned, as on the command line."""
    changed = config.copy_and_resolve_references().lock()
    items = (item.partition('=') for item in overrides.split(';') if item.strip())
    assign(
        changed,
        [Assignment(key.strip(), text.strip() if equals else None) for key, equals, text in items],
    )
    config_lib.validate(changed)
    return changed
