"""Rotation equivariance: typed fields and their action, a regulariser for any network, checks and reports."""

from mar_pipeline.equivariance.fields import act, automatic_fields
from mar_pipeline.equivariance.regularizer import EquivarianceRegularizer
from mar_pipeline.equivariance.report import equivariance_report
from mar_pipeline.equivariance.strict import (
    FourierConv2d,
    GroupBatchNorm2d,
    GroupPool,
    StrictConv2d,
    StrictImageNetwork,
)
from mar_pipeline.equivariance.structure import check_structure
from mar_pipeline.equivariance.weight_space import project_to_equivariant, weight_penalty

__all__ = [
    "EquivarianceRegularizer",
    "FourierConv2d",
    "GroupBatchNorm2d",
    "GroupPool",
    "StrictConv2d",
    "StrictImageNetwork",
    "act",
    "automatic_fields",
    "check_structure",
    "equivariance_report",
    "project_to_equivariant",
    "weight_penalty",
]
