"""The exception for wrong input of the user. Main prints its message and exits with 1."""

import difflib
from collections.abc import Iterable

EXIT_WRONG = 1
"""Exit code for wrong input, and for a failed run."""
EXIT_PREEMPTED = 75
"""Exit code of a run that was told to stop, and that has saved its state."""
EXIT_INTERRUPTED = 130
"""Exit code after a second Ctrl-C."""


class InputError(ValueError):
    """An error in the input of the user. Most are raised before anything compiles.

    A reader can act on the message without reading code. Its parts, one a line:

    where     name of the file, key or flag
    got       the wrong value
    expected  what a right value looks like
    meaning   meaning of a config key, a sentence; '' for no such line
    fix       what the user may do, such as an argument to type; '' for no such line
    """

    def __init__(self, where: str, *, got: str, expected: str, fix: str = '', meaning: str = ''):
        self.where = where
        self.got = got
        self.expected = expected
        self.fix = fix
        self.meaning = meaning
        lines = [where, f'  got:      {got}', f'  expected: {expected}']
        if meaning:
            lines.append(f'  meaning:  {meaning}')
        if fix:
            lines.append(f'  fix:      {fix}')
        super().__init__('\n'.join(lines))

    def at(self, where: str) -> 'InputError':
        """Returns the same error with another location."""
        return self.replaced(where=where)

    def replaced(self, **parts: str) -> 'InputError':
        """Returns the same error with other texts for some parts: `error.replaced(fix='...')`."""
        return InputError(**{**self._parts(), **parts})

    def _parts(self) -> dict[str, str]:
        return {
            'where': self.where,
            'got': self.got,
            'expected': self.expected,
            'fix': self.fix,
            'meaning': self.meaning,
        }

    def __reduce__(self):
        # Loader processes send exceptions by pickle, which knows no keyword-only arguments.
        return _rebuild, (type(self), self._parts())


def _rebuild(cls: type[InputError], parts: dict[str, str]) -> InputError:
    """Returns the error that `InputError.__reduce__` describes."""
    return cls(**parts)


def unknown_name(where: str, name: str, known: Iterable[str]) -> InputError:
    """Returns the error for a name that is not in a table. Its fix is the nearest known name.

    Args:
      where: key, flag or file that holds the name.
      name: the unknown name.
      known: all names of the table.
    """
    names = sorted(known)
    similar = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    fix = f'did you mean {similar[0]!r}?' if similar else ''
    return InputError(where, got=repr(name), expected='one of ' + ', '.join(names), fix=fix)


def first_line(error: BaseException | str) -> str:
    """Returns the first line of a message that is not empty, else the name of the error's type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines:
        return lines[0]
    return '' if isinstance(error, str) else type(error).__name__
