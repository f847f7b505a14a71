"""What is wrong with settings, in words that name the setting."""

import os
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from pydantic import ValidationError

from service.settings import (
    CONFIG_VARIABLE,
    Settings,
    allowed,
    config_path,
    environment_name,
    origin_of,
)

PREFIX = "TANDEM_"

CLIENT_VARIABLES = ("TANDEM_URL", "TANDEM_API_KEY")
"""Variables of `tandem predict` and `tandem video`, which are not settings of the service."""

MIN_SIMILARITY = 0.8
"""Share of a name's letters that must be those of a known one to call it misspelled."""

EXPECTED = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number, and not as large as this",
    "float_parsing": "must be a number",
    "greater_than": "is out of range",
    "greater_than_equal": "is out of range",
    "less_than": "is out of range",
    "less_than_equal": "is out of range",
    "literal_error": "is not one of the allowed values",
    "string_pattern_mismatch": "does not have the allowed form",
    "finite_number": "must be a finite number",
    "tuple_type": "must be a list of texts",
    "string_type": "must be text",
}
"""Pydantic's types of errors in our own words."""


def format_errors(error: ValidationError) -> Iterator[str]:
    """Describe each invalid setting: its name, its value, the reason, and the allowed values."""
    for details in error.errors():
        name = str(details["loc"][0])
        field = Settings.model_fields.get(name)
        if field is None:
            yield f'unknown setting "{name}" in {config_path()}{_suggestion(name, Settings.model_fields)}'
            continue
        shown = repr(details["input"]) if field.repr else "set"
        reason = str(details.get("ctx", {}).get("error", "")) or EXPECTED.get(details["type"], "is not allowed")
        hint = f" (allowed: {allowed(field)})" if allowed(field) else ""
        where = f", in {config_path()}" if origin_of(name, None) == str(config_path()) else ""
        yield f"{environment_name(name)} is {shown}: {reason}{hint}{where}"


def unknown_variables() -> tuple[list[str], list[str]]:
    """Describe the variables TANDEM_* that nothing reads: those that are misspelled settings, and all others.

    A misspelled name must stop the start: what it should have set, such as keys, would be missing without a word.
    Others may come from elsewhere, such as the variables that Kubernetes sets for a service named "tandem".
    """
    known = [*map(environment_name, Settings.model_fields), CONFIG_VARIABLE, *CLIENT_VARIABLES]
    misspelled, others = [], []
    for name in sorted(os.environ):
        if not name.upper().startswith(PREFIX) or name.upper() in known:
            continue
        suggestion = _suggestion(name.upper().removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known])
        if suggestion.startswith("; did"):
            misspelled.append(f"unknown setting {name}{suggestion}")
        else:
            others.append(f"unknown setting {name} is ignored{suggestion}")
    return misspelled, others


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1, cutoff=MIN_SIMILARITY)
    if not near:
        return "; `tandem settings` lists all settings"
    return f"; did you mean {PREFIX if name.isupper() else ''}{near[0]}?"
