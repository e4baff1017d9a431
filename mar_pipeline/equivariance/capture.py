"""Forward hooks that keep what chosen layers of an unmodified network answer."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Capture:
    """Keeps the outputs of layers between `start` and `stop`, and nothing at other times.

    The hooks stay on the layers, and read one flag while they keep nothing. State-dict keys do not change. An output is
    copied at once, since an activation after it may write in place. Nothing else is computed here: a recomputation in
    the backward pass finds the hooks stopped, and must meet the same saved tensors.

    Args:
        modules: the layers by name.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = dict(modules)
        self._handles: list[Any] = []
        self._outputs: dict[str, list[Tensor]] = {}
        self._active = False
        self._needs_grad = False

    @property
    def attached(self) -> bool:
        """Whether the hooks are on the layers."""
        return bool(self._handles) or not self.modules

    def attach(self) -> None:
        """Put the hooks on; twice is once."""
        if not self._handles:
            self._handles = [
                layer.register_forward_hook(self._hook(name, layer)) for name, layer in self.modules.items()
            ]

    def detach(self) -> None:
        """Take the hooks off, and drops what was kept."""
        self.stop()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def start(self) -> None:
        """Keep from now on. If gradients are on, every layer kept must run with them."""
        self._outputs = {}
        self._needs_grad = torch.is_grad_enabled()
        self._active = True

    def stop(self) -> dict[str, list[Tensor]]:
        """End it.

        Returns:
            The outputs by name, one for each time that the layer was called.
        """
        outputs, self._outputs, self._active = self._outputs, {}, False
        return outputs

    def keep(self, name: str, output: Any) -> None:
        """Keep an output, if started.

        Raises:
            ValueError: not a tensor.
            RuntimeError: it was made without gradients, as inside reentrant checkpointing.
        """
        if not self._active:
            return
        if not isinstance(output, Tensor):
            raise ValueError(
                f"layer {name!r} answers with a {type(output).__name__}, expected a tensor; exclude this layer"
            )
        if self._needs_grad and not torch.is_grad_enabled():
            raise RuntimeError(
                f"layer {name!r} ran without gradients, so its penalty would teach nothing; with reentrant "
                "checkpointing pass use_reentrant=False, otherwise exclude the layers that run under no_grad"
            )
        self._outputs.setdefault(name, []).append(output.clone())

    def _hook(self, name: str, owner: nn.Module) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if module is owner:  # a deep copy of the network carries the hook along
                self.keep(name, output)

        return hook
