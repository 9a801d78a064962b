"""Traces of one process: spans are recorded here, and sent to a collector by OTLP."""
