"""What the commands about the past share: which journals, which records, times as people write them, tables."""
