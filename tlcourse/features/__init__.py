"""Frozen work, done once for each image: features, linear probes on them, and the activations of a frozen part."""

from tlcourse.features.cut import Cut, split_frozen
from tlcourse.features.domain_distance import depth_profile, domain_gap, stage_features
from tlcourse.features.extraction import Features, FeatureSplits, extract, extract_splits
from tlcourse.features.frozen_part import Precomputed, precompute
from tlcourse.features.probe import Probe, fit_probe, put_into_head

__all__ = ["FeatureSplits", "Features", "extract", "extract_splits"]
__all__ += ["Probe", "fit_probe", "put_into_head"]
__all__ += ["Cut", "Precomputed", "precompute", "split_frozen"]
__all__ += ["depth_profile", "domain_gap", "stage_features"]
