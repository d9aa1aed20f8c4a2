"""The clusters of a central endpoint: their tokens, and the webhook configuration each applies."""
