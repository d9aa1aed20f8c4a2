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
    "verify": "is the journal what was signed? --key VKEY; --anchors: compare with what was kept elsewhere; --proof",
    "prove": "prove one review's entry: a .tlog-proof and the line, for somebody who has nothing else",
    "checkpoint": "print the newest signed checkpoint of the journal, to be kept elsewhere",
    "keys": "new NAME --out FILE: a key that seals the journal; show FILE: its verifier keys",
    "history": "KIND/NAME: every change of one object: when, by whom, what",
    "at": "TIME KIND/NAME, -n NS or --all: objects as they were then, as YAML; --restore: to be applied again",
    "blame": "KIND/NAME: each field of an object with who set it last, and when",
    "diff": "FROM TO: what differs between two times, object by object, and who did it",
    "gaps": "where the journal contradicts itself: changes that are not in it",
    "who": "USER: what an account did, to what, when; --new: what it had never done before",
    "render": "convert records to another format: render --format event < segment",
}
