"""The one exception that means 'the user's input is wrong': main prints its message and exits with code 1."""

import difflib
from collections.abc import Iterable

EXIT_WRONG, EXIT_PREEMPTED, EXIT_INTERRUPTED = 1, 75, 130
"""Exit codes: wrong input or a failed run; told to stop, and saved; a second Ctrl-C."""


class InputError(ValueError):
    """Bad input, found before anything compiles.

    The message has three parts, so that a reader can act on it without reading code: what was got
    (with the file's or the key's name), what was expected, and how to mend it.
    """

    def __init__(self, where: str, *, got: str, expected: str, fix: str = ''):
        self.where, self.got, self.expected, self.fix = where, got, expected, fix
        lines = [where, f'  got:      {got}', f'  expected: {expected}']
        if fix:
            lines.append(f'  fix:      {fix}')
        super().__init__('\n'.join(lines))

    def at(self, where: str) -> 'InputError':
        """The same error at another place: that of whoever knows what the input belongs to."""
        return InputError(where, got=self.got, expected=self.expected, fix=self.fix)

    def __reduce__(self):
        # Worker processes of the loader send exceptions by pickle, which knows no keyword-only arguments.
        return _rebuild, (type(self), self.where, self.got, self.expected, self.fix)


def _rebuild(cls, where, got, expected, fix):
    return cls(where, got=got, expected=expected, fix=fix)


def unknown_name(where: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is in no table, with the nearest name that is."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    fix = f'did you mean {near[0]!r}?' if near else ''
    return InputError(where, got=repr(name), expected='one of ' + ', '.join(known), fix=fix)


def first_line(error: BaseException | str) -> str:
    """Returns the first line of a message that is not empty, else the name of the error's type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines:
        return lines[0]
    return '' if isinstance(error, str) else type(error).__name__
