"""Weights by name: an existing folder, a name of the zoo, or a repository of a model hub."""

from defectgen.hub.card import CardFacts, check_evaluation, model_card
from defectgen.hub.names import HubSource, ZooEntry, zoo_entry
from defectgen.hub.options import HubOptions
from defectgen.hub.resolve import Resolved, fetched, resolved
from defectgen.hub.upload import check_push, check_seen, push

__all__ = [
    "CardFacts",
    "HubOptions",
    "HubSource",
    "Resolved",
    "ZooEntry",
    "check_evaluation",
    "check_push",
    "check_seen",
    "fetched",
    "model_card",
    "push",
    "resolved",
    "zoo_entry",
]
