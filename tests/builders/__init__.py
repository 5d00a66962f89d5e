"""Writers of the true file formats, without torch: what the tests read, they make here."""
