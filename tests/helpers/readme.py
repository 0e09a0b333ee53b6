"""README.md as its tests see it: its code blocks, its commands, and what runs one of them."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
README = (REPOSITORY / 'README.md').read_text()
BLOCKS = re.findall(r'^```(\w*)\n(.*?)^```$', README, re.MULTILINE | re.DOTALL)
LOCAL = 'launch/local.sh'


def commands() -> list[list[str]]:
    """The command lines of all bash blocks, as a shell splits them."""
    text = '\n'.join(body for language, body in BLOCKS if language == 'bash').replace('\\\n', ' ')
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words for words in lines if words]


def show(words):
    return ' '.join(words[1:])


def launch(words, *more, **env):
    """Runs a command of the README from the repository, with the interpreter of the tests."""
    environment = {**os.environ, 'SEGJAX_PYTHON': sys.executable, 'XLA_FLAGS': '', **env}
    return subprocess.run(
        [*words, *more],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )


def flag(words: list[str], name: str) -> str | None:
    """The value of --name VALUE or --name=VALUE."""
    for word, after in zip(words, [*words[1:], None]):
        if word == f'--{name}':
            return after
        if word.startswith(f'--{name}='):
            return word.partition('=')[2]
    return None
