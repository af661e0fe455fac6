"""Words of the command line and of scenarios: values, `name=value` pairs, flows with options."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mktopt.errors import MktoptError, unknown_name


def parse_value(text: str) -> Any:
    """A word as what it looks like: true/false, a whole number, a number, else text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_pairs(words: Iterable[str], what: str) -> dict[str, Any]:
    """`name=value` words as a dict; raises MktoptError for a word without `=`."""
    pairs: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise MktoptError(f"{what}: {word!r} is not name=value; write for example exact=true")
        pairs[name.strip().replace("-", "_")] = parse_value(value.strip())
    return pairs


def parse_flow(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a flow written as `name` or `name:option=value,option=value`."""
    name, colon, rest = text.partition(":")
    return name, parse_pairs(rest.split(","), f"option of flow '{name}'") if colon else {}


def parse_words(words: Iterable[str], known: Iterable[str]) -> tuple[list[str], dict[str, Any]]:
    """Plain words, and `--name value` or `--name=value` pairs of a mechanism, out of what no declared option took.

    known: the declared options, to which a misspelt name is compared when a mechanism does not have it either.
    """
    plain: list[str] = []
    options: dict[str, Any] = {}
    pending: str | None = None
    for word in words:
        if word.startswith("--"):
            if pending is not None:
                options[pending] = True
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            pending = None if equals else name
            if equals:
                options[name] = parse_value(value)
        elif pending is not None:
            options[pending], pending = parse_value(word), None
        elif word.startswith("-") and len(word) > 1:
            raise unknown_name("option", word, known)
        else:
            plain.append(word)
    if pending is not None:
        options[pending] = True
    return plain, options
