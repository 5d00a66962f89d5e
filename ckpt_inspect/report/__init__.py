"""Report objects to strings. Words are chosen here; nothing is read and nothing decided."""
