"""Tests; a package so that `tests.` wins over any module of that name elsewhere."""
