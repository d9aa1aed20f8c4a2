"""The command line, one module a verb: ``main(arguments)`` parses, calls, prints, and returns the exit code."""

from __future__ import annotations

__all__ = ["COMMANDS"]

# In the order of the usage text. A module is imported when its command is called: none needs what another needs.
COMMANDS = {
    "serve": "serve reviews (the container image's command)",
    "show": "the journal for a person: --follow, --since, --user, --verb, --resource ... (--help)",
    "forward": "forward the journal to AUDIT_FORWARD_TO; --once: all that is there; --check: one test record to each",
    "watch": "record changes of webhook configurations and admission policies; send canaries; --once: compare",
    "settings": "print every setting: value in force, default, meaning",
    "clusters": "add, rotate, show, remove, list, check: the clusters of a central endpoint, their tokens and webhooks",
    "policy": "check FILE: validate a policy; with --reviews, what each rule keeps and drops",
    "reconcile": "compare the journal with the API server's own audit log: what each has that the other lacks",
    "render": "convert records to another format: render --format event < segment",
}
