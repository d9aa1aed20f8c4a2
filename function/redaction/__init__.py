"""Which fields of which resources are blanked before anything is written: rules, and the redactor that obeys them.

`load` and `default_rules` give `Rules`; ``Redactor(rules).redact(review)`` gives the review that may be recorded.
``docs/redaction.md`` is the manual of the rules file. Pure, but for reading the built-in file of this package.
"""

from .redactor import DIGEST_KEY_BYTES_MIN, REDACTED, RedactionFailed, Redactor
from .rules import Rule, Rules, RulesError, default_rules, load

__all__ = [
    "DIGEST_KEY_BYTES_MIN",
    "REDACTED",
    "RedactionFailed",
    "Redactor",
    "Rule",
    "Rules",
    "RulesError",
    "default_rules",
    "load",
]
