"""Messages, help texts, titles and the comments of params use the field's terms."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.imports import CODE, ROOT

# Each with the term to write instead.
DIALECT = {
    r"tell(s|ing)? (apart|whether|as)|told": "classify, predict, print, correct, misclassified",
    r"ask(s|ed|ing)? (a|the) (model|network)": "run a model, predict with",
    r"bears?": "be robust to",
    r"(un)?disturb\w*": "corrupt, clean",
    r"mirror(s|ed|ing)": "flipped",
    r"turn(s|ed) (upright|by|photos?|images?|pictures?)|quarter turns?": "rotated, 90-degree rotations",
    r"go(es)? on": "resume, continue",
    r"starts? over|anew": "restart, again",
    r"mend(s|ed|ing)?": "fix",
    r"faults?": "error, problem",
    r"pictures?": "photo, image, figure",
    r"sp(eaks?|oke) for": "evidence for",
    r"be(ing)? a text|no text": "be a string",
    r"of no use": "does not apply to",
    r"so many|the like|as it were|of one's own|of our own": "the number, or nothing",
    r"what is no|is no (image|photo|number|folder|file)": "is not a",
}
# Messages of earlier versions, which their files still hold.
EARLIER = ("redirects to what is no address",)
# Files whose every line a user reads.
FILES = (
    "params.yaml",
    "dvc.yaml",
    "Makefile",
    *(path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").iterdir()),
)
# A row of the page on troubleshooting: messages in backquotes, and last the modules that they come from.
ROW = re.compile(r"^\| (.*?) \|.*<!-- message: (.*) -->$", re.MULTILINE)


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """The strings of several words in a module, without its docstrings."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
        if is_text and id(node) not in docstrings:
            yield node.lineno, node.value


def find_dialect(text: str) -> list[str]:
    return [
        f"{found[0]!r} (write: {term})"
        for word, term in DIALECT.items()
        for found in re.finditer(rf"\b({word})\b", text, re.IGNORECASE)
    ]


@pytest.mark.parametrize("folder", CODE)
def test_messages_use_the_terms_of_the_field(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, text in texts_of(path)
        if text not in EARLIER
        for word in find_dialect(text)
    ]
    assert found == []


@pytest.mark.parametrize("file", FILES)
def test_comments_of_params_and_stages_use_the_terms_of_the_field(file: str) -> None:
    assert find_dialect((ROOT / file).read_text()) == []


def list_quoted() -> list[tuple[str, str]]:
    """Each message that the page quotes, and the modules that it names for it."""
    rows = ROW.findall((ROOT / "docs/troubleshooting.md").read_text())
    return [(message, modules) for cell, modules in rows for message in re.findall(r"`([^`]+)`", cell)]


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{3,}", text.lower()))


@pytest.mark.parametrize(("message", "modules"), list_quoted(), ids=str)
def test_the_code_has_the_messages_that_the_manual_quotes(message: str, modules: str) -> None:
    """Values of an example are not in the code, so most of the words must be in one string of the module, not all."""
    quoted = words_of(re.sub(r"^([\w.]+: )+|\S+[/.]\w+", "", message))
    strings = [
        {word for part in ast.walk(node) if isinstance(part, ast.Constant) for word in words_of(str(part.value))}
        for module in modules.split()
        for node in ast.walk(ast.parse((ROOT / module).read_text()))
        if isinstance(node, ast.JoinedStr | ast.Constant)
    ]
    assert max(len(quoted & words) for words in strings) >= 0.6 * len(quoted)


def test_the_manual_quotes_messages() -> None:
    assert len(list_quoted()) > 30
