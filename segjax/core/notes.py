"""Notes: facts about a run that are no errors, but that a user should know."""

from typing import NamedTuple

_told: set[str] = set()


class Note(NamedTuple):
    """A fact for the user.

    where    name of a folder, file or key
    message  what was done with it
    fix      how to change that; '' for no such line
    """

    where: str
    message: str
    fix: str = ''

    def __str__(self) -> str:
        lines = [f'note: {self.where}', f'    {self.message}']
        if self.fix:
            lines.append(f'    fix: {self.fix}')
        return '\n'.join(lines)


def tell(note: Note | str) -> None:
    """Prints a note in the main process. Each text is printed once per program."""
    from segjax.core import parallel  # imports jax, which programs that only read data do not need

    text = str(note)
    if text not in _told and parallel.is_main():
        _told.add(text)
        print(text, flush=True)
