import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import PIL
import pytest
from PIL import Image

from darkroom.acquisition.ledger import Decoding, Ledger
from darkroom.acquisition.photo_check import CheckedPhoto, PhotoCheck, PhotoLimits
from darkroom.photos.formats import FORMAT_EXTENSIONS
from darkroom.photos.images import ImageError, TooManyPixels
from tests.examples import encode, noise
from tests.project import BAD_INPUTS

LIMITS = PhotoLimits(minimum_side=8, maximum_pixels=89_478_485, maximum_bytes=50_000_000)
ORIENTATION = 0x0112


def bad_inputs() -> list:
    if not BAD_INPUTS.exists():
        return [pytest.param(BAD_INPUTS, marks=pytest.mark.skip(reason=f"needs the files in {BAD_INPUTS.name}"))]
    return [pytest.param(file, id=file.name) for file in sorted(BAD_INPUTS.iterdir()) if file.is_file()]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger")) as ledger:
        yield ledger


@pytest.fixture
def check(ledger: Ledger) -> PhotoCheck:
    return PhotoCheck(ledger, LIMITS)


def photo(width: int = 12, height: int = 10, file_format: str = "PNG") -> bytes:
    return encode(noise(height, width), file_format)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def decodings(ledger: Ledger) -> object:
    found = ledger.find("SELECT count(*) FROM decodings")
    assert found
    return found[0]


class TestPhotos:
    @pytest.mark.parametrize("file_format", [name for name in FORMAT_EXTENSIONS if name != "MPO"])
    def test_a_photo_has_a_digest_a_size_and_the_extension_of_its_actual_format(
        self, check: PhotoCheck, file_format: str
    ) -> None:
        content = photo(12, 10, file_format)
        assert check.check(content) == CheckedPhoto(sha256(content), 12, 10, FORMAT_EXTENSIONS[file_format])

    def test_its_size_is_that_of_the_upright_photo(self, check: PhotoCheck) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        checked = check.check(encode(noise(10, 12), "JPEG", exif=exif))
        assert (checked.width, checked.height) == (10, 12)

    @pytest.mark.parametrize(
        "content",
        [b"", b"<html>no photo</html>", photo()[:-60], photo(file_format="JPEG")[:200]],
        ids=["empty", "a page", "cut", "a cut JPEG"],
    )
    def test_an_incomplete_image_is_refused(self, check: PhotoCheck, content: bytes) -> None:
        with pytest.raises(ImageError) as caught:
            check.check(content)
        assert len(str(caught.value).splitlines()) == 1


class TestLimits:
    @pytest.mark.parametrize(("width", "height"), [(8, 8), (8, 100), (100, 8)])
    def test_the_shorter_side_may_equal_the_minimum(self, check: PhotoCheck, width: int, height: int) -> None:
        assert check.check(photo(width, height))[1:3] == (width, height)

    @pytest.mark.parametrize(("width", "height"), [(7, 100), (100, 7)])
    def test_a_smaller_photo_is_refused_with_its_size(self, check: PhotoCheck, width: int, height: int) -> None:
        with pytest.raises(ImageError, match=f"^smaller than 8 pixels: {width} x {height}$"):
            check.check(photo(width, height))

    def test_the_maximum_of_pixels_is_accepted_and_one_more_is_not(self, ledger: Ledger) -> None:
        check = PhotoCheck(ledger, LIMITS._replace(maximum_pixels=120))
        assert check.check(photo(12, 10)).width == 12
        with pytest.raises(TooManyPixels, match="^claims more than 120 pixels$"):
            check.check(photo(11, 11))

    def test_many_pixels_are_refused_for_their_number_before_their_side(self, ledger: Ledger) -> None:
        check = PhotoCheck(ledger, PhotoLimits(minimum_side=50, maximum_pixels=100, maximum_bytes=1000))
        with pytest.raises(TooManyPixels):
            check.check(photo(12, 10))

    def test_a_photo_refused_for_its_size_is_accepted_under_other_limits(self, ledger: Ledger) -> None:
        content = photo(12, 10)
        for limits in (LIMITS._replace(minimum_side=11), LIMITS._replace(maximum_pixels=119)):
            with pytest.raises(ImageError):
                PhotoCheck(ledger, limits).check(content)
            assert PhotoCheck(ledger, LIMITS).check(content).height == 10


class TestSavedResults:
    def test_the_result_of_decoding_is_saved_in_the_ledger(self, check: PhotoCheck, ledger: Ledger) -> None:
        content = photo(12, 10)
        check.check(content)
        assert ledger.find_decoding(sha256(content), check.decoder) == Decoding(12, 10, "png")

    def test_the_reason_of_a_failed_decoding_is_saved_in_the_ledger(self, check: PhotoCheck, ledger: Ledger) -> None:
        with pytest.raises(ImageError) as caught:
            check.check(b"no photo")
        assert ledger.find_decoding(sha256(b"no photo"), check.decoder) == Decoding(0, 0, "", str(caught.value))

    def test_a_photo_that_was_decoded_before_is_not_decoded_again(self, check: PhotoCheck, ledger: Ledger) -> None:
        content = photo(12, 10)
        check.check(content)
        # A different result from decoding shows that the ledger was used.
        ledger.save_decoding(sha256(content), check.decoder, Decoding(99, 98, "gif"))
        assert check.check(content) == CheckedPhoto(sha256(content), 99, 98, "gif")
        assert PhotoCheck(ledger, LIMITS).check(content).extension == "gif"

    def test_a_failure_is_not_tried_again(self, check: PhotoCheck, ledger: Ledger) -> None:
        content = photo(12, 10)
        ledger.save_decoding(sha256(content), check.decoder, Decoding(0, 0, "", "broken: long ago"))
        with pytest.raises(ImageError, match="^broken: long ago$"):
            check.check(content)

    def test_saved_results_are_checked_against_the_current_limits(self, check: PhotoCheck, ledger: Ledger) -> None:
        content = photo(12, 10)
        ledger.save_decoding(sha256(content), check.decoder, Decoding(4, 3, "png"))
        with pytest.raises(ImageError, match="^smaller than 8 pixels: 4 x 3$"):
            check.check(content)
        ledger.save_decoding(sha256(content), check.decoder, Decoding(10_000, 10_000, "png"))
        with pytest.raises(TooManyPixels):
            check.check(content)

    def test_too_many_pixels_are_not_saved(self, ledger: Ledger) -> None:
        check = PhotoCheck(ledger, LIMITS._replace(maximum_pixels=119))
        with pytest.raises(TooManyPixels):
            check.check(photo(12, 10))
        assert decodings(ledger) == 0

    @pytest.mark.parametrize(
        "decoder",
        [
            pytest.param(lambda now: now.replace(PIL.__version__, "1.1.7"), id="another Pillow"),
            pytest.param(lambda now: now[:-1] + ("0" if now[-1] != "0" else "1"), id="other code"),
        ],
    )
    def test_the_result_of_another_decoder_is_ignored(self, check: PhotoCheck, ledger: Ledger, decoder) -> None:
        content = photo(12, 10)
        other = decoder(check.decoder)
        assert other != check.decoder
        ledger.save_decoding(sha256(content), other, Decoding(0, 0, "", "broken"))
        assert check.check(content) == CheckedPhoto(sha256(content), 12, 10, "png")
        assert ledger.find_decoding(sha256(content), other) == Decoding(0, 0, "", "broken")

    def test_the_same_photo_twice_is_one_row(self, check: PhotoCheck, ledger: Ledger) -> None:
        for _ in range(3):
            check.check(photo(12, 10))
        check.check(photo(12, 11))
        assert decodings(ledger) == 2


class TestBadInputs:
    @pytest.mark.parametrize("file", bad_inputs())
    def test_each_gives_a_photo_or_a_reason_and_the_same_every_time(self, check: PhotoCheck, file: Path) -> None:
        def verdict() -> CheckedPhoto | str:
            try:
                return check.check(content)
            except ImageError as error:
                return str(error)

        content = file.read_bytes()
        first = verdict()
        assert verdict() == first
        if isinstance(first, CheckedPhoto):
            assert first.sha256 == sha256(content)
            assert min(first.width, first.height) >= LIMITS.minimum_side
            assert first.extension in FORMAT_EXTENSIONS.values()
        else:
            assert len(first.splitlines()) == 1
