"""The fields of each layer that is regularised: named by the user, else by the automatic rule."""

from collections.abc import Collection, Mapping

from torch import nn

from mar_pipeline.equivariance.fields import Fields, automatic_fields, check_fields
from mar_pipeline.equivariance.selection import check_keys, lookup


class LayerFields:
    """Fields of layers by name; what the layers tell of themselves is checked at once, the rest when they run.

    Args:
        layers: the layers by name.
        named: fields under a layer's name or a pattern.
        images: names of layers whose output is an image: all channels trivial.
        group_order: t.
        strict: refuse channels that do not divide into regular groups.

    Raises:
        ValueError: names, fields or a group order that fit no layer.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        named: Mapping[str, Fields],
        images: Collection[str],
        group_order: int,
        strict: bool,
    ) -> None:
        self._named, self._images = dict(named), set(images)
        self._group_order, self._strict = group_order, strict
        self._known: dict[str, Fields] = {}
        check_keys(named, layers, "fields")
        channels = {name: getattr(layer, "out_channels", None) for name, layer in layers.items()}
        for name, count in channels.items():
            if isinstance(count, int):
                self.of(name, count)
        automatic = [count for name, count in channels.items() if name not in self._images]
        if not named and automatic and all(isinstance(count, int) and count < group_order for count in automatic):
            raise ValueError(
                f"group_order {group_order} fits no layer: all {len(automatic)} have fewer channels; "
                "use a smaller group order or more channels, or name the fields"
            )

    def of(self, name: str, channels: int) -> Fields:
        """Return fields of the output of a layer.

        Args:
            name: of the layer.
            channels: of its output.

        Raises:
            ValueError: they do not describe so many channels.
        """
        if name not in self._known:
            try:
                fields = lookup(self._named, name)
                if fields is None:
                    fields = automatic_fields(channels, self._group_order, name in self._images, self._strict)
                check_fields(fields, channels, self._group_order)
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from error
            self._known[name] = fields
        return self._known[name]

    def add(self, name: str, fields: Fields) -> None:
        """Add the fields of what is tapped under a name."""
        self._known[name] = fields
