"""One module per kind of file a run leaves behind: a source in, typed facts with faults out."""
