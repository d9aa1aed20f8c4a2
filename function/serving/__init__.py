"""Answering reviews: HTTP, routes, limits, and the one way from a body to a recorded answer or a refusal."""
