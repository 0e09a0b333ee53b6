"""A worker of `benchmarks` whose calls take the seconds that it is told."""

import os
import sys
import time

from benchmarks import serving


def prepare(seconds):
    print('a print of a library')
    calls.extend(seconds)
    return {'calls': len(calls)}


def call(part):
    if part == 'exit':
        print('out of memory', flush=True)
        os._exit(9)
    if part == 'hang':
        time.sleep(60)
    seconds = calls.pop(0)
    return {'seconds': seconds, 'cpu_seconds': 2 * seconds}


calls = []
if __name__ == '__main__':
    if sys.argv[1:] == ['chatter']:
        print('no JSON', flush=True)
    serving.serve({'prepare': prepare, 'call': call})
