"""How a photo's bytes become pixels, in words, for who has to do it where this project is not: beside exported models.

Not in `images.py`, on which every stage that reads photos depends: other words would make all results stale.
"""

from darkroom.photos.images import DECODED_TIMES

# What `prepare_image` does, in its order.
PREPARATION_STEPS = [
    "decode the file; of an animation the first frame; color profiles are ignored",
    "a JPEG file, unless resampling is nearest, at 1/n of its size, with the largest n of 1, 2, 4, 8 that leaves both "
    f"sides at least {DECODED_TIMES} times the longer one of image_size, rounded up; the photo then is the box from "
    "(0, 0) to (width / n, height / n) of what is decoded, and may end within a pixel",
    "to RGB: gray of 16 bits by value * 255 / 65535, rounded; transparency laid on white",
    "if color is gray: 0.299 red + 0.587 green + 0.114 blue",
    "resize to image_size, which is [height, width], or swapped where EXIF's orientation turns by a quarter. stretch: "
    "all of the box. crop: the largest part of that shape in the middle of the box. pad: all of the box in its own "
    "shape, sides rounded and at least 1",
    "resampling: a filter of that name that widens as it shrinks, as Pillow's do; nearest takes single pixels",
    "turn upright as the EXIF orientation says",
    "if resize is pad: paste at ((width - photo's width) // 2, (height - photo's height) // 2) of a black image",
    "pixels are [height, width, channels], channels red, green, blue or the one gray, 0 to 255",
]
