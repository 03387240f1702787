"""affine: a reproducible pipeline that trains, scores and publishes language-model agents."""

__version__ = "0.1.0"
