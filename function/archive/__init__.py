"""The archive: closed segments, compressed, in object storage or in a directory, for years. docs/scale.md is the page.

Written by the forwarder's process, read by commands. No process that answers reviews imports it.
"""
