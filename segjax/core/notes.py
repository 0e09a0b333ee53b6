"""Notes: what a user should know about a run that needs no mending."""

from typing import NamedTuple

_told: set[str] = set()


class Note(NamedTuple):
    """where names a folder or a file; message says what was done with it, fix how to change that."""

    where: str
    message: str
    fix: str = ''

    def __str__(self):
        lines = [f'note: {self.where}', f'    {self.message}']
        return '\n'.join([*lines, f'    fix: {self.fix}'] if self.fix else lines)


def tell(note: Note | str) -> None:
    """Prints a note in the main process, each text once a program."""
    from segjax.core import parallel  # imports jax, which programs that only read data need not

    text = str(note)
    if text not in _told and parallel.is_main():
        _told.add(text)
        print(text, flush=True)
