"""File formats of photos: those that are read, the names of others, and checks that Pillow leaves out."""

import re
import zlib

import pi_heif
from PIL import Image

pi_heif.register_heif_opener()

# Pillow's names of the formats that are read, and the extension for each. Pillow reports a JPEG file with more images
# after the first as MPO, but has no decoder of that name.
FORMAT_EXTENSIONS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "AVIF": "avif",
    "HEIF": "heic",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
}
FORMATS = [name for name in FORMAT_EXTENSIONS if name != "MPO"]
CONVERT = "convert it to JPEG or PNG"
# Files that people take for photos, by their first bytes.
OTHER_FORMATS = {
    rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n": f"a JPEG XL file, which cannot be read; {CONVERT}",
    rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1|avi[fs])": f"a HEIC or AVIF file that cannot be read; {CONVERT}",
    rb"....ftypcrx |FUJIFILMCCD-RAW|II\*\0....CR": "a camera's raw file, which cannot be read; export it as JPEG",
    rb"\0\0\0\x0cjP  \r\n\x87\n": f"a JPEG 2000 file, which cannot be read; {CONVERT}",
    rb"....ftyp": "a video, expected a photo",
    rb"8BPS": f"a Photoshop file, which cannot be read; {CONVERT}",
    rb"%PDF-": "a PDF document, expected a photo",
    rb"\s*(<\?xml[^>]*>\s*)?<svg": f"an SVG drawing, which cannot be read; {CONVERT}",
    rb"\s*<(!doctype html|html)": "a web page, expected a photo",
    rb"PK\x03\x04": "a ZIP archive; unpack it",
}
# The frames of a JPEG file whose decoding can be scaled: baseline, extended and progressive, with Huffman or arithmetic
# coding. libjpeg-turbo does not scale lossless frames, but Pillow would believe that it did, and write past its buffer.
SCALABLE_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
FRAMES = range(0xC0, 0xD0)
TABLES = (0xC4, 0xC8, 0xCC)  # markers of that range that are no frames
STANDALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CRITICAL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
NEW_SUBFILE_TYPE = 254
IS_PREVIEW = 1


def describe_other_format(content: bytes) -> str:
    """Say what a file is that cannot be read as a photo; list the formats that are read if it is unknown."""
    for pattern, description in OTHER_FORMATS.items():
        if re.match(pattern, content[:1000], re.DOTALL | re.IGNORECASE):
            return description
    return f"not a readable {', '.join(FORMATS)} file"


def is_scalable_jpeg(content: bytes) -> bool:
    """Whether a JPEG file can be decoded at a smaller scale. Markers are searched in the same way as in libjpeg."""
    offset = 2
    while (offset := content.find(b"\xff", offset)) >= 0:
        while content[offset : offset + 1] == b"\xff":
            offset += 1
        marker = content[offset] if offset < len(content) else 0
        offset += 1
        if marker in FRAMES and marker not in TABLES:
            return marker in SCALABLE_FRAMES
        if marker != 0 and marker not in STANDALONE:
            offset += max(2, int.from_bytes(content[offset : offset + 2], "big"))
    return False


def rejection_reason(content: bytes, image: Image.Image) -> str:
    """Return why an opened image is rejected although Pillow would read it; or ""."""
    if image.format == "PNG":
        return find_wrong_checksum(content)
    if image.format == "TIFF" and int(image.tag_v2.get(NEW_SUBFILE_TYPE, 0)) & IS_PREVIEW:  # type: ignore[attr-defined]
        return "its first image is only a preview, as in a camera's raw file; export the photo as JPEG"
    return ""


def find_wrong_checksum(content: bytes) -> str:
    """Return the first critical chunk of a PNG file whose checksum is wrong, as a reason; or "". Pillow does not check
    those of pixels."""
    offset = len(PNG_SIGNATURE)
    while offset + 12 <= len(content):
        length = int.from_bytes(content[offset : offset + 4], "big")
        name = content[offset + 4 : offset + 8]
        end = offset + 8 + length
        stored = content[end : end + 4]  # shorter in a truncated file, which Pillow reports
        checksum = zlib.crc32(memoryview(content)[offset + 4 : end]).to_bytes(4, "big")
        if name in CRITICAL_CHUNKS and len(stored) == len(checksum) and stored != checksum:
            return f"broken: wrong checksum of chunk {name.decode()}"
        if name == b"IEND":
            break
        offset = end + 4
    return ""
