"""Messages that recommend --force say what it does: it removes results."""

import ast
import re
from collections.abc import Iterator

from tests.docs.test_architecture import SOURCES
from tests.helpers.paths import ROOT

SAYS_WHAT_IT_DOES = re.compile(r"--force(, which | would remove|: both make| removes | with --shard: every shard )")


def messages(path: str) -> Iterator[str]:
    """The texts of a module but its docstrings, with {} for values."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    # A text that is a statement is a docstring; parts of a text with values are not texts of their own.
    parts = {id(child) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for child in node.values}
    parts |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in parts:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_messages_about_force_say_what_it_does():
    texts = [(path, text) for path in SOURCES.values() for text in messages(path) if "--force" in text]
    recommendations = [(path, text) for path, text in texts if text != "--force"]
    assert len(recommendations) > 10
    assert [(path, text) for path, text in recommendations if not SAYS_WHAT_IT_DOES.search(text)] == []
