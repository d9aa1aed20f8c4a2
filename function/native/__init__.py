"""The API server's own audit log: its readers, and what joins it to our records (pure).

`reading.read` takes bytes of the log, whoever wrapped it, and returns `event.Event`. `acts` and `claims` say what an
Event and a record have in common, `pairing` who belongs to whom, `outcomes` why a request has no record,
`webhook_rules` whether our webhook was to be called, and `enrichment` makes one Event of both.
"""
