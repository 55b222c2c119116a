"""The command line: ``innerloop train``, ``evaluate``, ``recipes``, ``quickstart`` and ``bench``."""
