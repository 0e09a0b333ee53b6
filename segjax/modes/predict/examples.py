"""Finds the examples of a `Prediction`: in a folder, in a single file, or in a JSON list."""

import json
import pathlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from segjax.core import text_files
from segjax.data import image_files, objects
from segjax.errors import InputError, unknown_name
from segjax.modes.predict import outputs, reading
from segjax.protocol import Prediction, Stage, TrainState
from segjax.spec import ClassSpec, Feature

LIST = '.json'
"""Suffix of a list of examples."""

SAMPLES = {
    'boxes': '[x0, y0, x1, y1]',
    'points': '[x, y]',
    'intrinsics': '[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]',
}
"""Values that features of a kind may have in a list, for errors: a single box or point."""

LONGEST_NAME = 240
"""Bytes of a part of a name. File systems have room for 255 bytes with the ending of a file."""


class ExampleFiles(NamedTuple):
    """An example before its maps are read.

    name    of its outputs, below their folders
    files   {feature: file} of its maps
    values  {feature: array} of its further inputs
    where   its place, for errors
    size    (height, width) of its maps, which `checked_example` reads. None without maps
    """

    name: str
    files: Mapping[str, pathlib.Path]
    values: Mapping[str, np.ndarray]
    where: str
    size: tuple[int, int] | None = None

    def digest(self) -> str:
        """Returns 32 hexadecimal digits for the content of all files, and for all values."""
        files = {key: outputs.content_digest(path) for key, path in self.files.items()}
        values = {key: value.tolist() for key, value in self.values.items()}
        return outputs.text_digest(json.dumps([files, values], sort_keys=True))


def find_examples(
    path: pathlib.Path, prediction: Prediction, classes: ClassSpec
) -> list[ExampleFiles]:
    """Returns the examples of --input, sorted by name. No map has been decoded.

    Args:
      path: a folder of maps, a single map, or a JSON file of an example or of a list of examples.
      prediction: says which inputs an example has.
      classes: names of the classes, which a list may use.

    Raises:
      InputError: no example, or the problems of all examples: first of the entries of a list, then
        of their files.
    """
    maps = [key for key, feature in prediction.inputs.items() if reading.is_map(feature)]
    if path.is_file() and path.suffix.lower() == LIST:
        examples = _listed(path, prediction, classes)
    elif len(maps) < len(prediction.inputs) or not maps:
        raise _needs_list(path, prediction)
    elif path.is_dir():
        examples = _in_folder(path, maps, prediction)
    else:
        examples = _single(path, maps, prediction)

    # Headers tell whether files are right, and how large they are.
    checked: list[ExampleFiles] = []

    def check(example: ExampleFiles) -> None:
        checked.append(checked_example(example, prediction))

    _check_all(examples, check)
    return sorted(checked, key=lambda example: example.name)


def _needs_list(path: pathlib.Path, prediction: Prediction) -> InputError:
    """Returns the error for files without the inputs that only a list can give."""
    further = [key for key, feature in prediction.inputs.items() if not reading.is_map(feature)]
    return InputError(
        f'--input {path}',
        got='files alone',
        expected=f'a JSON file, because an example also has {", ".join(further) or "no map"}',
        fix=f'--input list.json with [{sample(prediction)}]',
    )


def sample(prediction: Prediction) -> str:
    """Returns an entry of a list of examples, as text."""
    entry = ['"name": "a"']
    for key, feature in prediction.inputs.items():
        if reading.is_map(feature):
            value = f'"a{reading.READERS[feature.kind].suffixes[0]}"'
        elif is_class(key, feature):
            value = '"name of a class"'
        else:
            value = sample_of(feature) or ('[numbers]' if feature.shape else 'number')
        entry.append(f'"{key}": {value}')
    return '{' + ', '.join(entry) + '}'


def sample_of(feature: Feature) -> str:
    """Returns a value that a feature may have in a list, as text. '' for plain numbers."""
    value = SAMPLES.get(feature.kind, '')
    is_list = feature.kind in ('boxes', 'points') and feature.shape[:1] != (1,)
    return f'[{value}, ...]' if is_list else value


# --- files ----------------------------------------------------------------------------------------


def _in_folder(
    folder: pathlib.Path, maps: Sequence[str], prediction: Prediction
) -> list[ExampleFiles]:
    """Returns the examples of a folder.

    A single map per example is any file of the folder. Several maps are in sub-folders with the
    names of the inputs, under the same relative names.

    Raises:
      InputError: no file, a missing sub-folder, or an example without one of its maps.
    """
    folders = {key: folder / key for key in maps} if len(maps) > 1 else {maps[0]: folder}
    by_feature = {}
    for key, place in folders.items():
        if not place.is_dir():
            raise InputError(
                f'--input {folder}',
                got=f'no folder {key}',
                expected='a folder for each input: ' + ', '.join(maps),
                fix=f'put the files of {key} into {place}, with the same names in all folders',
            )
        suffixes = reading.READERS[prediction.inputs[key].kind].suffixes
        by_feature[key] = image_files.by_relative_name(place, suffixes)
        if not by_feature[key]:
            expected = 'files ' + ' '.join(suffixes)
            raise InputError('--input', got=f'no file for {key} in {place}', expected=expected)

    # Every example has all maps.
    names = sorted(set().union(*by_feature.values()))
    for name in names:
        for key in maps:
            if name not in by_feature[key]:
                raise InputError(
                    f'example {name!r}',
                    got=f'no file for {key} in {folders[key]}',
                    expected='a file of this name in the folder of each input',
                    fix=f'add it, or remove {name} from the other folders',
                )
    return [
        ExampleFiles(name, {key: by_feature[key][name] for key in maps}, {}, f'example {name!r}')
        for name in names
    ]


def _single(path: pathlib.Path, maps: Sequence[str], prediction: Prediction) -> list[ExampleFiles]:
    """Returns the example that consists of a single file. Raises InputError for another file."""
    if len(maps) > 1:
        raise InputError(
            f'--input {path}',
            got='a single file',
            expected='a folder with the sub-folders ' + ', '.join(maps) + ', or a JSON list',
            fix=f'--input list.json with [{sample(prediction)}]',
        )
    suffixes = reading.READERS[prediction.inputs[maps[0]].kind].suffixes
    if path.suffix.lower() not in suffixes:
        raise InputError(
            '--input',
            got=str(path),
            expected=f'a folder of files for {maps[0]}, or a file {" ".join((*suffixes, LIST))}',
        )
    return [ExampleFiles(path.stem, {maps[0]: path}, {}, f'example {path.stem!r}')]


# --- lists ----------------------------------------------------------------------------------------


def _listed(path: pathlib.Path, prediction: Prediction, classes: ClassSpec) -> list[ExampleFiles]:
    """Returns the examples of a JSON list, or the example of a JSON object.

    Paths are relative to the file.

    Raises:
      InputError: neither, or entries with a missing, unknown or wrong value.
    """
    # The file, which says itself what is wrong with its syntax.
    try:
        content = text_files.parse_json(text_files.read(path))
    except ValueError as error:
        raise InputError(
            str(path),
            got=str(error),
            expected='valid JSON, every key once',
            fix=f'[{sample(prediction)}]',
        ) from error

    # A single example is a list of an example.
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list) or not content:
        got = type(content).__name__ if not isinstance(content, list) else 'an empty list'
        raise InputError(
            str(path),
            got=got,
            expected='a list of examples, or a single example',
            fix=f'[{sample(prediction)}]',
        )
    examples: list[ExampleFiles] = []

    def read(numbered: tuple[int, Any]) -> None:
        examples.append(_entry(path, *numbered, prediction, classes))

    _check_all(enumerate(content), read)
    _check_names(path, examples)
    return examples


def _entry(
    path: pathlib.Path,
    number: int,
    entry: Any,
    prediction: Prediction,
    classes: ClassSpec,
) -> ExampleFiles:
    """Returns the example of an entry of a list. Raises InputError for a wrong entry."""
    where = f'{path}: entry {number}'
    if not isinstance(entry, dict):
        raise InputError(
            where, got=repr(entry), expected='an object with the inputs', fix=sample(prediction)
        )
    name = entry.get('name')
    if isinstance(name, str):
        where = f'{path}: example {name!r}'
    keys = ('name', *prediction.inputs)
    for key in entry:
        if key not in keys:
            error = unknown_name(f'{where}: key', key, keys)
            raise error if error.fix else error.replaced(fix=f'leave {key!r} out')
    for key in keys:
        if key not in entry:
            fix = f'add it, as in {sample(prediction)}'
            raise InputError(where, got=f'no {key!r}', expected=', '.join(keys), fix=fix)
    if not isinstance(name, str) or not _is_name(name):
        raise InputError(
            f'{where}: name',
            got=repr(name),
            expected="the name of the outputs, a relative path without '..', as street/000012, "
            f'of at most {LONGEST_NAME} bytes between slashes',
            fix='"name": "street/000012"',
        )

    # Maps are files. Everything else is in the list itself.
    files = {}
    values = {}
    for key, feature in prediction.inputs.items():
        if not reading.is_map(feature):
            values[key] = _value(f'{where}: {key}', key, feature, entry[key], classes)
        elif isinstance(entry[key], str):
            files[key] = path.parent / entry[key]
        else:
            raise InputError(f'{where}: {key}', got=repr(entry[key]), expected='the path of a file')
    return ExampleFiles(unicodedata.normalize('NFC', name), files, values, where)


def _is_name(name: str) -> bool:
    """Returns whether a name is a path below a folder that file systems accept."""
    try:
        parts = name.encode('utf-8').split(b'/')
    except UnicodeEncodeError:  # JSON may hold half of a character
        return False
    for part in parts:
        if part in (b'', b'.', b'..') or b'\0' in part or len(part) > LONGEST_NAME:
            return False
    return True


def _check_names(path: pathlib.Path, examples: Sequence[ExampleFiles]) -> None:
    """Raises InputError for two examples with the same name."""
    names = set()
    for example in examples:
        if example.name in names:
            raise InputError(
                f'{path}: name',
                got=f'{example.name!r} twice',
                expected='a name of its own for each example',
                fix='rename one of them',
            )
        names.add(example.name)


def _value(where: str, key: str, feature: Feature, value: Any, classes: ClassSpec) -> np.ndarray:
    """Returns a value of a list as an array of the shape of its feature.

    Names of classes become train ids. null is NaN: an absent point or box.

    Raises:
      InputError: another shape, a value that is no number, or an unknown class.
    """
    if is_class(key, feature):
        value = _train_ids(where, value, classes)
    # Lists of several lengths, and whole numbers beyond all floats, are no array.
    try:
        array = np.array(value, np.float64) if _is_numeric(value) else None
    except (ValueError, OverflowError):
        array = None
    # A single box or point may be written without the outer list.
    if array is not None and (1, *array.shape) == feature.shape:
        array = array[None]
    if array is None or array.shape != feature.shape:
        # A single box or point is asked for without the outer list.
        is_single = feature.kind in SAMPLES and feature.shape[:1] == (1,)
        shape = ' x '.join(map(str, feature.shape[1:] if is_single else feature.shape))
        expected = f'{shape} numbers' if shape else 'a number'
        got = f'{value!r:.80}'
        if array is not None and array.ndim:
            got = ' x '.join(map(str, array.shape)) + ' numbers'
        raise InputError(where, got=got, expected=expected, fix=sample_of(feature))
    if feature.kind == 'number' and not np.isfinite(array).all():
        raise InputError(where, got=repr(value), expected='finite numbers')
    return array.astype(feature.dtype)


def _is_numeric(value: Any) -> bool:
    """Returns whether a value of JSON is a number or null, or a list of numbers and nulls."""
    if isinstance(value, list):
        return all(map(_is_numeric, value))
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def is_class(key: str, feature: Feature) -> bool:
    """Returns whether a list may give a feature as the name of a class."""
    return feature.kind == 'number' and key.startswith('class')


def _train_ids(where: str, value: Any, classes: ClassSpec) -> Any:
    """Returns train ids in place of names of classes. Raises InputError for an unknown class."""
    if isinstance(value, list):
        return [_train_ids(where, item, classes) for item in value]
    if isinstance(value, str):
        if value not in classes.names:
            raise unknown_name(where, value, classes.names)
        return classes.names.index(value)
    is_id = isinstance(value, int) and not isinstance(value, bool)
    if not is_id or not 0 <= value < classes.num_classes:
        expected = f'the name of a class, or its train id 0 .. {classes.num_classes - 1}'
        fix = f'"{classes.names[0]}"' if classes.names else ''
        raise InputError(where, got=f'{value!r:.80}', expected=expected, fix=fix)
    return value


# --- checks of files ------------------------------------------------------------------------------


def check_trained(examples: Sequence[ExampleFiles], stage: Stage, state: TrainState) -> None:
    """Raises InputError for examples that differ from everything that a net was trained on.

    Args:
      examples: from `find_examples`.
      stage: that predicts them.
      state: of the stage, on the host.
    """
    prediction = stage.prediction
    if prediction is None or prediction.check_trained is None:
        return
    refuse = prediction.check_trained

    def check(example: ExampleFiles) -> None:
        try:
            refuse(state, example.values)
        except InputError as error:
            raise error.at(f'{example.where}: {error.where}') from error

    _check_all(examples, check)


def with_room(prediction: Prediction, examples: Iterable[ExampleFiles]) -> Prediction:
    """Returns a prediction into whose size the maps of all examples fit without being resized.

    Args:
      prediction: with `resize` it stays as it is.
      examples: from `find_examples`.
    """
    if prediction.resize:
        return prediction
    sizes = [prediction.size]
    sizes += [example.size for example in examples if example.size is not None]
    heights, widths = zip(*sizes, strict=True)
    return prediction._replace(size=(max(heights), max(widths)))


def _check_all(examples: Iterable[Any], check: Callable[[Any], None]) -> None:
    """Calls a function on all examples. Raises InputError if it raises some, and names them all."""
    problems = []
    count = 0
    for example in examples:
        count += 1
        try:
            check(example)
        except InputError as error:
            problems.append(error)
    if len(problems) > 1:
        raise _joined(problems, count)
    if problems:
        raise problems[0]


def _joined(problems: Sequence[InputError], count: int) -> InputError:
    """Returns an error that names the problems of several of `count` examples."""
    indent = '\n            '
    expected = dict.fromkeys(error.expected for error in problems)
    fixes = dict.fromkeys(error.fix for error in problems if error.fix)
    return InputError(
        f'{len(problems)} of {count} examples',
        got=indent.join(f'{error.where}: {error.got}' for error in problems),
        expected=indent.join(expected),
        fix=indent.join(fixes),
    )


def checked_example(example: ExampleFiles, prediction: Prediction) -> ExampleFiles:
    """Checks files and values of an example, without decoding PNG and JPEG. Adds its size.

    Raises:
      InputError: a missing or damaged file, maps of several sizes, a box that is empty or outside
        of the image, or an error of `Prediction.check`.
    """
    # Files, from their headers.
    inputs = prediction.inputs
    sizes = {}
    for key, path in example.files.items():
        where = f'{example.where}: {key}'
        suffixes = reading.READERS[inputs[key].kind].suffixes
        if not path.is_file():
            raise InputError(where, got=f'no file {path}', expected='an existing file')
        if path.suffix.lower() not in suffixes:
            raise InputError(where, got=str(path), expected='a file ' + ' '.join(suffixes))
        problem = image_files.inspect(path)[0] if inputs[key].kind == 'image' else ''
        if problem:
            expected = 'a whole image with 8 bits per channel'
            raise InputError(where, got=f'{path}: {problem}', expected=expected)
        try:
            sizes[key] = reading.file_size(path)
        except InputError as error:
            raise error.replaced(where=where, got=f'{path}: {error.got}') from error

    # Maps of an example move together, and boxes lie on them.
    if len(set(sizes.values())) > 1:
        raise InputError(
            example.where,
            got=', '.join(
                f'{key} {h} x {w} ({example.files[key]})' for key, (h, w) in sizes.items()
            ),
            expected='one (height x width) for all maps of an example',
            fix='bring them to one size',
        )
    size = next(iter(sizes.values()), None)
    for key, value in example.values.items():
        if inputs[key].kind == 'boxes' and size is not None:
            _check_boxes(f'{example.where}: {key}', value, size)

    # The stage knows which values its net can use.
    if prediction.check is not None:
        of_maps = {} if size is None else {'size': size}
        try:
            prediction.check({**example.values, **of_maps})
        except InputError as error:
            raise error.at(f'{example.where}: {error.where}') from error
    return example._replace(size=size)


def _check_boxes(where: str, boxes: np.ndarray, size: tuple[int, int]) -> None:
    """Raises InputError for boxes [n, 4] that are empty or outside. NaN is an absent box."""
    for box in boxes.reshape(-1, 4):
        if not np.isnan(box).all():
            objects.check_box(box, size, where)
