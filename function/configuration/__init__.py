"""What the operator says: environment variables (`settings`), and mounted files that are read again (`files`)."""
