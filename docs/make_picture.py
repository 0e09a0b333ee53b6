"""Draws docs/first_run.png, the picture of README.md, from the run folder of its first command.

  python docs/make_picture.py runs/first

All pictures show `streets`, a synthetic world. A row is one image of its validation split: the
image, its true classes, the predicted classes, and the wrong pixels in red.
"""

import pathlib
import sys

from PIL import Image, ImageDraw, ImageFont

OUT = pathlib.Path(__file__).parent / 'first_run.png'
ROWS = {
    'best_00': 'best image',
    'best_03': 'fourth best image',
    'worst_00': 'worst image',
}
"""Folders of pictures, and the titles of their rows."""
COLUMNS = {
    'image': 'image',
    'truth': 'true classes',
    'prediction': 'prediction',
    'errors': 'errors',
}
"""Files of pictures, and the titles of their columns."""
GAP = 6
TITLE = 26


def main(run_folder: str) -> None:
    """Draws the pictures in a grid, and writes the file."""
    folder = pathlib.Path(run_folder) / 'segmentation/pictures'
    pictures = {
        (row, column): Image.open(folder / row / f'{column}.png').convert('RGB')
        for row in ROWS
        for column in COLUMNS
    }
    width, height = pictures['best_00', 'image'].size
    canvas_width = len(COLUMNS) * (width + GAP) - GAP
    canvas_height = TITLE + len(ROWS) * (height + TITLE)
    canvas = Image.new('RGB', (canvas_width, canvas_height), 'white')
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(15)

    # The titles of the columns are on top, and the title of a row is below its pictures.
    for column, title in enumerate(COLUMNS.values()):
        center = column * (width + GAP) + width / 2
        draw.text((center, TITLE / 2), title, fill='black', font=font, anchor='mm')
    for row, (row_name, row_title) in enumerate(ROWS.items()):
        top = TITLE + row * (height + TITLE)
        for column, column_name in enumerate(COLUMNS):
            canvas.paste(pictures[row_name, column_name], (column * (width + GAP), top))
        draw.text((0, top + height + TITLE / 2), row_title, fill='gray', font=font, anchor='lm')

    # A palette keeps the file small.
    canvas.quantize(256, dither=Image.Dither.NONE).save(OUT, optimize=True)
    print(f'{OUT}: {canvas_width}x{canvas_height}, {OUT.stat().st_size / 1000:.0f} kB')


if __name__ == '__main__':
    main(sys.argv[1])
