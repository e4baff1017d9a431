"""Options of commands: settings dataclasses read from YAML files and the command line, and a parser for the others."""

from mar_pipeline.options.command import read_settings
from mar_pipeline.options.files import settings_files, value_of

__all__ = ["read_settings", "settings_files", "value_of"]
