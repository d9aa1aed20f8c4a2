"""Watching what admission never shows: webhook configurations, admission policies, and whether the audit is alive.

No webhook is called for the objects by which one can be switched off. This room follows them through the API server's
watch, and records each change; compares our own webhook with what it should be; and sends canaries through the whole
way of a review. It changes nothing in the cluster. docs/blind-spots.md says what that closes, and what remains.
"""
