"""Config files and single keys from the command line.

    --config file.py:variant,key=value --config.section.key=value

A config file is Python with a function `get_config(arg='')` that returns a `ConfigDict`. An error
in the file becomes an InputError that names file and line. An error in a key becomes an InputError
that names the key. An error inside segjax keeps its type and traceback.
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
from segjax.config.arguments import KINDS
from segjax.config.tree import field_at
from segjax.errors import InputError, unknown_name
from segjax.schema import RENAMED, Choice, typed_text

PACKAGE = pathlib.Path(__file__).resolve().parent.parent
VOCABULARY = tuple(
    str(path)
    for path in (*PACKAGE.glob('config/*.py'), PACKAGE / 'schema.py', PACKAGE / 'errors.py')
)
"""Files whose functions config files call. Their errors are errors of the config file."""


class Assignment(NamedTuple):
    """A single key from the command line.

    `--config.optim.learning_rate=1e-3` is ('optim.learning_rate', '1e-3'). The text of a bare
    `--config.key` is None.
    """

    key: str
    text: str | None


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[Assignment]]:
    """Separates the assignments of single keys from the remaining words of a command line.

    Assignments are `--config.key=value`, `--config.key value` and bare `--config.key`.

    Returns:
      (remaining words, assignments), both in order.
    """
    remaining = []
    assignments = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == '--':
            remaining += [word, *words]
            break
        dashes, separator, assignment = word.partition('config.')
        if dashes not in ('-', '--') or not separator:
            remaining.append(word)
            continue
        key, equals, text = assignment.partition('=')
        if not equals:
            text = words.pop(0) if words and not words[0].startswith('--') else None
        assignments.append(Assignment(key, text))
    return remaining, assignments


# --- Config files ---------------------------------------------------------------------------------


def load(text: str) -> ml_collections.ConfigDict:
    """Returns the config of `file.py` or `file.py:argument`, locked.

    Raises:
      InputError: there is no such file, it has an error, or its argument is wrong.
    """
    name, _, argument = text.partition(':')
    path = pathlib.Path(name).expanduser()
    get_config = function(path, 'get_config', '--config', 'configs/supervised.py:quick', argument)
    _check_signature(path, get_config, argument)
    config = call(path, lambda: get_config(argument) if argument else get_config())
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(
            str(path),
            got=f'a {type(config).__name__} from get_config',
            expected='a ConfigDict',
            fix='begin with segjax.config.defaults(pipeline)',
        )
    return config.lock()


def _check_signature(path: pathlib.Path, get_config: Callable, argument: str) -> None:
    """Raises InputError unless `get_config` accepts the argument. '' means no argument."""
    parameters = list(inspect.signature(get_config).parameters.values())
    if argument and not parameters:
        raise InputError(
            '--config',
            got=f'{argument!r} after the colon',
            expected=f'nothing: {path} takes no argument',
        )
    named = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )
    required = [p.name for p in parameters if p.default is p.empty and p.kind in named]
    if len(required) > bool(argument):
        raise InputError(
            str(path),
            got=f'get_config({", ".join(required)})',
            expected='one argument with a default',
            fix="def get_config(arg=''):",
        )


def function(
    path: pathlib.Path, name: str, flag: str, example: str, argument: str = ''
) -> Callable[..., Any]:
    """Executes a Python file and returns one of its functions.

    Args:
      path: of the file.
      name: of the function: 'get_config'.
      flag: that names the file, for errors.
      example: file of the repository that the flag may name, for errors.
      argument: text behind the colon after the file, for errors.

    Raises:
      InputError: there is no such file, it has an error, or it has no such function.
    """
    if not path.is_file():
        raise _no_file(path, flag, example, argument)
    attribute = getattr(call(path, lambda: _execute(path)), name, None)
    if not callable(attribute):
        raise InputError(str(path), got=f'no function {name}', expected=f'def {name}(...): ...')
    return attribute


def _no_file(path: pathlib.Path, flag: str, example: str, argument: str) -> InputError:
    """Returns the error for a path that names no file, with the nearest file.

    The nearest file is sought in the folder of the path, if this folder holds Python files.
    Otherwise it is sought in the folder of `example`.
    """
    if path.parent.is_dir() and not path.is_dir() and list(path.parent.glob('*.py')):
        nearest = unknown_name(flag, path.name, (p.name for p in path.parent.glob('*.py')))
        expected = f'{nearest.expected} in {path.parent}'
        return InputError(flag, got=f'no file {path}', expected=expected, fix=nearest.fix)
    file, _, variant = example.partition(':')
    home = pathlib.Path(file).parent
    home = home if home.is_dir() else PACKAGE.parent / home
    names = sorted(p.name for p in home.glob('*.py'))
    similar = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    got = f'the folder {path}' if path.is_dir() else f'no file {path}'
    expected = f'a file of Python, as {", ".join(names) or file} in {home}'
    if not path.parent.is_dir():
        expected += f'. There is no folder {path.parent} in {pathlib.Path.cwd()}'
    if similar:
        fix = f'{flag} {home / similar[0]}' + (f':{argument}' if argument else '')
    else:
        fix = f'{flag} {home / pathlib.Path(file).name}' + (f':{variant}' if variant else '')
    return InputError(flag, got=got, expected=expected, fix=fix)


def _execute(path: pathlib.Path) -> ModuleType:
    """Executes a Python file and returns it as a module."""
    spec = importlib.util.spec_from_file_location('segjax_config_file', path)
    if spec is None or spec.loader is None:
        raise InputError(
            str(path), got='a file of another kind', expected='a file of Python, FILE.py'
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(path: pathlib.Path, function: Callable[[], Any]) -> Any:
    """Calls a function of a config file.

    Args:
      path: of the config file.
      function: without arguments.

    Raises:
      InputError: the function failed because of a line of the config file.
      Exception: the function failed inside segjax or in a library without a line of the file.
    """
    try:
        return function()
    # InputErrors already say what to mend.
    except InputError:
        raise
    # sys.exit would end the program without a word.
    except SystemExit as error:
        raise InputError(
            str(path),
            got=f'a call of sys.exit({error.code!r})',
            expected='a file that returns a config',
            fix=f'remove this call from {path}',
        ) from None
    # A syntax error names its place in its own fields, not in the traceback.
    except SyntaxError as error:
        wrong = _syntax_error(path, error)
        if wrong is None:
            raise
        raise wrong from error
    # Errors without a line of the file are bugs of segjax or of a library.
    except Exception as error:
        wrong = _error_in_file(path, error)
        if wrong is None:
            raise
        raise wrong from error


def _syntax_error(path: pathlib.Path, error: SyntaxError) -> InputError | None:
    """Returns the error for a config file that is no Python. Returns None for any other file."""
    if error.filename is None:  # the file holds bytes that are no text
        return InputError(str(path), got=error.msg, expected='Python', fix='save the file as text')
    if pathlib.Path(error.filename).resolve() != path.resolve():
        return None
    got = f'{error.msg}: {(error.text or "").strip()}'
    return InputError(f'{path}, line {error.lineno}', got=got, expected='Python')


def _error_in_file(path: pathlib.Path, error: Exception) -> InputError | None:
    """Returns the error for the last line of a config file in a traceback.

    Returns None if no line of the file is in the traceback, or if segjax itself failed.
    """
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first frame is `call`
    in_file = []
    in_segjax = []
    for frame in frames:
        if pathlib.Path(frame.filename).resolve() == path.resolve():
            in_file.append(frame)
        elif frame.filename.startswith(str(PACKAGE)) and frame.filename not in VOCABULARY:
            in_segjax.append(frame)
    if not in_file or in_segjax:
        return None
    return InputError(
        f'{path}, line {in_file[-1].lineno}',
        got=f'{type(error).__name__}: {error}'.replace('\n', ' '),
        expected=f'a line that works: {in_file[-1].line}',
        fix=_new_name(error, in_file[-1].line or '')
        or 'correct that line. docs/config.md lists all keys',
    )


def _new_name(error: Exception, line: str) -> str:
    """Returns the fix for an error about the old name of a renamed key. Returns '' otherwise.

    Several sections had a key of the same old name. The line must name the section.
    """
    if not isinstance(error, (AttributeError, KeyError)):
        return ''
    for old, new in RENAMED.items():
        section, _, name = old.rpartition('.')
        is_named = f"'{name}'" in str(error) or f'"{name}"' in str(error)
        if is_named and section in line:
            return f'the new name: config.{new} was config.{old}'
    return ''


# --- Single keys ----------------------------------------------------------------------------------


def assign(config: ml_collections.ConfigDict, assignments: Iterable[Assignment]) -> None:
    """Sets single keys. The present value of a key determines its type.

    The keys of some sections depend on `name`: a net and its arguments. Setting
    `--config.<section>.name` replaces all keys of such a section by the defaults of the new name.

    Raises:
      InputError: an unknown key (with the nearest key), a section, or a value of another type.
    """
    for key, text in assignments:
        _check_renamed(config, key, text)
        # The section of the key. `path` names the place in errors.
        *sections, last = key.split('.')
        values = config
        path = '--config'
        for section in sections:
            values = _entry(values, path, section)
            path += f'.{section}'
            if not isinstance(values, ml_collections.ConfigDict):
                raise InputError(
                    path,
                    got=f'--config.{key}',
                    expected='a value: this is no section',
                    fix=f'{path}={typed_text(values)}',
                )
        # The key has to be a single value, whose type the text must have.
        old = _entry(values, path, last)
        path += f'.{last}'
        if isinstance(old, ml_collections.ConfigDict):
            raise InputError(
                path,
                got='a value for a whole section' if text else 'a whole section',
                expected='one of its keys: ' + ', '.join(sorted(old)),
                fix=_first_key(path, old),
            )
        value = _typed(config, key, text, old)
        # Another name has other keys, so the section is replaced as a whole.
        if last == 'name' and value != old and _depends_on_name(config, sections):
            config_lib.choose(config, '.'.join(sections), value)
        else:
            values[last] = value


def _first_key(path: str, section: ml_collections.ConfigDict) -> str:
    """Returns an argument that sets the first key of a section to its present value."""
    for key in sorted(section):
        if not isinstance(section[key], ml_collections.ConfigDict):
            return f'{path}.{key}={typed_text(section[key])}'
    return f'one of {", ".join(sorted(section))}'


def _depends_on_name(config: ml_collections.ConfigDict, sections: Sequence[str]) -> bool:
    """Returns whether the keys of a section depend on its `name`."""
    schema = config_lib.schema_of(config.pipeline)
    return isinstance(config_lib.entry_at(schema, sections), Choice)


def _entry(values: ml_collections.ConfigDict, path: str, key: str) -> Any:
    """Returns the value of a key.

    Raises:
      InputError: an unknown key, with the nearest key.
    """
    if key not in values:
        raise unknown_name(f'{path}.{key}', key, values)
    return values[key]


def _check_renamed(config: ml_collections.ConfigDict, key: str, text: str | None) -> None:
    """Raises InputError for the old name of a key that the config has under a new name."""
    for old, new in RENAMED.items():
        if key != old and not key.startswith(f'{old}.'):
            continue
        new_key = new + key.removeprefix(old)
        if _has(config, key) or not _has(config, new_key):
            continue
        value = '' if text is None else f'={typed_text(text)}'
        raise InputError(
            f'--config.{key}',
            got='a key that was renamed',
            expected=f'--config.{new_key}',
            fix=f'--config.{new_key}{value}',
        )


def _has(config: ml_collections.ConfigDict, key: str) -> bool:
    """Returns whether a config has a key or a section at a path such as 'optim.eps'."""
    values: Any = config
    for part in key.split('.'):
        if not isinstance(values, ml_collections.ConfigDict) or part not in values:
            return False
        values = values[part]
    return True


def _typed(config: ml_collections.ConfigDict, key: str, text: str | None, old: Any) -> Any:
    """Returns a text as a value of the type of a key's old value. A key without a text is true.

    Raises:
      InputError: the text is no value of this type.
    """
    try:
        if text is None and not isinstance(old, bool):
            raise ValueError('no value')
        return config_lib.typed('true' if text is None else text, old)
    except (ValueError, SyntaxError):
        field = field_at(config, key.split('.'))
        raise InputError(
            f'--config.{key}',
            got='nothing' if text is None else repr(text),
            expected=KINDS[type(old)],
            meaning=field.doc if field else '',
            fix=f'--config.{key}={typed_text(old)}',
        ) from None


def overridden(config: ml_collections.ConfigDict, overrides: str) -> ml_collections.ConfigDict:
    """Returns a checked copy of a config with other values for some keys.

    Args:
      config: stays unchanged.
      overrides: 'section.key=value;section.key=value', typed as on the command line.

    Raises:
      InputError: an unknown key or a wrong value.
    """
    assignments = []
    for item in overrides.split(';'):
        if item.strip():
            key, equals, text = item.partition('=')
            assignments.append(Assignment(key.strip(), text.strip() if equals else None))
    changed = config.copy_and_resolve_references().lock()
    assign(changed, assignments)
    config_lib.validate(changed)
    return changed
