import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.acquisition.credits import write_credits
from darkroom.acquisition.sources.search_service import web_url
from darkroom.pipeline.dataset import PhotoRow
from tests.examples import photo_row

PEXELS = "Pexels License (https://www.pexels.com/license/)"


def pexels_row(number: int, person: int = 1) -> PhotoRow:
    return photo_row(
        f"cat-{number}",
        source="pexels",
        creator=f"Person {person}",
        creator_url=f"https://www.pexels.com/@p{person}",
        page_url=f"https://www.pexels.com/photo/{number}/",
        license=PEXELS,
    )


def body(*photos: PhotoRow) -> list[str]:
    """The lines that name creators."""
    return [line for line in write_credits(photos, None).splitlines() if line.startswith("* ")]


class TestGroups:
    def test_sections_per_source_and_license_and_a_line_per_creator(self) -> None:
        digits = {"source": "digits", "creator": "A. Person", "page_url": "https://example.org", "license": "CC BY 4.0"}
        photos = [pexels_row(2), pexels_row(1), pexels_row(3, person=2)]
        photos += [photo_row("a-1", "a", **digits), photo_row("b-1", "b", **digits), photo_row("c-1", "c")]
        assert write_credits(photos, None) == (
            "# Credits\n"
            "\n"
            "6 photos.\n"
            "\n"
            "## digits\n"
            "\n"
            "Photos from the source `digits`\n"
            "\n"
            "### CC BY 4.0\n"
            "\n"
            "* A. Person: [2 photos](https://example.org)\n"
            "\n"
            "## folder\n"
            "\n"
            "Photos from the source `folder`\n"
            "\n"
            "### license not known\n"
            "\n"
            "* creator not known: 1 photo\n"
            "\n"
            "## pexels\n"
            "\n"
            "**Photos provided by [Pexels](https://www.pexels.com)**\n"
            "\n"
            "### Pexels License (https://www.pexels.com/license/)\n"
            "\n"
            "* [Person 1](https://www.pexels.com/@p1): [cat-1](https://www.pexels.com/photo/1/), "
            "[cat-2](https://www.pexels.com/photo/2/)\n"
            "* [Person 2](https://www.pexels.com/@p2): [cat-3](https://www.pexels.com/photo/3/)\n"
        )

    def test_each_license_of_a_source_has_a_section(self) -> None:
        photos = [
            photo_row(f"cat-{name}", source="openverse", license=f"CC {name}") for name in ("BY 2.0", "BY-SA 2.0")
        ]
        text = write_credits(photos, None)
        assert text.count("## openverse\n\nPhotos found through [Openverse](https://openverse.org)\n") == 1
        assert [line for line in text.splitlines() if line.startswith("### ")] == ["### CC BY 2.0", "### CC BY-SA 2.0"]

    def test_two_creators_with_the_same_name_are_separated_by_their_url(self) -> None:
        photos = [pexels_row(1), pexels_row(2)._replace(creator_url="https://www.pexels.com/@other")]
        assert len(body(*photos)) == 2

    def test_photos_that_share_a_page_are_counted(self) -> None:
        photos = [pexels_row(number)._replace(page_url="https://example.org/all") for number in range(3)]
        assert body(*photos, pexels_row(9)) == [
            "* [Person 1](https://www.pexels.com/@p1): [3 photos](https://example.org/all), "
            "[cat-9](https://www.pexels.com/photo/9/)"
        ]

    def test_photos_without_a_page_are_counted(self) -> None:
        assert body(*(photo_row(f"cat-{number}", creator="A. Person") for number in range(2))) == [
            "* A. Person: 2 photos"
        ]

    @given(seed=st.integers())
    def test_the_text_does_not_depend_on_the_order_of_the_photos(self, seed: int) -> None:
        photos = [pexels_row(number, person=number % 3) for number in range(7)] + [photo_row("x"), photo_row("y")]
        shuffled = random.Random(seed).sample(photos, len(photos))
        assert write_credits(shuffled, None) == write_credits(photos, None)

    def test_no_photos_have_no_sections(self) -> None:
        assert write_credits([], None) == "# Credits\n\n0 photos.\n"


class TestPermission:
    def test_a_permission_is_recorded_above_the_photos(self) -> None:
        text = write_credits([pexels_row(1)], "granted by mail on\n2 May")
        assert text.startswith("# Credits\n\n1 photo.\n\nPermission on record: granted by mail on 2 May\n\n## pexels\n")

    @pytest.mark.parametrize("permission", [None, ""])
    def test_without_one_the_line_is_omitted(self, permission: str | None) -> None:
        assert "ermission" not in write_credits([pexels_row(1)], permission)

    def test_its_text_cannot_create_a_heading_or_a_link(self) -> None:
        text = write_credits([], "yes\n\n# All rights [reserved](https://evil.example)")
        assert "Permission on record: yes \\# All rights \\[reserved\\](https://evil.example)\n" in text


class TestHostileText:
    @pytest.mark.parametrize(
        ("name", "written"),
        [
            ("**Bold** _Name_", r"\*\*Bold\*\* \_Name\_"),
            ("a](https://evil.example) [b", r"a\](https://evil.example) \[b"),
            ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>"),
            ("two\nlines\r\n\n# three", r"two lines \# three"),
            ("tab\tand  spaces\u2028here", "tab and spaces here"),
            ("back\\slash `code` | ~~x~~ ![i]", r"back\\slash \`code\` \| \~\~x\~\~ \!\[i\]"),
            ("Zoë 日本 'O", "Zoë 日本 'O"),
            ("AT&T &copy; $x$", r"AT\&T \&copy; \$x\$"),
            ("-=DJ=-", r"\-=DJ=-"),
            ("- a list", r"\- a list"),
            ("1. a list", r"1\. a list"),
            ("2) a list", r"2\) a list"),
            ("\u202etxt.exe \x1b[31m\x00", r"txt.exe \[31m"),
        ],
    )
    def test_a_name_is_shown_as_it_is(self, name: str, written: str) -> None:
        assert body(photo_row(creator=name)) == [f"* {written}: 1 photo"]
        linked = photo_row(creator=name, creator_url="https://example.org/p")
        assert body(linked) == [f"* [{written}](https://example.org/p): 1 photo"]

    @pytest.mark.parametrize(
        "url", ["javascript:alert(1)", "data:text/html,x", "//evil.example", "/etc", "x https://y"]
    )
    def test_a_url_that_is_not_a_web_url_is_not_linked(self, url: str) -> None:
        text = write_credits([photo_row(creator="A. Person", creator_url=url, page_url=url)], None)
        assert "* A. Person: cat-1\n" in text
        assert url not in text

    def test_a_url_cannot_end_its_link_early(self) -> None:
        row = photo_row(creator="A", creator_url="https://example.org/a) [b](c<d>")
        assert body(row) == ["* [A](https://example.org/a%29%20[b]%28c%3Cd%3E): 1 photo"]

    @pytest.mark.parametrize(
        ("end", "quoted"), [("\\", "%5C"), ("\n", "%0A"), ("\u202e", "%E2%80%AE"), ("\u2028", "%E2%80%A8")]
    )
    def test_the_last_character_of_a_url_cannot_break_its_link(self, end: str, quoted: str) -> None:
        row = photo_row(creator="A", creator_url=f"https://example.org/a{end}")
        assert body(row) == [f"* [A](https://example.org/a{quoted}): 1 photo"]

    @given(name=st.text(), url=st.text().map("https://example.org/{}".format).map(web_url), license=st.text())
    def test_no_text_adds_a_line(self, name: str, url: str, license: str) -> None:
        row = photo_row(creator=name, creator_url=url, page_url=url, license=license)
        text = write_credits([row], None)
        assert len(text.splitlines()) == len(write_credits([photo_row()], None).splitlines())
