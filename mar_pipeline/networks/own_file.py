"""A network from a file of one's own: `./mynet.py:MyNet`."""

import importlib.util
import sys
from pathlib import Path

from torch import nn

from simulation.errors import UsageError
from simulation.files import sha256_of

_SEPARATOR = ".py:"


def is_own_file(name: str) -> bool:
    """Return whether a network's name is a file and a class in it."""
    return _SEPARATOR in name


def file_of(name: str) -> Path:
    """Return the file of `FILE.py:CLASS`, as an absolute path."""
    return Path(name.rpartition(":")[0]).resolve()


def absolute_name(name: str) -> str:
    """Return `FILE.py:CLASS` with the file's absolute path; any other name as it is."""
    return f"{file_of(name)}:{name.rpartition(':')[2]}" if is_own_file(name) else name


def load_class(name: str) -> type[nn.Module]:
    """Run a file and return the network's class in it.

    Args:
        name: `FILE.py:CLASS`, the file relative to where the command runs.

    Raises:
        UsageError: the file is missing or fails, or has no such class, or the class is no `torch.nn.Module`.
    """
    file, class_name = file_of(name), name.rpartition(":")[2]
    if not file.is_file():
        raise UsageError(f"network {name}: there is no file {file}; name it as FILE.py:CLASS")
    module_name = f"_network_{sha256_of(file)[:16]}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, file)
        if spec is None or spec.loader is None:
            raise UsageError(f"network {name}: {file} cannot be loaded as Python; name it as FILE.py:CLASS")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # where dataclasses and pickle look a class's module up
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever the user's file raises
            del sys.modules[module_name]
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UsageError(f"network {name}: {file} cannot be run ({reason}); mend it") from error
    found = getattr(module, class_name, None)
    if found is None:
        classes = [key for key, own in vars(module).items() if _is_network(own) and own.__module__ == module_name]
        raise UsageError(
            f"network {name}: {file} has no {class_name or 'class named after the colon'}; it has the networks "
            f"{', '.join(classes) or '(none)'}"
        )
    if not _is_network(found):
        raise UsageError(f"network {name}: {class_name} is no torch.nn.Module; derive it from that class")
    return found


def _is_network(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, nn.Module)
