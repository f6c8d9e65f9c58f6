"""What MkDocs runs while it builds the site: files outside docs/ that pages link to become pages of the site.

In the repository, a page links to ../recipes/base.yaml or ../ARCHITECTURE.md. The site has no such files, and the
address of the repository is not known. So a Markdown file becomes a page as it is, and any other text file a page that
shows it, both at their path in the repository.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# The target of a link, without its anchor; addresses with a scheme and links within a page are no files.
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
ALWAYS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")


def source_path(page: str) -> Path:
    """The file of the repository that a page of the site shows."""
    paths = DOCS / page, ROOT / page, ROOT / page.removesuffix(".md")
    return next(path for path in paths if path.is_file())


def site_path(source: Path) -> str | None:
    """The path among MkDocs' files of a file of the repository; None if there is no such file."""
    if not source.is_file():
        return None
    if source == ROOT / "README.md":
        return "index.md"
    path = source.relative_to(DOCS if source.is_relative_to(DOCS) else ROOT).as_posix()
    return path if path.endswith((".md", ".png")) else f"{path}.md"


def find_targets(source: Path) -> list[Path]:
    """The files that a page links to."""
    links = LINK.findall(source.read_text()) if source.is_file() else []
    return [Path(os.path.normpath(source.parent / link)) for link in links]


def show_file(source: Path) -> str:
    """A page that shows a text file."""
    language = {".py": "python", ".yaml": "yaml"}.get(source.suffix, "text")
    return f"# {source.relative_to(ROOT).as_posix()}\n\n````{language}\n{source.read_text()}````\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ that pages link to, directly or not."""
    waiting = [*DOCS.glob("*.md"), *(ROOT / name for name in ALWAYS)]
    for source in waiting:
        path = site_path(source)
        if path and files.get_file_from_path(path) is None:
            is_page = source.suffix == ".md"
            added = File.generated(config, path, content=source.read_text() if is_page else show_file(source))
            added.inclusion = InclusionLevel.INCLUDED if is_page else InclusionLevel.NOT_IN_NAV
            files.append(added)
        if source.suffix == ".md":
            waiting += [target for target in find_targets(source) if target not in waiting]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Let links lead to where their files are on the site; MkDocs itself reports those that lead nowhere."""
    source = source_path(page.file.src_uri)
    if source.suffix != ".md":
        return markdown

    def lead(match: re.Match[str]) -> str:
        path = site_path(Path(os.path.normpath(source.parent / match[1])))
        return match[1] if path is None else os.path.relpath(path, Path(page.file.src_uri).parent)

    return LINK.sub(lead, markdown)
