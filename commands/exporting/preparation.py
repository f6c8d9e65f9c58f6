"""A description of how a photo's bytes become pixels, for programs that use an exported model without this project.

It is not in `images.py`, because every stage that reads photos depends on that module: an edit of the text would make
all results stale.
"""

from darkroom.photos.images import DECODED_TIMES

# The steps of `prepare_image`, in order.
PREPARATION_STEPS = [
    "decode the file: the first frame of an animation; ignore color profiles",
    "if it is a JPEG file and resampling is not nearest: decode it at 1/n of its size, with the largest n of 1, 2, 4, "
    f"8 that leaves both sides at least {DECODED_TIMES} times the longer side of image_size, rounded up; the photo is "
    "then the box from (0, 0) to (width / n, height / n) of the decoded image, and may end within a pixel",
    "convert to RGB: scale 16-bit gray by value * 255 / 65535, rounded; put transparent images on white",
    "if color is gray: 0.299 red + 0.587 green + 0.114 blue",
    "resize to image_size, which is [height, width], or swapped if the EXIF orientation rotates by 90 degrees. "
    "stretch: the whole box. crop: the largest centered part of the box with that aspect ratio. pad: the whole box, "
    "with its own aspect ratio, sides rounded and at least 1",
    "resampling: the filter of that name, widened when it shrinks, as in Pillow; nearest takes single pixels",
    "rotate and flip as the EXIF orientation says",
    "if resize is pad: paste at ((width - photo's width) // 2, (height - photo's height) // 2) of a black image",
    "the pixels are [height, width, channels], with the channels red, green, blue, or one gray channel, 0 to 255",
]
