"""The page for security officers says what the corpus and the commands say."""

from tests.attacks import page
from tests.conftest import ROOT


def test_the_page_is_what_make_docs_would_write() -> None:
    text = (ROOT / "docs" / "reference" / "security.md").read_text()
    assert page.filled(text) == text
