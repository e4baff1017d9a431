"""Small classifiers whose head does not see rotations: ordinary convolutions, and strictly equivariant ones.

Both have the same widths and the same head. Of the strict one a quarter turn of the image leaves the answer as it is,
whatever its weights; of the ordinary one it does only as far as its convolutions have learned to be equivariant, of
which EQ-Reg takes care. T. S. Cohen, M. Welling, "Group equivariant convolutional networks", ICML 2016.
"""

from collections.abc import Callable

from torch import Tensor, nn

from mar_pipeline.equivariance import GroupBatchNorm2d, GroupPool, StrictConv2d
from mar_pipeline.equivariance.strict import StrictField
from mar_pipeline.equivariance.weight_space import Ends
from mar_pipeline.networks.blocks import check_sizes
from mar_pipeline.networks.field_patterns import chain_fields
from simulation.errors import InputError

_WIDENING = (1, 2, 2)
"""Groups of each convolution, in multiples of those of the first one; between them the size is halved."""

Layer = Callable[[StrictField, StrictField], nn.Module]


class _Classifier(nn.Module):
    """Three convolutions, each with norm and ReLU, and two 2x2 poolings between them; mean over the image; classes.

        logits = W mean over pixels (max over orientations of features) + b

    The pooling windows lie symmetrically in images whose side is a multiple of 4, so that nothing but the convolutions
    decides how equivariant the network is.

    Args:
        groups: regular fields of the first convolution.
        classes: number of classes.
        convolution: (field before, field after) -> layer.
        norm: groups -> layer.
    """

    task = "classification"
    inputs = ("image",)

    def __init__(self, groups: int, classes: int, convolution: Layer, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before: StrictField = ("trivial", 1)
        for number, widening in enumerate(_WIDENING):
            after: StrictField = ("regular", groups * widening)
            pooling = [nn.MaxPool2d(2)] if number else []
            layers += [*pooling, convolution(before, after), norm(after[1]), nn.ReLU()]
            before = after
        self.features = nn.Sequential(*layers)
        self.pool = GroupPool()
        self.classes = nn.Linear(before[1], classes)

    def forward(self, image: Tensor) -> Tensor:
        """Classify a batch.

        Args:
            image: Float[Tensor, "batch 1 side side"], values about 0 to 1; the side a multiple of 4.

        Returns:
            Logits, Float[Tensor, "batch classes"].

        Raises:
            InputError: images of another size.
        """
        height, width = image.shape[-2:]
        if height % 4 or width % 4:
            raise InputError(
                f"classifier: got images of {height} x {width} pixels, expected sides that are multiples of 4 (the "
                "size is halved twice); pad them"
            )
        return self.classes(self.pool(self.features(image)).mean(dim=(-2, -1)))


class RotationCNN(_Classifier):
    """Ordinary convolutions and batch norms; 4 consecutive channels are meant to be the orientations of one feature.

    Args:
        groups: features of the first convolution, of 4 channels each; the others have twice as many.
        kernel_size: odd width of the kernels in pixels.
        classes: number of classes.

    Raises:
        UsageError: a size below 1, or an even kernel.
    """

    def __init__(self, groups: int = 8, kernel_size: int = 5, classes: int = 10) -> None:
        check_sizes(kernel_size, groups=groups, classes=classes)

        def convolution(before: StrictField, after: StrictField) -> nn.Module:
            return nn.Conv2d(_channels(before), _channels(after), kernel_size, padding=kernel_size // 2)

        super().__init__(groups, classes, convolution, lambda count: nn.BatchNorm2d(4 * count))

    def typed_ends(self, group_order: int) -> tuple[dict[str, Ends], tuple[str, ...]]:
        """Return what a rotation does to the channels before and after each convolution: see `networks.typed_fields`.

        Args:
            group_order: t.

        Returns:
            Name of a convolution -> fields of its input and its output; no layer is left out.
        """
        return chain_fields(self.features, "features", group_order), ()


class StrictRotationCNN(_Classifier):
    """The same with rotated copies of each filter: exactly invariant under quarter turns.

    Args:
        groups: see `RotationCNN`; as many channels, with a fourth of the weights.
        kernel_size: odd width of the kernels in pixels.
        classes: number of classes.

    Raises:
        UsageError: a size below 1, or an even kernel.
    """

    def __init__(self, groups: int = 8, kernel_size: int = 5, classes: int = 10) -> None:
        check_sizes(kernel_size, groups=groups, classes=classes)
        super().__init__(
            groups, classes, lambda before, after: StrictConv2d(before, after, kernel_size), GroupBatchNorm2d
        )


def _channels(field: StrictField) -> int:
    kind, count = field
    return 4 * count if kind == "regular" else count
