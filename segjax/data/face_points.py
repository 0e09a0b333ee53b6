"""The 68 landmarks of a face in the order of the 300-W challenge.

    0-16   contour of the jaw, from the left ear of the image over the chin to the right ear
    17-26  brows: the left brow from outside to inside, the right brow from inside to outside
    27-30  ridge of the nose, downwards
    31-35  base of the nose, from left to right
    36-47  eyes: 36-41 around the left eye from its outer corner, 42-47 around the right eye from
           its inner corner. Both start upwards and run clockwise
    48-67  mouth: 48-59 around the outside of the lips, 60-67 around their inside. Both start at the
           left corner and run clockwise

Left and right are meant as they appear in the image.
"""

from segjax.spec import Feature

JAW = slice(0, 17)
BROWS = slice(17, 27)
NOSE = slice(27, 36)
LEFT_EYE = slice(36, 42)
RIGHT_EYE = slice(42, 48)
OUTER_LIPS = slice(48, 60)
INNER_LIPS = slice(60, 68)

PAIRS = (
    *((place, 16 - place) for place in range(8)),
    *((place, 43 - place) for place in range(17, 22)),
    *((31, 35), (32, 34)),
    *((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
    *((48, 54), (49, 53), (50, 52), (59, 55), (58, 56)),
    *((60, 64), (61, 63), (67, 65)),
)
"""Landmarks that swap places if the image is mirrored. Landmarks on the middle line stay."""

FEATURE = Feature('points', (68, 2), pairs=PAIRS)
"""The feature of data sets with these landmarks."""
