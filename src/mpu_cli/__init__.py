"""MPU, Multiple Perturbed Copies Unlearning (arXiv 2602.23798), between two distrusting parties."""

__version__ = "0.1.0"
