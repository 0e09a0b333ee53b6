"""Fills a JobSet template of this folder.

usage: render.py TEMPLATE KEY=VALUE ... -- ARGUMENTS OF THE CONTAINER

Every `$KEY` of the template needs its KEY=VALUE. `$ARGUMENTS` becomes the list after the bare `--`.
The program needs nothing but Python, because it runs where jobs are submitted, not where they
train.
"""

import json
import pathlib
import string
import sys


def container_arguments(arguments: list[str], own: list[str]) -> str:
    """Returns all arguments as a YAML list (JSON is YAML).

    Kubernetes replaces $(NAME) in our `own` arguments, not in the user's.
    """
    return json.dumps(own + [argument.replace('$(', '$$(') for argument in arguments])


def render(template: str, values: dict[str, str], arguments: list[str]) -> str:
    own = ['--distributed']
    if 'NODES' in values:  # no cluster of GPUs that jax would recognise
        own = [
            '--coordinator=$(COORDINATOR)',
            f'--num_processes={values["NODES"]}',
            '--process_id=$(JOB_COMPLETION_INDEX)',
        ]
    return string.Template(template).substitute(
        values, ARGUMENTS=container_arguments(arguments, own)
    )


def main() -> None:
    path, *words = sys.argv[1:]
    split = words.index('--')
    values = dict(word.split('=', 1) for word in words[:split])
    sys.stdout.write(render(pathlib.Path(path).read_text(), values, words[split + 1 :]))


if __name__ == '__main__':
    main()
