"""Training curves: the numbers first, then an image, a page or a chart in the terminal."""
