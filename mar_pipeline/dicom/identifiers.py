"""Unique identifiers that follow from what went in, and the names that this program signs with."""

import json
import uuid

MANUFACTURER = "mar-pipeline"
"""Manufacturer of every object that is written here; by it the program knows its own output again."""
_NAMESPACE = uuid.UUID("b5a4d2a6-6e4e-5d0c-9c57-0f6f7b1f2a11")


def derived_uid(*parts: str) -> str:
    """Return a UID that is the same for the same parts, in the same order, and another for any others.

    Args:
        parts: texts; where one ends and the next begins counts.

    Returns:
        `2.25.` and the number of a UUID of version 5 (PS3.5 B.2): at most 44 characters.
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(parts)).int}"


IMPLEMENTATION_CLASS_UID = derived_uid("implementation class")
IMPLEMENTATION_VERSION_NAME = "MAR_PIPELINE"
