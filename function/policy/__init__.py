"""``audit.k8s.io/v1`` Policy: which reviews are recorded, and how much of each.

Loading (`load`, strict and slow) is apart from matching (`Matcher`, called for every review), as in the API server.
"""

from __future__ import annotations

from .loading import PolicyError, default, default_text, load
from .matching import Decision, Matcher
from .objects import apply, reduced
from .policy import GroupResources, Level, Policy, Rule, Stage

__all__ = [
    "Decision",
    "GroupResources",
    "Level",
    "Matcher",
    "Policy",
    "PolicyError",
    "Rule",
    "Stage",
    "apply",
    "default",
    "default_text",
    "load",
    "reduced",
]
