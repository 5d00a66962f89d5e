"""Bytes to structure: file formats, and nothing about training. No module here executes or imports what it reads."""
