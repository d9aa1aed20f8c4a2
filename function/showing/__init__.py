"""`python -m function show`: the journal for a person at a terminal, or its lines for a program."""
