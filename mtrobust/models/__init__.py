"""Encoders with capture and resume-from-layer, and the shared encoder with one head per task."""
