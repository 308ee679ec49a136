"""Augmentation for the discriminators: ADA with switches, one cap, and masks that move along."""

from defectgen.augment.pipe import AdaptiveProbability, AugmentPipe
from defectgen.augment.policy import POLICIES, AugmentPolicy, measure_policy

__all__ = ["POLICIES", "AdaptiveProbability", "AugmentPipe", "AugmentPolicy", "measure_policy"]
