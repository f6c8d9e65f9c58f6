import io
import json
import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from darkroom.photos.formats import FORMAT_EXTENSIONS, FORMATS
from darkroom.photos.images import (
    CHANNELS,
    FILTERS,
    ImageError,
    TooManyPixels,
    convert_to_rgb,
    decode_at_scale,
    decode_image,
    prepare_image,
    prepare_sizes,
    upright_rgb,
)
from tests.examples import bmp_that_claims, encode, lossless_jpeg, noise
from tests.project import BAD_INPUTS, ROOT

MANIFEST = BAD_INPUTS / "MANIFEST.json"
RED = (255, 0, 0)
GREEN = (0, 255, 0)
BLUE = (0, 0, 255)
READ = """
import sys
from pathlib import Path
from darkroom.photos.images import decode_image, upright_rgb
upright_rgb(decode_image(Path(sys.argv[1]).read_bytes()))
"""
ORIENTATION = 0x0112


def bad_inputs() -> list:
    if not MANIFEST.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"needs the files in {BAD_INPUTS.name}"))]
    return [pytest.param(entry, id=entry["name"]) for entry in json.loads(MANIFEST.read_text())]


def solid(mode: str, color: object, size: tuple[int, int] = (8, 6)) -> Image.Image:
    return Image.new(mode, size, color)


def unscaled(content: bytes, color: str = "rgb") -> np.ndarray:
    """Prepare an image at its own size, which does not change its pixels."""
    upright = upright_rgb(decode_image(content))
    return prepare_image(content, (upright.height, upright.width), "stretch", "bilinear", color)


def tiff_entry(content: bytes, tag: int) -> int:
    """The offset of a tag's twelve bytes in a little-endian TIFF file."""
    directory = struct.unpack_from("<I", content, 4)[0]
    entries = struct.unpack_from("<H", content, directory)[0]
    offsets = range(directory + 2, directory + 2 + 12 * entries, 12)
    return next(offset for offset in offsets if struct.unpack_from("<H", content, offset)[0] == tag)


def exif_block(*tags: tuple[int, int, bytes]) -> bytes:
    """An EXIF block of tags, each with number, type and a value of one item of up to four bytes."""
    entries = b"".join(struct.pack(">HHI4s", number, field_type, 1, value) for number, field_type, value in tags)
    return b"Exif\x00\x00MM\x00*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4)


class TestDecoding:
    @pytest.mark.parametrize("name", FORMAT_EXTENSIONS)
    def test_every_format_is_read(self, name: str) -> None:
        frames = {"append_images": [solid("RGB", BLUE)], "save_all": True} if name == "MPO" else {}
        assert decode_image(encode(solid("RGB", RED), name, **frames)).format == name

    def test_the_image_keeps_its_mode_and_orientation(self) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        image = decode_image(encode(solid("CMYK", (0, 255, 255, 0), (8, 6)), "JPEG", exif=exif))
        assert (image.mode, image.size) == ("CMYK", (8, 6))

    def test_an_empty_file_is_rejected(self) -> None:
        with pytest.raises(ImageError, match="^the file is empty$"):
            decode_image(b"")

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(bytes(100), id="zeros"),
            pytest.param(encode(solid("RGB", RED), "PPM"), id="a format that is not on the list"),
        ],
    )
    def test_files_in_other_formats_are_rejected_with_a_list_of_formats(self, content: bytes) -> None:
        with pytest.raises(ImageError) as caught:
            decode_image(content)
        assert str(caught.value) == f"not a readable {', '.join(FORMATS)} file"

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"\xff\x0a\xfa\x7f", "a JPEG XL file, which cannot be read; convert it to JPEG or PNG"),
            (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL file, which cannot be read; convert it to JPEG or PNG"),
            (b"\0\0\0\x18ftypcrx \0\0", "a camera's raw file, which cannot be read; export it as JPEG"),
            (b"\0\0\0\x18ftypqt  \0\0", "a video, expected a photo"),
            (b"%PDF-1.7", "a PDF document, expected a photo"),
            (b"\n<!DOCTYPE html><html>404</html>", "a web page, expected a photo"),
            (b"<html>404</html>", "a web page, expected a photo"),
            (b'<?xml version="1.0"?>\n<svg/>', "an SVG drawing, which cannot be read; convert it to JPEG or PNG"),
        ],
    )
    def test_files_that_people_take_for_photos_are_named(self, content: bytes, reason: str) -> None:
        with pytest.raises(ImageError) as caught:
            decode_image(content)
        assert str(caught.value) == reason

    def test_the_preview_in_a_raw_file_is_not_taken_for_the_photo(self) -> None:
        content = encode(noise(60, 60), "TIFF", tiffinfo={254: 1})
        with pytest.raises(ImageError, match="^its first image is only a preview, as in a camera's raw file; export "):
            decode_image(content)

    def test_a_png_file_with_a_wrong_checksum_is_rejected(self) -> None:
        content = bytearray(encode(noise(30, 30)))
        decode_image(bytes(content))
        start = content.index(b"IDAT")
        end = start + 4 + int.from_bytes(content[start - 4 : start], "big")
        content[end] ^= 1
        with pytest.raises(ImageError, match="^broken: wrong checksum of chunk IDAT$"):
            decode_image(bytes(content))

    @pytest.mark.parametrize("name", FORMATS)
    def test_a_truncated_file_is_rejected(self, name: str) -> None:
        content = encode(noise(60, 60), name)
        with pytest.raises(ImageError, match=r"^(broken: .+|not a readable .+|a HEIC or AVIF file .+)$"):
            decode_image(content[: len(content) * 2 // 3])

    def test_the_reason_contains_pillows_message(self) -> None:
        content = encode(noise(60, 60), "JPEG")
        with pytest.raises(ImageError, match="^broken: image file is truncated"):
            decode_image(content[: len(content) // 2])

    @pytest.mark.parametrize("side", [10_000, 20_000], ids=["Pillow warns", "Pillow raises"])
    def test_a_decompression_bomb_is_rejected_before_decoding(self, side: int) -> None:
        with pytest.raises(ImageError, match=f"^claims more than {Image.MAX_IMAGE_PIXELS} pixels$"):
            decode_image(bmp_that_claims(side, side))

    @pytest.mark.parametrize("field_type", [2, 11], ids=["text", "float"])
    def test_an_offset_that_is_not_an_integer_is_a_broken_file(self, field_type: int) -> None:
        content = bytearray(encode(Image.new("LAB", (8, 8)), "TIFF"))
        struct.pack_into("<H", content, tiff_entry(content, tag=273) + 2, field_type)
        with pytest.raises(ImageError, match="^broken: "):
            decode_image(bytes(content))

    @settings(deadline=None, max_examples=300)
    @given(
        st.sampled_from(FORMATS),
        st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=5),
        st.integers(0, 2000),
    )
    def test_hostile_bytes_give_an_image_or_a_reason_in_one_line(
        self, name: str, changes: list[tuple[int, int]], length: int
    ) -> None:
        content = bytearray(encode(noise(12, 10), name))
        for offset, value in changes:
            content[offset % len(content)] = value
        try:
            outcome = prepare_image(bytes(content[: max(length, 20)]), (4, 5), "pad", "bilinear", "rgb").shape
        except ImageError as error:
            outcome = len(str(error).splitlines())
        assert outcome in ((4, 5, 3), 1)


class TestUpright:
    @pytest.mark.parametrize(
        ("orientation", "as_shown"),
        [
            (1, lambda stored: stored),
            (2, lambda stored: stored[:, ::-1]),
            (3, lambda stored: stored[::-1, ::-1]),
            (4, lambda stored: stored[::-1]),
            (5, lambda stored: stored.transpose(1, 0, 2)),
            (6, lambda stored: np.rot90(stored, -1)),
            (7, lambda stored: np.rot90(stored, 2).transpose(1, 0, 2)),
            (8, lambda stored: np.rot90(stored, 1)),
        ],
    )
    def test_the_exif_orientation_is_applied(self, orientation: int, as_shown) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        stored = noise(5, 7)
        np.testing.assert_array_equal(unscaled(encode(stored, exif=exif)), as_shown(stored))

    @pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize(
        "block",
        [
            pytest.param(b"Exif\x00\x00nonsense", id="no header"),
            pytest.param(b"Exif\x00\x00MM\x00*", id="truncated in its header"),
            pytest.param(exif_block((ORIENTATION, 3, b"\x00\x06"))[:-12], id="truncated"),
            pytest.param(exif_block((ORIENTATION, 2, b"6")), id="an orientation that is a string"),
            pytest.param(exif_block((ORIENTATION, 3, b"\x00\x63")), id="an undefined orientation"),
        ],
    )
    def test_an_image_with_a_corrupt_exif_block_is_shown_as_stored(self, block: bytes, name: str) -> None:
        image = Image.fromarray(noise(6, 8))
        np.testing.assert_array_equal(
            unscaled(encode(image, name, exif=block)), unscaled(encode(image, name)), strict=True
        )

    def test_pillows_warnings_are_not_printed(self, tmp_path: Path) -> None:
        photo = tmp_path / "photo.jpg"
        photo.write_bytes(encode(solid("RGB", RED), "JPEG", exif=exif_block((ORIENTATION, 3, b"\x00\x06"))[:-12]))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            upright_rgb(decode_image(photo.read_bytes()))
        assert caught
        # In a fresh interpreter, because pytest replaces the project's filter with its own.
        read = subprocess.run([sys.executable, "-c", READ, photo], cwd=ROOT, capture_output=True, text=True, check=True)
        assert (read.stdout, read.stderr) == ("", "")

    @pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
    def test_the_orientation_is_applied_even_if_another_tag_is_corrupt(self, name: str) -> None:
        y_resolution, text = 0x011B, 2
        block = exif_block((ORIENTATION, 3, b"\x00\x06"), (y_resolution, text, b"x"))
        image = Image.fromarray(noise(6, 8))
        np.testing.assert_array_equal(
            unscaled(encode(image, name, exif=block)), np.rot90(unscaled(encode(image, name)), -1), strict=True
        )

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            pytest.param(encode(solid("RGBA", (0, 0, 0, 0))), 255, id="RGBA, clear"),
            pytest.param(encode(solid("RGBA", (0, 0, 0, 255))), 0, id="RGBA, opaque"),
            pytest.param(encode(solid("RGBA", (0, 0, 0, 51))), 204, id="RGBA, a fifth"),
            pytest.param(encode(solid("LA", (0, 51))), 204, id="gray with alpha"),
            pytest.param(encode(solid("P", 0), transparency=0), 255, id="palette"),
            pytest.param(encode(solid("P", 0), transparency=b"\x33"), 204, id="palette with alpha"),
            pytest.param(encode(solid("RGB", (1, 2, 3)), transparency=(1, 2, 3)), 255, id="RGB with a clear color"),
            pytest.param(encode(solid("L", 7), transparency=7), 255, id="gray with a clear shade"),
            pytest.param(encode(solid("L", 7), transparency=8), 7, id="gray without the clear shade"),
            pytest.param(encode(solid("RGBA", (0, 0, 0, 0)), "WEBP", lossless=True, exact=True), 255, id="WebP"),
            pytest.param(
                encode(Image.fromarray(np.zeros((6, 8), np.uint16)), transparency=0), 255, id="16-bit gray, clear"
            ),
        ],
    )
    def test_transparency_is_composited_on_white(self, content: bytes, expected: int) -> None:
        assert np.unique(unscaled(content)).tolist() == [expected]

    @given(st.lists(st.integers(0, 65535), min_size=1, max_size=20))
    @settings(deadline=None, max_examples=50)
    def test_sixteen_bit_gray_is_scaled_to_eight_bits(self, values: list[int]) -> None:
        content = encode(Image.fromarray(np.array([values], np.uint16)))
        assert unscaled(content, "gray").ravel().tolist() == [round(value * 255 / 65535) for value in values]

    @pytest.mark.parametrize("name", ["HEIF", "AVIF"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_heic_and_avif_are_shown_like_jpeg(self, orientation: int, name: str) -> None:
        image = Image.fromarray(smooth(60, 90))
        shown = []
        for file_format in ("JPEG", name):
            exif = Image.Exif()
            exif[ORIENTATION] = orientation
            shown.append(unscaled(encode(image, file_format, quality=95, exif=exif.tobytes())).astype(int))
        assert np.abs(shown[0] - shown[1]).mean() < 2

    @pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "CMYK", "I;16"])
    def test_large_images_are_converted_in_strips_to_the_same_pixels(
        self, mode: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if mode == "I;16":
            image = Image.fromarray(noise(40, 30)[..., 0].astype(np.uint16) * 200)
        elif mode == "P":
            image = Image.fromarray(noise(40, 30)).quantize(16)
            image.info["transparency"] = 3
        else:
            image = Image.fromarray(noise(40, 30, 4), "RGBA").convert(mode)
        whole = np.asarray(convert_to_rgb(image))
        monkeypatch.setattr("darkroom.photos.images.STRIP_PIXELS", 100)
        np.testing.assert_array_equal(np.asarray(convert_to_rgb(image)), whole)

    def test_the_orientation_of_sixteen_bit_gray_is_applied_too(self) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        content = encode(Image.fromarray(np.array([[0, 65535]], np.uint16)), exif=exif)
        assert unscaled(content, "gray")[..., 0].tolist() == [[0], [255]]

    def test_integers_beyond_sixteen_bits_are_clipped(self) -> None:
        content = encode(Image.fromarray(np.array([[-5, 0, 65535, 70_000]], np.int32)), "TIFF")
        assert unscaled(content, "gray").ravel().tolist() == [0, 0, 255, 255]

    def test_floats_are_rejected(self) -> None:
        with pytest.raises(ImageError, match="floats of unknown range"):
            unscaled(encode(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"))

    def test_a_palette_becomes_its_colors(self) -> None:
        image = solid("P", 1)
        image.putpalette([*RED, *GREEN, *BLUE])
        assert unscaled(encode(image))[0, 0].tolist() == [*GREEN]

    def test_cmyk_becomes_rgb(self) -> None:
        pixel = unscaled(encode(solid("CMYK", (0, 255, 255, 0)), "JPEG"))[0, 0]
        np.testing.assert_allclose(pixel, RED, atol=2)

    def test_black_and_white_becomes_0_and_255(self) -> None:
        content = encode(Image.fromarray(np.array([[False, True]])))
        assert unscaled(content, "gray").ravel().tolist() == [0, 255]

    @pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
    def test_the_first_frame_of_an_animation_is_used(self, name: str) -> None:
        content = encode(solid("RGB", RED, (16, 16)), name, save_all=True, append_images=[solid("RGB", BLUE, (16, 16))])
        np.testing.assert_allclose(unscaled(content)[8, 8], RED, atol=4)


class TestPreparing:
    @given(
        st.integers(1, 40),
        st.integers(1, 40),
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.sampled_from(["stretch", "crop", "pad"]),
        st.sampled_from(["rgb", "gray"]),
    )
    @settings(deadline=None, max_examples=100)
    def test_the_result_has_the_given_size(
        self, height: int, width: int, image_size: tuple[int, int], resize: str, color: str
    ) -> None:
        pixels = prepare_image(encode(noise(height, width)), image_size, resize, "bilinear", color)
        assert (pixels.shape, pixels.dtype) == ((*image_size, CHANNELS[color]), np.uint8)

    @pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
    @pytest.mark.parametrize("size", [(3000, 1), (1, 3000)], ids=["wide", "tall"])
    def test_a_line_of_pixels_can_be_prepared(self, size: tuple[int, int], resize: str) -> None:
        assert prepare_image(encode(solid("RGB", RED, size)), (16, 16), resize, "bilinear", "rgb").shape == (16, 16, 3)

    def test_stretch_shows_the_whole_image(self) -> None:
        pixels = prepare_image(three_bands(), (30, 30), "stretch", "bilinear", "rgb")
        assert [pixels[15, column].tolist() for column in (5, 15, 25)] == [[*RED], [*GREEN], [*BLUE]]

    def test_crop_cuts_out_the_center(self) -> None:
        pixels = prepare_image(three_bands(), (30, 30), "crop", "bilinear", "rgb")
        assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [[*GREEN]]

    def test_pad_preserves_the_aspect_ratio_and_adds_black_bars(self) -> None:
        pixels = prepare_image(three_bands(), (30, 30), "pad", "bilinear", "rgb")
        assert not pixels[:10].any()
        assert not pixels[20:].any()
        assert [pixels[15, column].tolist() for column in (5, 15, 25)] == [[*RED], [*GREEN], [*BLUE]]

    @pytest.mark.parametrize(("color", "luma"), [(RED, 76), (GREEN, 150), (BLUE, 29)])
    def test_gray_is_the_luma_of_itu_r_601(self, color: tuple[int, int, int], luma: int) -> None:
        pixels = prepare_image(encode(solid("RGB", color)), (4, 4), "stretch", "bilinear", "gray")
        assert np.unique(pixels).tolist() == [luma]

    def test_height_comes_before_width(self) -> None:
        assert prepare_image(encode(noise(9, 9)), (4, 7), "stretch", "bilinear", "rgb").shape == (4, 7, 3)


class TestResampling:
    def test_nearest_creates_no_new_colors(self) -> None:
        pixels = prepare_image(three_bands(), (7, 7), "stretch", "nearest", "rgb")
        assert {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()} == {RED, GREEN, BLUE}

    def test_the_filters_give_different_pixels(self) -> None:
        content = encode(noise(40, 40))
        seen = {prepare_image(content, (15, 15), "stretch", name, "rgb").tobytes() for name in FILTERS}
        assert len(seen) == len(FILTERS) == 4

    @pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
    def test_filters_match_pillow(self, name: str) -> None:
        image = Image.fromarray(noise(40, 50))
        expected = np.asarray(image.resize((15, 12), Image.Resampling[name.upper()]))
        np.testing.assert_array_equal(prepare_image(encode(image), (12, 15), "stretch", name, "rgb"), expected)

    @pytest.mark.parametrize("resampling", ["bilinear", "lanczos"])
    @given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30), st.integers(1, 30))
    @settings(deadline=None, max_examples=50)
    def test_crop_matches_pillow(
        self, resampling: str, height: int, width: int, new_height: int, new_width: int
    ) -> None:
        image = Image.fromarray(noise(height, width))
        expected = ImageOps.fit(image, (new_width, new_height), Image.Resampling[resampling.upper()])
        pixels = prepare_image(encode(image), (new_height, new_width), "crop", resampling, "rgb")
        assert np.abs(pixels.astype(int) - np.asarray(expected)).max() <= 1

    @pytest.mark.parametrize(("name", "decodings"), [("PNG", 1), ("WEBP", 1), ("JPEG", 2)])
    def test_several_sizes_have_the_pixels_of_each_and_take_one_decoding(
        self, name: str, decodings: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        content = encode(smooth(300, 400), name, exif=exif)
        expected = [prepare_image(content, size, "pad", "bicubic", "rgb") for size in ((20, 30), (200, 300))]
        scales = []
        monkeypatch.setattr(
            "darkroom.photos.images.decode_at_scale", lambda *args: scales.append(args[2]) or decode_at_scale(*args)
        )
        prepared = prepare_sizes(content, [(20, 30), (200, 300)], "pad", "bicubic", "rgb")
        assert len(scales) == decodings
        for pixels, alone in zip(prepared, expected, strict=True):
            np.testing.assert_array_equal(pixels, alone, strict=True)

    def test_the_original_size_does_not_change_a_jpeg_file(self) -> None:
        content = encode(smooth(60, 80), "JPEG")
        np.testing.assert_array_equal(
            prepare_image(content, (60, 80), "stretch", "bicubic", "rgb"),
            np.asarray(Image.open(io.BytesIO(content))),
        )


class TestReducedDecoding:
    @pytest.mark.parametrize(
        ("side", "decoded"),
        [
            pytest.param(400, (799, 601), id="1.5 times: at full size"),
            pytest.param(300, (400, 301), id="half"),
            pytest.param(140, (200, 151), id="a quarter"),
            pytest.param(60, (100, 76), id="an eighth"),
            pytest.param(5, (100, 76), id="an eighth at least"),
            pytest.param(2000, (799, 601), id="smaller than the least side"),
        ],
    )
    def test_both_sides_keep_at_least_the_given_number_of_pixels(self, side: int, decoded: tuple[int, int]) -> None:
        image, box = decode_at_scale(encode(smooth(601, 799), "JPEG"), 10**6, side)
        assert image.size == decoded
        scale = round(799 / decoded[0])
        assert box == (0, 0, 799 / scale, 601 / scale)

    @pytest.mark.parametrize("name", [name for name in FORMATS if name != "JPEG"])
    def test_other_formats_are_decoded_at_full_size(self, name: str) -> None:
        image, box = decode_at_scale(encode(smooth(80, 120), name), 10**6, 5)
        assert image.size == (120, 80)
        assert box == (0, 0, 120, 80)

    def test_the_first_of_several_images_in_a_jpeg_file_is_decoded_at_a_smaller_scale(self) -> None:
        content = encode(smooth(80, 120), "MPO", save_all=True, append_images=[solid("RGB", BLUE, (120, 80))])
        assert decode_at_scale(content, 10**6, 20)[0].size == (30, 20)

    def test_decode_image_decodes_at_full_size(self) -> None:
        assert decode_image(encode(smooth(80, 120), "JPEG")).size == (120, 80)

    @pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
    @pytest.mark.parametrize("orientation", [1, 3, 6, 7])
    @pytest.mark.parametrize("image_size", [(100, 100), (60, 90), (31, 83)])
    def test_the_pixels_are_close_to_those_of_full_decoding(
        self, image_size: tuple[int, int], orientation: int, resize: str
    ) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        content = encode(smooth(299, 397), "JPEG", exif=exif)
        whole = encode(decode_image(content), exif=exif)  # a PNG file, which is always decoded at its size
        assert min(decode_at_scale(content, 10**6, round(1.4 * max(image_size)))[0].size) < 299

        reduced, full = (
            prepare_image(each, image_size, resize, "bilinear", "rgb").astype(int) for each in (content, whole)
        )

        assert np.abs(reduced - full).mean() < 0.5
        # An image that is shifted by half a pixel would differ by more along its edges.
        assert np.abs(reduced - full).max() <= 12

    def test_nearest_takes_pixels_of_the_file_itself(self) -> None:
        content = encode(noise(200, 200), "JPEG")
        picked = np.asarray(decode_image(content))[5::10, 5::10]
        np.testing.assert_array_equal(prepare_image(content, (20, 20), "stretch", "nearest", "rgb"), picked)

    @pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
    @pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
    def test_a_truncated_file_is_rejected_at_every_scale(self, options: dict, share: float) -> None:
        content = encode(noise(320, 320), "JPEG", **options)
        for side in (4, 20, 60, 110, 300):
            with pytest.raises(ImageError, match="^broken: image file is truncated"):
                prepare_image(content[: int(len(content) * share)], (side, side), "stretch", "bilinear", "rgb")

    def test_the_limit_applies_to_the_claimed_size(self) -> None:
        with pytest.raises(TooManyPixels, match="^claims more than 9999 pixels$"):
            decode_at_scale(encode(smooth(100, 100), "JPEG"), 9999, 10)

    @pytest.mark.parametrize("mode", ["L", "CMYK"])
    def test_gray_and_cmyk_files_are_decoded_at_a_smaller_scale_too(self, mode: str) -> None:
        content = encode(Image.fromarray(smooth(240, 320)).convert(mode), "JPEG")
        assert decode_at_scale(content, 10**6, 40)[0].size == (80, 60)
        reduced = prepare_image(content, (20, 20), "stretch", "bilinear", "gray").astype(int)
        full = prepare_image(encode(decode_image(content), "TIFF"), (20, 20), "stretch", "bilinear", "gray")
        assert np.abs(reduced - full).mean() < 1

    def test_a_lossless_jpeg_file_is_not_scaled(self) -> None:
        # Pillow would write past its buffer, because libjpeg-turbo does not scale it either.
        content = lossless_jpeg(640, 480)
        assert decode_at_scale(content, 10**6, 10)[0].size == (640, 480)
        assert np.unique(prepare_image(content, (10, 10), "stretch", "bilinear", "rgb")).tolist() == [128]

    @pytest.mark.parametrize(
        ("options", "junk"),
        [({}, b""), ({"progressive": True}, b""), ({"comment": b"\xff\xc3"}, b""), ({}, b"\xff\xff")],
        ids=["baseline", "progressive", "a frame marker in a comment", "fill bytes"],
    )
    def test_the_frame_is_found_like_libjpeg_does(self, options: dict, junk: bytes) -> None:
        content = encode(smooth(240, 320), "JPEG", **options)
        assert decode_at_scale(content[:2] + junk + content[2:], 10**6, 20)[0].size == (40, 30)

    def test_threads_do_not_interfere(self) -> None:
        contents = [encode(smooth(200 + number, 300), "JPEG") for number in range(12)]
        preparation = ((30, 40), "stretch", "bilinear", "rgb")
        expected = [prepare_image(content, *preparation) for content in contents]
        with ThreadPoolExecutor(6) as pool:
            prepared = list(pool.map(lambda content: prepare_image(content, *preparation), contents * 5))
        for number, pixels in enumerate(prepared):
            np.testing.assert_array_equal(pixels, expected[number % 12])


class TestBadInputs:
    @pytest.mark.parametrize("entry", bad_inputs())
    def test_a_file_is_prepared_if_pillow_reads_it_and_rejected_otherwise(self, entry: dict) -> None:
        content = (BAD_INPUTS / entry["name"]).read_bytes()
        if entry["pillow"] == "ok":
            for color, channels in CHANNELS.items():
                pixels = prepare_image(content, (20, 30), "crop", "bilinear", color)
                assert (pixels.shape, pixels.dtype) == ((20, 30, channels), np.uint8)
        else:
            with pytest.raises(ImageError) as caught:
                prepare_image(content, (20, 30), "crop", "bilinear", "rgb")
            assert len(str(caught.value).splitlines()) == 1

    @pytest.mark.skipif(not MANIFEST.exists(), reason=f"needs the files in {BAD_INPUTS.name}")
    def test_a_rotated_photo_looks_like_the_upright_one(self) -> None:
        rotated, upright = (
            prepare_image((BAD_INPUTS / name).read_bytes(), (60, 90), "stretch", "bilinear", "rgb").astype(int)
            for name in ("rot6.jpg", "rot6_ref.jpg")
        )
        assert np.abs(rotated - upright).mean() < 2


def three_bands() -> bytes:
    """An image of 90 by 30 pixels: red, green and blue bands from left to right."""
    pixels = np.empty((30, 90, 3), np.uint8)
    for number, color in enumerate((RED, GREEN, BLUE)):
        pixels[:, 30 * number : 30 * (number + 1)] = color
    return encode(pixels)


def smooth(height: int, width: int) -> np.ndarray:
    """An image that looks like a photo to an encoder: smooth shades without any symmetry."""
    y, x = np.mgrid[0:height, 0:width] / 40
    shades = [np.sin(x + y * y / 9), np.cos(y * 1.3 - x / 2), np.sin(x * y / 12)]
    return np.stack([127.5 + 110 * shade for shade in shades], axis=2).astype(np.uint8)
