"""sslbook: models, losses, views, metrics and runs behind an executable book of self-supervised learning."""

__version__ = "0.1.0"
