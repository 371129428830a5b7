"""docs/configuration.md is the page that the settings make."""

from __future__ import annotations

from pathlib import Path

from modetrain.config import reference
from modetrain.keys import KEYS

PAGE = Path(__file__).parents[2] / "docs/configuration.md"


def test_the_reference_page_is_current():
    assert PAGE.read_text() == reference.page(), "python -m modetrain.config.reference > docs/configuration.md"


def test_it_has_every_key_once():
    text = reference.page()
    assert [key for key in KEYS if text.count(f"| `{key}` |") != 1] == []
