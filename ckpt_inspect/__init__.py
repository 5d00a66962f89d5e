"""ckpt-inspect: the truth about a fine-tuning run's output directory, without executing a byte of it."""

__version__ = "0.1.0"
