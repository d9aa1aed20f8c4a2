"""From the journal to logging backends: at least once, in order within a segment, beside the process that answers.

Knows the journal's reader and nothing of the endpoint. docs/forwarding.md is the manual; `forwarder.Forwarder` is
the verb; each module of ``sinks`` speaks to one kind of backend.
"""
