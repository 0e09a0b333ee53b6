"""Draws docs/first_run.png, the picture of README.md, from the run folder of its first command.

  python docs/make_picture.py runs/first

All pictures show `streets`, a synthetic world. A row is one image of its validation split: the image, its true classes,
and the classes that the net of each stage predicts.
"""

import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

OUT = pathlib.Path(__file__).parent / 'first_run.png'
STAGES = {
    'start': 'ERFNet alone',
    'none': 'CycleGAN, no noise',
    'quantize': 'CycleGAN, 2 bits',
}
"""Words in the names of stages, and the titles of their columns."""

NUM_ROWS = 3
SCALE = 2
GAP = 6
TITLE = 26


def main(run_folder: str) -> None:
    columns = read_columns(pathlib.Path(run_folder))
    height, width = SCALE * columns[0][1][0].height, SCALE * columns[0][1][0].width
    size = (len(columns) * (width + GAP) - GAP, TITLE + NUM_ROWS * (height + GAP) - GAP)
    canvas = Image.new('RGB', size, 'white')
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(16)
    for column, (title, pictures) in enumerate(columns):
        left = column * (width + GAP)
        draw.text((left + width / 2, TITLE / 2), title, fill='black', font=font, anchor='mm')
        for row, picture in enumerate(pictures):
            top = TITLE + row * (height + GAP)
            # Nearest neighbours: a palette keeps its colours, and the file stays small.
            large = picture.resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(large, (left, top))
    canvas.save(OUT, optimize=True)
    print(f'{OUT}: {size[0]}x{size[1]}, {OUT.stat().st_size / 1000:.0f} kB')


def read_columns(run_folder: pathlib.Path) -> list[tuple[str, list[Image.Image]]]:
    """Returns (title, pictures) of each column. All stages have pictures of the same examples."""
    first, *_ = (find_stage(run_folder, word) for word in STAGES)
    columns = [
        ('Image', read_pictures(first, 'image')),
        ('True classes', read_pictures(first, 'truth')),
    ]
    for word, title in STAGES.items():
        columns.append((title, read_pictures(find_stage(run_folder, word), 'prediction')))
    return columns


def find_stage(run_folder: pathlib.Path, word: str) -> pathlib.Path:
    """Returns the folder of the stage whose name contains `word`."""
    (folder,) = [path.parent for path in run_folder.glob(f'*{word}*/pictures')]
    return folder


def read_pictures(stage: pathlib.Path, panel: str) -> list[Image.Image]:
    """Returns one panel of the first examples that all stages show."""
    paths = sorted(stage.glob(f'pictures/same_*/{panel}.png'))[:NUM_ROWS]
    return [Image.fromarray(np.asarray(Image.open(path).convert('RGB'))) for path in paths]


if __name__ == '__main__':
    main(sys.argv[1])
