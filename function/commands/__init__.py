"""The command line, one module a verb, with two functions.

``main(arguments)`` parses, calls, prints, and returns the exit code; ``parser()`` returns the `Parser` of its options.
"""

from __future__ import annotations

__all__ = ["COMMANDS"]

# In the order of the usage text. A module is imported when its command is called: none needs what another needs.
COMMANDS = {
    "serve": "receive reviews and write the journal (what the container image runs)",
    "show": "print the journal's records: filter, count, follow",
    "forward": "send the journal to AUDIT_FORWARD_TO; --check sends one test record to each sink",
    "watch": "record changes of webhook configurations and admission policies; send canaries",
    "doctor": "check an installation: settings, volume, certificate, webhook, sinks, a canary; --kubectl from outside",
    "settings": "print every setting: value in force, default, meaning",
    "clusters": "add, rotate, show, remove, list, check: the clusters of a central endpoint",
    "policy": "check a policy file, and count what each rule keeps of recorded reviews",
    "reconcile": "compare the journal with the API server's own audit log",
    "verify": "is the journal what was signed? --anchors compares it with what was kept elsewhere",
    "prove": "prove one review's entry to somebody who has nothing else",
    "checkpoint": "print the newest signed checkpoint of the journal, to be kept elsewhere",
    "keys": "make a key that seals the journal, or show its verifier keys",
    "history": "every change of one object: when, by whom, what",
    "at": "objects as they were at a time, as YAML",
    "blame": "each field of an object with who set it last, and when",
    "diff": "what differs between two times, object by object, and who did it",
    "gaps": "where the journal contradicts itself: changes that are not in it",
    "who": "what an account did, to what, when; --new: what it had never done before",
    "report": "what happened in some hours, as one HTML file for a browser",
    "render": "convert records to the other format",
    "completion": "print a completion script for bash or zsh",
}
